"""Workers, jobs and snapshots for the scaler's tests, and what carrying out a plan makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from launch.core.capacity import Amount
from launch.presence import AgentPresence, AgentState
from scaler.core.instance import Instance, InstanceState, StopMode
from scaler.core.plan import Launch, Plan, Refuse
from scaler.core.snapshot import (
    AWS,
    LOCAL,
    Arriving,
    Boots,
    History,
    Past,
    Pending,
    PendingGroup,
    PendingJob,
    Policy,
    Running,
    Snapshot,
    Unknown,
    Worker,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GIB = 1024**3
CAPACITY = Amount(cpu_milli=4000, memory_bytes=16 * GIB, slots=4)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def policy(minimum: int = 0, maximum: int = 5, **changes: object) -> Policy:
    return replace(Policy(minimum, maximum, 60.0), **changes)  # type: ignore[arg-type]


def job(number: int, cpu: float = 1, memory_gib: float = 0, *, gpus: int = 0, job_type: str = "train") -> PendingJob:
    amount = Amount(cpu_milli=round(cpu * 1000), memory_bytes=round(memory_gib * GIB), gpus=gpus, slots=1)
    return PendingJob(f"q/{number}", job_type, amount)


def jobs(count: int, cpu: float = 1) -> tuple[PendingJob, ...]:
    return tuple(job(number, cpu) for number in range(1, count + 1))


def instance(
    name: str, *, age_s: float = 300, state: InstanceState = InstanceState.RUNNING, capacity: Amount = CAPACITY
) -> Instance:
    return Instance(f"i-{name}", name, ago(age_s), state, capacity)


def presence(
    name: str,
    *,
    holds: Sequence[PendingJob] = (),
    idle_s: float | None = None,
    state: AgentState = AgentState.READY,
    capacity: Amount = CAPACITY,
    job_types: tuple[str, ...] | None = None,
    age_s: float = 290,
) -> AgentPresence:
    free = capacity
    for held in holds:
        free -= held.amount
    return AgentPresence(
        agent_id=name,
        queue="q",
        job_types=job_types,
        state=state,
        capacity=capacity,
        free=free,
        holds=tuple(held.id for held in holds),
        version="1",
        host="h",
        started_at=ago(age_s),
        idle_since=None if holds and idle_s is None else ago(age_s if idle_s is None else idle_s),
    )


def idle(name: str, idle_s: float, age_s: float = 300) -> Worker:
    return Worker(instance(name, age_s=age_s), presence(name, idle_s=idle_s, age_s=age_s))


def busy(name: str, held: int = 1, cpu: float = 1) -> Worker:
    holding = [job(1000 + number, cpu) for number in range(held)]
    return Worker(instance(name), presence(name, holds=holding))


def starting(name: str, age_s: float = 5) -> Worker:
    return Worker(instance(name, age_s=age_s), None, History.NEW, absent_since=ago(age_s))


def snapshot(
    workers: Sequence[Worker] | Unknown = (),
    pending: Sequence[PendingJob] | Pending | Unknown = (),
    *,
    capacity: Amount | Unknown = CAPACITY,
    boots: Boots | None = None,
) -> Snapshot:
    return Snapshot(
        "q",
        pending if isinstance(pending, (Pending, Unknown)) else Pending.of(pending),
        workers if isinstance(workers, Unknown) else tuple(workers),
        capacity,
        boots or Boots(),
    )


def carry_out(before: Snapshot, decided: Plan) -> Snapshot:
    """The world at the same moment, after the plan: what was launched starts, what was stopped is stopping."""
    assert not isinstance(before.workers, Unknown)
    assert not isinstance(before.capacity, Unknown)
    workers, boots, pending = list(before.workers), before.boots, before.pending
    for action in decided.actions:
        if isinstance(action, Launch):
            for number in range(action.count):
                fresh = Instance(f"i-zz-{number:03d}", f"zz-{number:03d}", NOW, InstanceState.STARTING, before.capacity)
                workers.append(Worker(fresh, None, History.NEW, absent_since=NOW))
            continue
        if isinstance(action, Refuse):
            assert isinstance(pending, Pending)
            pending = replace(pending, groups=tuple(_without(group, action.job_id) for group in pending.groups))
            pending = replace(pending, groups=tuple(group for group in pending.groups if group.count))
            continue
        for at, worker in enumerate(workers):
            if worker.instance is not None and worker.instance.id == action.instance_id:
                if action.mode is StopMode.DRAIN:
                    workers[at] = replace(worker, drain_asked_at=NOW)
                else:
                    workers[at] = replace(worker, instance=replace(worker.instance, state=InstanceState.STOPPING))
        if action.never_came:
            boots = boots.failed(NOW, action.why)
    return replace(before, workers=tuple(workers), boots=boots, pending=pending)


def _without(group: PendingGroup, job_id: str) -> PendingGroup:
    if job_id not in group.ids:
        return group
    return replace(group, count=group.count - 1, ids=tuple(one for one in group.ids if one != job_id))


# -- any world ------------------------------------------------------------------------------------------------------

TYPES = ("train", "eval")
capacities = st.builds(
    Amount,
    cpu_milli=st.sampled_from([1000, 2000, 4000]),
    memory_bytes=st.sampled_from([GIB, 8 * GIB]),
    gpus=st.sampled_from([0, 1]),
    slots=st.integers(1, 4),
)
amounts = st.builds(
    Amount,
    cpu_milli=st.sampled_from([0, 250, 500, 1000, 1500, 3000, 8000]),
    memory_bytes=st.sampled_from([0, GIB // 2, GIB, 5 * GIB]),
    gpus=st.sampled_from([0, 0, 0, 1, 2]),
    slots=st.just(1),
)
pending_jobs = st.lists(st.tuples(amounts, st.sampled_from(TYPES)), max_size=12).map(
    lambda found: tuple(PendingJob(f"q/{n}", kind, amount) for n, (amount, kind) in enumerate(found, 1))
)


@st.composite
def any_worker(draw: st.DrawFn, number: int) -> Worker:
    name, capacity = f"w{number}", draw(capacities)
    age_s = draw(st.sampled_from([0, 1, 30, 59, 60, 61, 120, 1000]))
    found = instance(name, age_s=age_s, state=draw(st.sampled_from(InstanceState)), capacity=capacity)
    held = [
        PendingJob(f"q/{1000 * number + n}", "train", amount)
        for n, amount in enumerate(draw(st.lists(amounts, max_size=2)))
    ]
    agent = presence(
        name,
        holds=held,
        idle_s=draw(st.sampled_from([0, 59, 60, 61, 600])),
        state=draw(st.sampled_from([AgentState.READY] * 4 + [AgentState.DRAINING, AgentState.DRAINED])),
        capacity=capacity,
        job_types=draw(st.sampled_from([None, None, ("eval",)])),
        age_s=age_s,
    )
    kind = draw(st.sampled_from(["foreign", "seen", "seen", "seen", "stale", "unseen", "unseen", "intended"]))
    running = tuple(
        Running(one.id, one.job_type, one.amount, ago(draw(st.sampled_from([0, 5, 50, 500])))) for one in held
    )
    if kind == "foreign":
        return Worker(None, agent, running=running)
    if kind == "seen":
        asked_at = draw(st.sampled_from([None, None, ago(0), ago(29), ago(31)]))
        return Worker(found, agent, running=running, drain_asked_at=asked_at)
    if kind == "intended":
        return Worker(replace(found, state=InstanceState.STARTING), None, History.NEW, intended=True)
    absent_since = ago(draw(st.sampled_from([0, 10, 29, 30, 59, 60, 299, 300, 900])))
    if kind == "stale":
        return Worker(found, agent, History.REGISTERED, stale=True, absent_since=absent_since)
    return Worker(found, None, draw(st.sampled_from(History)), absent_since=absent_since)


@st.composite
def any_policy(draw: st.DrawFn) -> Policy:
    low, high = sorted((draw(st.integers(0, 4)), draw(st.integers(0, 6))))
    return policy(
        low,
        high,
        elastic=draw(st.sampled_from([True] * 5 + [False])),
        job_types=draw(st.sampled_from([None, None, ("train",)])),
        tuning=draw(st.sampled_from([LOCAL, AWS, replace(AWS, patience=0.7)])),
        idle_timeout_s=draw(st.sampled_from([60.0, None])),
    )


@st.composite
def any_snapshot(draw: st.DrawFn) -> Snapshot:
    count = draw(st.integers(0, 6))
    workers = tuple(draw(any_worker(number)) for number in range(count))
    pending = Pending.of(
        draw(pending_jobs), draw(st.sampled_from([0, 0, 7])), paused=draw(st.sampled_from([False] * 5 + [True]))
    )
    failures = draw(st.sampled_from([0, 0, 1, 4]))
    boots = Boots(failures, ago(draw(st.sampled_from([0, 4, 5, 1000]))), "it crashed") if failures else Boots()
    lasted = tuple(sorted(draw(st.lists(st.sampled_from([3.0, 40.0, 700.0]), max_size=3))))
    capacity = draw(capacities)
    arriving = Arriving("train", capacity, draw(st.sampled_from([0.0, 1.0, 9.0])), ago(draw(st.sampled_from([0, 60]))))
    past = Past(
        {"train": lasted} if lasted else {}, draw(st.sampled_from([(), (30.0, 60.0, 61.0), (1.0,)])), (arriving,)
    )
    proven = draw(st.sampled_from([True] * 5 + [False]))
    return Snapshot("q", pending, workers, capacity, boots, past, proven=proven)
