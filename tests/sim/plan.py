"""What a run is made of, drawn from its seed: agents, jobs, and what goes wrong when."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from launch.subjects import Priority

ACK_WAIT_S = 30.0
LEASE_S = 15.0
CPUS = 4
FAULTS_END_S = 40.0
"""No new trouble begins after this; what began may take longer to end."""


class Kind(StrEnum):
    """What can go wrong, or be asked for, at a bad moment."""

    CRASH = "crash"
    """kill -9 of an agent: its containers stay; a new process of the same id comes after a while."""
    RESTART = "restart"
    """An agent is told to leave at once, and a new process of the same id comes."""
    DRAIN = "drain"
    """An agent is told to finish and leave; a new process of the same id comes afterwards."""
    REBOOT = "reboot"
    """A machine goes down and comes back: its containers have ended with 137."""
    LOSS = "loss"
    """A machine is gone for good, with all its containers; another one takes its place."""
    CUT = "cut"
    """An agent has no connection to the broker for a while."""
    OUTAGE = "outage"
    """Nobody has a connection to the broker for a while."""
    LOST_ANSWERS = "lost answers"
    """The next requests of an agent take effect, but it does not hear so."""
    REDELIVERY = "redelivery"
    """The consumers' leader is gone: every held message is delivered again at once."""
    CLOCK = "clock"
    """The clock of a machine jumps."""
    ENGINE_RESTART = "engine restart"
    """An engine goes away for a while, and kills what runs."""
    ENGINE_AWAY = "engine away"
    """An engine goes away for a while; what runs goes on."""
    ENGINE_SLOW = "engine slow"
    """An engine takes its time for every call."""
    CONTAINER_REMOVED = "container removed"
    """Somebody removes a running container by hand."""
    CANCEL = "cancel"
    """Somebody asks to cancel a job."""


WEIGHTS = {
    Kind.CRASH: 16,
    Kind.RESTART: 8,
    Kind.DRAIN: 5,
    Kind.REBOOT: 4,
    Kind.LOSS: 7,
    Kind.CUT: 16,
    Kind.OUTAGE: 7,
    Kind.LOST_ANSWERS: 12,
    Kind.REDELIVERY: 14,
    Kind.CLOCK: 6,
    Kind.ENGINE_RESTART: 5,
    Kind.ENGINE_AWAY: 5,
    Kind.ENGINE_SLOW: 5,
    Kind.CONTAINER_REMOVED: 2,
    Kind.CANCEL: 10,
}
DISTURBING = frozenset(WEIGHTS) - {Kind.CANCEL, Kind.REDELIVERY, Kind.CLOCK}
"""May cost an attempt that was not the job's fault."""
ENGINE_TROUBLE = frozenset(
    {Kind.REBOOT, Kind.LOSS, Kind.ENGINE_RESTART, Kind.ENGINE_AWAY, Kind.ENGINE_SLOW, Kind.CONTAINER_REMOVED}
)

STEPS = (
    "records.create",
    "records.update",
    "records.get",
    "agents.get",
    "agents.put",
    "work.pull_now",
    "work.pull_wait",
    "work.ack",
    "work.nak",
    "work.progress",
    "logs.append",
    "engine.image",
    "engine.create",
    "engine.start",
    "engine.wait",
    "engine.inspect",
    "engine.signal",
    "engine.remove",
)
"""The steps of an agent's work that a fault can come just before or just after."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a fault comes: at a time, or at the `count`th `step` of its agent, before or after it takes effect."""

    at_s: float = 0.0
    step: str | None = None
    count: int = 1
    after: bool = False

    def __str__(self) -> str:
        if self.step is None:
            return f"at {self.at_s:.2f} s"
        return f"{'after' if self.after else 'before'} {self.step} no. {self.count}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: on which machine (or with which job), when, for how long, how much."""

    kind: Kind
    moment: Moment
    target: int
    for_s: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} of {self.target} {self.moment}, for {self.for_s:.2f} s ({self.amount:.2f})"


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job as it will be published, and what its containers do: `runs` are durations and exit codes by attempt."""

    at_s: float
    job_type: str
    priority: Priority
    cpu: int
    runs: tuple[tuple[float, int], ...]
    retries: int
    timeout_s: float | None
    grace_s: float
    deaf: bool
    on_term: int | None
    pulls: bool
    broken: bool
    twice: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    machines: int
    shared_engine: bool
    skews_s: tuple[float, ...]
    patience_s: float
    hold_s: float
    drain_timeout_s: float
    stop_on_lost_contact: bool
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]
    one_at_a_time: bool
    """Each agent runs one job at a time, and makes the next one's container ahead."""

    def has(self, kinds: frozenset[Kind]) -> bool:
        """Whether any fault is of these kinds."""
        return any(fault.kind in kinds for fault in self.faults)


