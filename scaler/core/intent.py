"""What was decided to be launched, written down before the provider is asked: memory that no crash takes away."""

from __future__ import annotations

import hashlib
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from launch.core.capacity import Amount


class Intent(BaseModel):
    """One call for instances. Open until its instances have been seen, or the provider has refused.

    Replayed, it sends the very same request under the very same token, so it never starts more than it asked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    queue: str
    count: int
    created_at: datetime
    config: str
    """Fingerprint of the launch configuration."""
    capacity: Amount
    """Of each of the instances."""
    request: str
    """The provider's own request, complete, as JSON; opaque to everybody else."""
    note: str = ""
    """For people: what is asked for, such as `g4dn.xlarge spot in us-east-1a`."""
    epoch: int = 0
    """The leadership under which it was written."""

    @property
    def token(self) -> str:
        """The idempotency token: 64 hex digits, the same for every replay."""
        return hashlib.sha256(f"{self.queue}/{self.id}".encode()).hexdigest()


class ConfigHistory(BaseModel):
    """How launches of one configuration have gone: agents registered, failures in a row since, the last one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    registered: int = 0
    failures: int = 0
    failed_at: datetime | None = None
    why: str = ""

    @property
    def proven(self) -> bool:
        """It has brought up an agent, and its latest launch did."""
        return self.registered > 0 and self.failures == 0


class QueueState(BaseModel):
    """What a scaler leaves to its successor about one queue; written by the leader only, by compare-and-set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int = 0
    """Grows with each leader: the first thing that a new one writes, after which a stale one's writes fail."""
    leader: str = ""
    intents: tuple[Intent, ...] = ()
    configs: dict[str, ConfigHistory] = {}
    """By fingerprint; the latest few."""
    boots_s: tuple[float, ...] = ()
    """Seconds from launch to registration, the latest ones."""
    durations_s: dict[str, tuple[float, ...]] = {}
    """Seconds that jobs ran, by job type, the latest ones."""
