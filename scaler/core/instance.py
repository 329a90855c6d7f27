"""One instance as its provider tells of it: what exists, whatever anybody has planned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from launch.core.capacity import Amount


class InstanceState(StrEnum):
    """How far an instance is, from the provider's side; whether its agent is ready is for the agent to say."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """Asked to end; still there, and still paid for."""


class StopMode(StrEnum):
    """How an instance is ended."""

    DRAIN = "drain"
    """Its agent takes no new work, finishes what it holds and leaves; the provider never cuts that short."""
    KILL = "kill"
    """It has no agent that works: asked first, then ended."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A worker that a provider started (or found, started by an earlier scaler).

    `id` is the provider's own name for it, `agent_id` the name under which its agent registers. `capacity` is what it
    was started with, so a later change of the queue's spec doesn't change it.
    """

    id: str
    agent_id: str
    launched_at: datetime
    state: InstanceState
    capacity: Amount
    instance_type: str | None = None
    """The provider's word for its size, such as `g4dn.xlarge`."""
    market: str = ""
    """`on-demand` or `spot`, where the provider tells the two apart."""
    zone: str | None = None
    config: str = ""
    """The fingerprint of the launch configuration that it was started from; empty if that is not known."""
    intent: str | None = None
    """The id of the intent that it was started for."""