def make_plan(seed: int) -> Plan:
    """The run of this seed."""
    rng = Random(seed)  # noqa: S311  (repeats are the point)
    machines = rng.choice((2, 2, 3))
    jobs = tuple(_job(rng) for _ in range(rng.randint(3, 6)))
    count = rng.choices((0, 1, 2, 3, 4), (5, 25, 30, 25, 15))[0]
    skewed = rng.random() < 0.15
    return Plan(
        seed=seed,
        machines=machines,
        shared_engine=rng.random() < 0.15,
        skews_s=tuple(rng.uniform(-120, 120) if skewed else 0.0 for _ in range(machines)),
        patience_s=rng.choice((0.0, 0.5, 5.0)),
        hold_s=rng.choice((2.0, 20.0)),
        drain_timeout_s=rng.choice((3.0, 30.0)),
        stop_on_lost_contact=rng.random() < 0.15,
        jobs=jobs,
        faults=tuple(_fault(rng, machines, len(jobs)) for _ in range(count)),
        one_at_a_time=rng.random() < 0.25,
    )


def _job(rng: Random) -> JobPlan:
    def run() -> tuple[float, int]:
        shortest, longest = rng.choices(((0.05, 0.5), (1, 8), (8, 25), (31, 45)), (35, 45, 13, 7))[0]
        return rng.uniform(shortest, longest), rng.choices((0, 1, 3, 143), (70, 16, 10, 4))[0]

    return JobPlan(
        at_s=rng.choice((0.0, rng.uniform(0, 15))),
        job_type=rng.choice(("train", "train", "test")),
        priority=rng.choice((Priority.MEDIUM, Priority.MEDIUM, Priority.CRITICAL, Priority.LOW)),
        cpu=rng.choice((1, 1, 2, 3, 4)),
        runs=tuple(run() for _ in range(3)),
        retries=rng.choice((0, 0, 1, 2)),
        timeout_s=rng.uniform(1, 10) if rng.random() < 0.1 else None,
        grace_s=rng.choice((0.5, 2.0, 6.0)),
        deaf=rng.random() < 0.2,
        on_term=rng.choice((None, 0)),
        pulls=rng.random() < 0.1,
        broken=rng.random() < 0.04,
        twice=rng.random() < 0.2,
    )


def _fault(rng: Random, machines: int, jobs: int) -> Fault:
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if rng.random() < 0.6:
        moment = Moment(step=rng.choice(STEPS), count=rng.choice((1, 1, 1, 2, 2, 3, 4, 6)), after=rng.random() < 0.5)
    else:
        moment = Moment(at_s=rng.uniform(0.2, FAULTS_END_S - 5))
    return Fault(
        kind,
        moment,
        target=rng.randrange(jobs if kind is Kind.CANCEL else machines),
        for_s=rng.choice((rng.uniform(0.01, 1), rng.uniform(1, 12), rng.uniform(12, 40), rng.uniform(30, 60))),
        amount=_amount(rng, kind),
    )


def _amount(rng: Random, kind: Kind) -> float:
    match kind:
        case Kind.CLOCK:
            return rng.choice((-1, 1)) * rng.choice((2.0, 20.0, 3600.0))
        case Kind.LOST_ANSWERS:
            return rng.choice((1, 1, 1, 2, 5))
        case Kind.ENGINE_SLOW:
            return rng.choice((0.3, 3.0))
        case _:
            return rng.random()
