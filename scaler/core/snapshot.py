"""What is known of one queue at one moment: the only thing, with the policy and the time, that a plan is made from.

Invariant: what could not be read is `Unknown`, never empty and never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from launch.core.capacity import Amount
from launch.presence import AgentPresence
from scaler.core.instance import Instance

EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part of the world that did not answer, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that lies in the queue and that nobody holds; `amount` is what it will hold of a worker."""

    id: str
    job_type: str
    amount: Amount
    arrived_at: datetime = EPOCH
    rank: int = 2
    """0 for the most urgent."""


@dataclass(frozen=True, slots=True)
class Running:
    """A job that a worker runs: what it holds, and since when."""

    id: str
    job_type: str
    amount: Amount
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """The pending jobs: those that were read, and how many more lie behind them."""

    jobs: tuple[PendingJob, ...] = ()
    beyond: int = 0
    paused: bool = False
    """The queue hands out nothing at the moment."""


class History(StrEnum):
    """What this scaler knows of an instance's agent."""

    NEW = "new"
    """It has not been there since the launch."""
    ADOPTED = "adopted"
    """The instance is older than this scaler, which has not seen its agent yet: it may have been there."""
    REGISTERED = "registered"
    """It has been there, or is."""


@dataclass(frozen=True, slots=True)
class Worker:
    """An instance joined with its agent; at least one of the two is there.

    No `instance`: somebody else started the agent. No `presence`: no agent has registered, or it is gone. `stale`: the
    presence is the last one known, of an agent that dropped out of sight because the broker did.
    """

    instance: Instance | None
    presence: AgentPresence | None
    history: History = History.REGISTERED
    stale: bool = False
    absent_since: datetime | None = None
    running: tuple[Running, ...] = ()
    """Those of its jobs of which a record tells."""

    @property
    def name(self) -> str:
        """For people: the agent's id."""
        if self.presence is not None:
            return self.presence.agent_id
        return self.instance.agent_id if self.instance is not None else "?"


@dataclass(frozen=True, slots=True)
class Boots:
    """How launching has gone of late: how many in a row never got an agent to register, and the last one's story."""

    failures: int = 0
    failed_at: datetime | None = None
    why: str = ""

    def failed(self, now: datetime, why: str) -> Boots:
        """One more failure."""
        return Boots(self.failures + 1, now, why)

    def retry_at(self, policy: Policy) -> datetime | None:
        """Until when nothing is launched, or None. The pause doubles with each failure in a row."""
        if self.failed_at is None or not self.failures:
            return None
        pause_s = min(policy.backoff_max_s, policy.backoff_first_s * 2.0 ** min(self.failures - 1, 30))
        return self.failed_at + timedelta(seconds=pause_s)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the queue's owner wants, and the scaler's own bounds."""

    min_instances: int
    max_instances: int
    idle_timeout_s: float
    job_types: tuple[str, ...] | None = None
    """The only types that the queue's workers take; None for any."""
    elastic: bool = True
    """Whether instances can be started at all."""
    boot_deadline_s: float = 60.0
    return_grace_s: float = 30.0
    """How long an agent that is out of sight, but may just be cut off, is expected back."""
    lost_deadline_s: float = 300.0
    backoff_first_s: float = 5.0
    backoff_max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Past:
    """What the queue's past says of its future. Everything may be empty: then nothing is foreseen."""

    durations_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Seconds that jobs of each type ran, the latest ones."""
    boots_s: tuple[float, ...] = ()
    """Seconds from launch to registration, the latest ones."""
    boot_prior_s: float = 0.0
    """What a boot is taken to last before one has been seen."""
    load: tuple[float, ...] = ()
    """Offered load as decayed sums, one a dimension of `Amount`; made by `scaler.core.forecast`."""
    load_at: datetime = EPOCH
    """When `load` was last brought up to date."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One queue at one moment. `capacity` is what an instance launched now would offer."""

    queue: str
    pending: Pending | Unknown
    workers: tuple[Worker, ...] | Unknown
    capacity: Amount | Unknown
    boots: Boots = Boots()
    past: Past = field(default_factory=Past)
    config: str = ""
    """The fingerprint of what would be launched now."""
    proven: bool = True
    """That configuration has brought up an agent, and its latest launch did."""
