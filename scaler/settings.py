"""The scaler's own knobs, read once from the environment (`LAUNCH_SCALER_RESYNC_S=10`); users rarely need any."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class ScalerSettings(BaseSettings):
    """Times and bounds of the scaler's loops. All in seconds."""

    model_config = SettingsConfigDict(env_prefix="LAUNCH_SCALER_", frozen=True)

    resync_s: Seconds = 30.0
    """Look again after this long even if nothing was heard."""
    settle_s: Annotated[float, Field(ge=0)] = 0.1
    """Looks are at least this far apart, so a burst of submits costs a few looks. The first is immediate."""
    call_timeout_s: Seconds = 30.0
    """Longest wait for a provider's answer."""
    boot_deadline_s: Seconds | None = None
    """An instance that has not registered after this long is ended. Unset: by provider, and by how long boots last."""
    lost_deadline_s: Seconds = 300.0
    """An instance that was registered, and has been silent for this long, is asked to leave."""
    backoff_first_s: Seconds = 5.0
    """Pause after a first instance that never registered; it doubles with each further one."""
    backoff_max_s: Seconds = 300.0
    """Longest such pause."""
    force_timeout_s: Seconds = 15.0
    """How long the second stage of a stop waits."""
    lease_ttl_s: Annotated[float, Field(ge=1)] = 5.0
    """How long the leadership of a scaler that is not heard of lasts; whole seconds."""
    lease_renew_s: Seconds = 1.5
    """How often a leader renews it, and a follower asks for it."""
    intent_hold_s: Annotated[float, Field(ge=0)] = 30.0
    """A launch stays noted for this long after the provider's answer: its listing may lag behind."""
    intent_give_up_s: Seconds = 900.0
    """A launch that the provider never answered is taken to have come to nothing after this long."""
    store_every_s: Annotated[float, Field(ge=0)] = 30.0
    """How often, at most, the durations of jobs are stored."""
    stops_at_once: Annotated[int, Field(ge=1)] = 16
    """How many instances are being ended at a time."""
    peek_max: Annotated[int, Field(ge=1)] = 4096
    """Most messages read of a queue in one look."""
    decisions_kept: Annotated[int, Field(ge=1)] = 200
    """Past decisions kept for each queue."""
