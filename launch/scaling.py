"""What the scaler tells: how a queue stands now, what was decided and why, and what became of its instances.

Readers ignore keys that they do not know. Times are aware and in UTC.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from launch.core.capacity import Amount

DECISIONS_KEPT = 200
"""How many past decisions are kept of each queue."""
LISTED_AT_MOST = 500
"""Of how many instances a report tells one by one: it has to fit into one message, once a second."""
RENEWED_EVERY_S = 30.0
"""A scaler that looks at its queue writes its report at least this often, changed or not."""


class InstanceStage(StrEnum):
    """How far an instance is on its way."""

    INTENT = "intent"
    """Asked for, or about to be."""
    BOOTING = "booting"
    READY = "ready"
    """Its agent is there."""
    DRAINING = "draining"
    ENDING = "ending"
    LOST = "lost"
    """Its agent was there and is not any more."""


class InstanceReport(BaseModel):
    """One instance as it stands."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    agent_id: str | None = None
    stage: InstanceStage
    since: datetime
    """When it was launched."""
    instance_type: str | None = None
    market: str = ""
    zone: str | None = None
    capacity: Amount
    jobs: int = 0
    """How many jobs it holds."""
    registered_at: datetime | None = None
    """When its agent was first there."""
    busy_s: dict[str, float] = {}
    """As in `InstanceEnd`, up to the report's time."""


class InstanceGroup(BaseModel):
    """Instances that are alike, where there are too many to tell of each."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: InstanceStage
    instance_type: str | None = None
    market: str = ""
    count: int
    jobs: int = 0
    age_s: float
    """How long they have existed, added up, up to the report's time."""
    busy_s: dict[str, float] = {}


class BootTrouble(BaseModel):
    """Launches that came to nothing, one after the other."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    failures: int
    why: str = ""
    """The last one's story."""
    retry_at: datetime | None = None


class ScalingReport(BaseModel):
    """One queue as its scaler saw it last (KV `scaler`, key `report.<queue>`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    queue: str
    at: datetime
    leader: str
    """Which scaler wrote this."""
    reasons: tuple[str, ...] = ()
    """The latest plan's, in sentences."""
    instances: tuple[InstanceReport, ...] = ()
    """The first `LISTED_AT_MOST`, those that are not ready before the others."""
    more: tuple[InstanceGroup, ...] = ()
    """The others."""
    max_instances: int | None = None
    """The most that there may be, as the scaler understood the queue; None where it starts none."""
    boot_s: float | None = None
    """What a boot usually lasts (median), in seconds; None before any was seen."""
    boot_p99_s: float | None = None
    next_look_at: datetime | None = None
    trouble: str | None = None
    """What stops it from scaling: the provider's own words, and what to do."""
    stopped: bool = False
    """That scaler has stopped: nobody looks any more, until another report."""
    boots: BootTrouble | None = None
    """Launches that never registered, if the latest ones did not."""

    @property
    def count(self) -> int:
        """How many instances there are, those that are only asked for included."""
        return len(self.instances) + sum(group.count for group in self.more)


class DecisionReport(BaseModel):
    """One decision (stream `scaling`, the last 200 of each queue)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    leader: str
    actions: tuple[str, ...] = ()
    """In words: `launch 2`, `stop i-0ab`."""
    reasons: tuple[str, ...] = ()


class InstanceEnd(BaseModel):
    """One instance's whole life, written once it is gone: what `launch queue cost` adds up."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    agent_id: str | None = None
    instance_type: str | None = None
    market: str = ""
    zone: str | None = None
    capacity: Amount
    launched_at: datetime
    registered_at: datetime | None = None
    ended_at: datetime
    busy_s: dict[str, float] = {}
    """Instance-seconds held, by job type: each job's largest share of any dimension, times how long.

    Never more than it existed: where the shares of its jobs exceed the whole, they are scaled down to it.
    """
    why: str = ""
    """Why it was ended."""


class Scaling(Protocol):
    """Reports of the scaler. Raises as the other parts of `launch.ports.Broker` do.

    A queue that is deleted takes its report and its decisions along; the lives of its instances stay for their time.
    """

    async def report(self, report: ScalingReport) -> None:
        """Put the queue's report in the place of the one before."""
        ...

    async def latest(self, queue: str) -> ScalingReport | None:
        """The queue's report, or None if no scaler has ever told of it. Raises `Unreadable` if it is none."""
        ...

    async def decided(self, queue: str, decision: DecisionReport) -> None:
        """Keep a decision."""
        ...

    async def decisions(self, queue: str) -> list[DecisionReport]:
        """Those that are kept, oldest first."""
        ...

    async def forget(self, queue: str) -> None:
        """Remove report and decisions: the queue is deleted. No error if there are none."""
        ...

    async def ended(self, queue: str, instance: InstanceEnd) -> None:
        """Keep an instance's life. A repeat for the same id is left out by readers."""
        ...

    async def ends(self, queue: str, since: datetime | None = None) -> list[InstanceEnd]:
        """Lives that ended since then, each once, oldest first."""
        ...
