"""What is known of one queue at one moment: the only thing, with the policy and the time, that a plan is made from.

Invariant: what could not be read is `Unknown`, never empty and never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


NAMED_AT_MOST = 128
"""How many of its jobs a group names."""


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """Pending jobs that are alike: of one type, one rank and one amount; oldest first."""

    job_type: str
    rank: int
    amount: Amount
    count: int
    ids: tuple[str, ...]
    """Those of the oldest, at most `NAMED_AT_MOST`."""
    oldest: datetime = EPOCH
    newest: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Pending:
    """The pending jobs: those that were read, like with like, and how many more lie behind them.

    `scaler.core.backlog.Backlog` keeps them from look to look without touching every job; `of` is for the few.
    """

    groups: tuple[PendingGroup, ...] = ()
    beyond: int = 0
    paused: bool = False
    """The queue hands out nothing at the moment."""

    @classmethod
    def of(cls, jobs: Iterable[PendingJob], beyond: int = 0, *, paused: bool = False) -> Pending:
        """The same, made of single jobs."""
        found: dict[tuple[str, int, Amount], list[PendingJob]] = {}
        for job in jobs:
            found.setdefault((job.job_type, job.rank, job.amount), []).append(job)
        groups = []
        for (job_type, rank, amount), alike in found.items():
            alike.sort(key=lambda job: job.arrived_at)
            ids = tuple(job.id for job in alike[:NAMED_AT_MOST])
            oldest, newest = alike[0].arrived_at, alike[-1].arrived_at
            groups.append(PendingGroup(job_type, rank, amount, len(alike), ids, oldest, newest))
        return cls(tuple(groups), beyond, paused)

    @property
    def count(self) -> int:
        """How many there are in all, those behind included."""
        return sum(group.count for group in self.groups) + self.beyond


class History(StrEnum):
    """What this scaler knows of an instance's agent."""

    NEW = "new"
    """It has not been there since the launch."""
    ADOPTED = "adopted"
    """The instance is older than this scaler, which has not seen its agent yet: it may have been there."""
    REGISTERED = "registered"
    """It has been there, or is."""
    DRAINED = "drained"
    """It was drained, and held nothing, when it was last seen."""


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
    intended: bool = False
    """Asked for, and not seen yet: its `instance` stands for it, with an id that no provider knows."""
    drain_asked_at: datetime | None = None
    """When its agent was last asked to drain."""

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
class Tuning:
    """How a plan weighs cost against waiting. `LOCAL` and `AWS` are what fits those providers."""

    boot_prior_s: float = 2.0
    """What a boot is taken to last before one has been seen."""
    boot_deadline_s: float = 60.0
    """Shortest time that an instance gets to register; three times the 99th percentile of boots, if that is longer."""
    wait_s: float = 0.0
    """How long a job may wait as a matter of course; counts only where it is longer than a boot."""
    patience: float = 0.0
    """How many boots longer than a boot a job may wait for room that it shares with others, one after the other."""
    certainty: float = 0.5
    """A running job is expected to have ended when this share of those before it had."""
    staffing: float = 0.5
    """How many standard deviations above the load foreseen are kept."""
    tau_s: float = 0.0
    """Over which time arrivals make a forecast; 0 for none."""
    idle_factor: float = 1.0
    """An instance is kept idle for a boot and this many more, where the queue says nothing itself (less than 0: for
    less than a boot, as it is the forecast that keeps instances) ..."""
    idle_least_s: float = 60.0
    """... and at least this long."""
    last_factor: float = 1.0
    """The last instance, without which any job waits for a boot, is kept idle for a boot and this many more."""
    billed_least_s: float = 0.0
    """An instance is paid for this long, however short it lives."""


LOCAL = Tuning()
"""Processes on this machine: there in a second or two, and free."""
AWS = Tuning(
    boot_prior_s=70.0,
    boot_deadline_s=300.0,
    staffing=1.0,
    tau_s=300.0,
    idle_factor=-0.75,
    idle_least_s=15.0,
    last_factor=2.0,
    billed_least_s=60.0,
)
"""Rented machines: there in a minute or more, and paid by the second."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the queue's owner wants, and the scaler's own bounds."""

    min_instances: int
    max_instances: int
    idle_timeout_s: float | None = None
    """What the owner says; None leaves it to the boot times and to what is foreseen."""
    job_types: tuple[str, ...] | None = None
    """The only types that the queue's workers take; None for any."""
    elastic: bool = True
    """Whether instances can be started at all."""
    tuning: Tuning = LOCAL
    return_grace_s: float = 30.0
    """How long an agent that is out of sight, but may just be cut off, is expected back."""
    lost_deadline_s: float = 300.0
    drain_retry_s: float = 30.0
    """An agent that has been asked to drain, and still takes work after this long, has not heard."""
    backoff_first_s: float = 5.0
    backoff_max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Arriving:
    """How often jobs of one kind have come of late: each counts `exp(-age / tau)`, summed up as of `at`."""

    job_type: str
    amount: Amount
    weight: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Past:
    """What the queue's past says of its future. Everything may be empty: then nothing is foreseen."""

    durations_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Seconds that jobs of each type ran, the latest ones, sorted (`scaler.core.durations.Durations.view`)."""
    boots_s: Sequence[float] = ()
    """Seconds from launch to registration, the latest ones, sorted."""
    arriving: tuple[Arriving, ...] = ()
    """Made by `scaler.core.forecast.Arrivals`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One queue at one moment. `capacity` is what an instance launched now would offer."""

    queue: str
    pending: Pending | Unknown
    workers: tuple[Worker, ...] | Unknown
    capacity: Amount | Unknown
    boots: Boots = Boots()
    """How the launches of `config` have gone."""
    past: Past = field(default_factory=Past)
    config: str = ""
    """The fingerprint of what would be launched now."""
    proven: bool = True
    """That configuration has brought up an agent, and its latest launch did."""
