"""The scaler's one decision: what to start and what to stop, for one queue, now.

Invariants, for any snapshot: never more than `max_instances` exist because of a plan; what is unknown holds everything;
nothing that holds a job, or may hold one, is stopped; carrying a plan out and planning again at the same moment does
nothing more. Running jobs are not demand, starting instances are capacity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from launch.core.capacity import Amount
from launch.core.quantity import show_duration
from scaler.core.instance import StopMode
from scaler.core.packing import Packing, pack
from scaler.core.snapshot import Boots, Pending, PendingJob, Policy, Snapshot, Unknown
from scaler.core.standing import Kind, Standing, standings

NAMED_AT_MOST = 3
"""How many jobs of a kind a reason names."""
REFUSED_AT_MOST = 100
"""How many jobs one plan refuses; the next one goes on."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start so many instances; a `canary` is one that has to come up before more are started."""

    count: int
    why: str = ""
    canary: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End this instance, provided that its agent is still out of sight (`absent`), or still holds nothing.

    DRAIN asks the agent, which takes no more work and says when it holds nothing; a later plan then ends the instance.
    KILL ends one whose agent is drained, lost or never came (`never_came`: its launch has failed).
    """

    instance_id: str
    agent_id: str
    mode: StopMode
    why: str
    absent: bool = False
    never_came: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """End this pending job as unschedulable: nothing that is there or could be started would ever hold it."""

    job_id: str
    why: str


Action = Launch | Stop | Refuse


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, when to look again at the latest (None: no need), and why, in sentences for people."""

    actions: tuple[Action, ...]
    next_look_at: datetime | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One rule's share of the plan."""

    actions: tuple[Action, ...] = ()
    look_at: tuple[datetime, ...] = ()
    reasons: tuple[str, ...] = ()


def plan(snapshot: Snapshot, policy: Policy, now: datetime) -> Plan:
    """Decide for one queue."""
    pending, workers, capacity = snapshot.pending, snapshot.workers, snapshot.capacity
    if isinstance(pending, Unknown) or isinstance(workers, Unknown) or isinstance(capacity, Unknown):
        unknown = [part for part in (pending, workers, capacity) if isinstance(part, Unknown)]
        return Plan((), None, tuple(dict.fromkeys(f"holding: {part.why}" for part in unknown)))

    fleet = standings(workers, policy, now)
    jobs, excluded = _demand(pending, policy)
    existing = sum(1 for item in fleet if item.worker.instance is not None)
    limit = max(0, policy.max_instances - existing) if policy.elastic else 0
    packing = pack(jobs, [item.as_room() for item in fleet if item.room is not None], capacity, limit)

    ended = _end_useless(fleet)
    idle = _end_idle(fleet, packing, policy, now)
    # An agent that never came makes the next launch wait, in this very plan as in the next one.
    boots = snapshot.boots
    for item in fleet:
        if item.kind is Kind.OVERDUE:
            boots = boots.failed(now, f"{item.worker.name} never registered")
    launches = _launch(fleet, packing, policy, boots, limit, now)
    refused = _refuse(packing, fleet, capacity, policy)
    parts = (
        ended,
        idle,
        launches,
        refused,
        _Part(reasons=(*excluded, *_waiting(packing, fleet, capacity, policy, pending))),
    )

    looks = [at for part in parts for at in part.look_at]
    looks += [item.due for item in fleet if item.due is not None]
    return Plan(
        actions=tuple(action for part in parts for action in part.actions),
        next_look_at=min(looks, default=None),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


def _demand(pending: Pending, policy: Policy) -> tuple[Sequence[PendingJob], list[str]]:
    """The jobs that workers of this queue would take now, and why the others are none."""
    if pending.paused:
        waiting = len(pending.jobs) + pending.beyond
        return (), ([f"the queue is paused: {_jobs(waiting)} pending until it is resumed"] if waiting else [])
    if policy.job_types is None:
        return pending.jobs, []
    others = [job for job in pending.jobs if job.job_type not in policy.job_types]
    if not others:
        return pending.jobs, []
    types = ", ".join(sorted({job.job_type for job in others})[:NAMED_AT_MOST])
    reason = f"{_named(others)}: no worker of this queue takes the type {types} (job_types of the queue)"
    return [job for job in pending.jobs if job.job_type in policy.job_types], [reason]


def _end_useless(fleet: Sequence[Standing]) -> _Part:
    """Instances that can't be of use any more."""
    stops, reasons = [], []
    for item in fleet:
        if item.why_end is None or item.worker.instance is None:
            continue
        mode = StopMode.KILL if item.kind is Kind.OVERDUE else StopMode.DRAIN
        absent = item.kind is not Kind.DRAINED
        stops.append(Stop(item.worker.instance.id, item.worker.instance.agent_id, mode, item.why_end, absent))
        reasons.append(f"stop {item.worker.name}: {item.why_end}")
    return _Part(tuple(stops), (), tuple(reasons))


def _end_idle(fleet: Sequence[Standing], packing: Packing, policy: Policy, now: datetime) -> _Part:
    """Instances that hold nothing, that no pending job needs, and that the minimum can spare.

    Those that have been idle longest go first: waiting pulls are served so that work gathers on the fuller agents,
    hence these are the last to be needed. Of equals the youngest goes. Above the maximum no idle timeout counts.
    """
    ready = [item for item in fleet if item.kind is Kind.READY]
    live = sum(1 for item in fleet if item.live)
    idle = sorted(
        (item for item in ready if item.idle_since is not None),
        key=lambda item: (item.idle_since or now, -item.launched_at.timestamp(), item.worker.name),
    )
    spare, excess = max(0, len(ready) - policy.min_instances), max(0, live - policy.max_instances)
    stops, looks, reasons = [], [], []
    for item in idle:
        instance, since = item.worker.instance, item.idle_since
        if instance is None or since is None or not (spare or excess):
            continue
        expires = since + timedelta(seconds=policy.idle_timeout_s)
        if excess:
            why = f"max_instances is {policy.max_instances}, and it holds nothing"
        elif item.worker.name in packing.used:
            continue
        elif now < expires:
            looks.append(expires)
            continue
        else:
            idle_s, limit_s = (now - since).total_seconds(), policy.idle_timeout_s
            why = f"idle for {show_duration(idle_s)} (idle_timeout {show_duration(limit_s)})"
        spare, excess = max(0, spare - 1), max(0, excess - 1)
        stops.append(Stop(instance.id, instance.agent_id, StopMode.DRAIN, why))
        reasons.append(f"stop {item.worker.name}: {why}")
    return _Part(tuple(stops), tuple(looks), tuple(reasons))


def _launch(
    fleet: Sequence[Standing], packing: Packing, policy: Policy, boots: Boots, limit: int, now: datetime
) -> _Part:
    """What pending jobs need beyond the space that is there or coming, and what the minimum lacks."""
    live = sum(1 for item in fleet if item.live)
    short = max(0, policy.min_instances - live)
    wanted = min(limit, max(packing.opened, short))
    if not wanted:
        return _Part()
    retry_at = boots.retry_at(policy)
    if retry_at is not None:
        story = f"{_times(boots.failures)} in a row an instance never registered ({boots.why})"
        if now < retry_at:
            return _Part((), (retry_at,), (f"{story}: the next try is at {retry_at:%H:%M:%S} UTC",))
        if any(item.kind is Kind.STARTING for item in fleet):
            return _Part((), (), (f"{story}: one is being tried before more are started",))
        wanted = 1
    if packing.opened >= short:
        why = f"{_jobs(packing.in_new, 'pending job')} found no room on the workers at hand"
    else:
        why = f"min_instances is {policy.min_instances} and {live} exist"
    return _Part((Launch(wanted),), (), (f"launch {wanted}: {why}",))


def _waiting(
    packing: Packing, fleet: Sequence[Standing], capacity: Amount, policy: Policy, pending: Pending
) -> Iterable[str]:
    """Why jobs go on waiting in spite of the plan."""
    more = packing.left + (0 if pending.paused else pending.beyond)
    wholes = _wholes(fleet)
    larger, hopeless = _split(packing.misfits, wholes)
    if policy.elastic:
        if more:
            yield f"{_jobs(more)} waiting: max_instances is {policy.max_instances}"
        for job in larger[:NAMED_AT_MOST]:
            yield f"{job.id} waits for room on a larger worker: {job.amount.shortfall(capacity)} of a new one"
        for job in hopeless[:NAMED_AT_MOST]:
            yield f"{job.id} fits no instance that could be started: {job.amount.shortfall(capacity)}"
        unnamed = sum(max(0, len(found) - NAMED_AT_MOST) for found in (larger, hopeless))
        if unnamed:
            yield f"and {unnamed} more like that"
    elif not wholes and (more or packing.misfits):
        total = more + len(packing.misfits)
        yield f"{_jobs(total)} waiting: no worker is present, and the scaler starts none for this queue"
    else:
        if more or larger:
            yield f"{_jobs(more + len(larger))} waiting for room on a worker"
        if hopeless:
            yield f"{_named(hopeless)}: too large for any worker that is present"


def _wholes(fleet: Sequence[Standing]) -> list[Amount]:
    """What the workers that are of use hold when they are empty."""
    return [item.worker.presence.capacity for item in fleet if item.room is not None and item.worker.presence]


def _split(misfits: Sequence[PendingJob], wholes: Sequence[Amount]) -> tuple[list[PendingJob], list[PendingJob]]:
    """Those that some present worker could hold were it empty, and those that none could."""
    larger = [job for job in misfits if any(job.amount.fits_in(whole) for whole in wholes)]
    ids = {job.id for job in larger}
    return larger, [job for job in misfits if job.id not in ids]


def _refuse(packing: Packing, fleet: Sequence[Standing], capacity: Amount, policy: Policy) -> _Part:
    """What can never run here is told so at once, even while there is no worker that could tell it.

    Where the scaler starts nothing, a larger worker may yet be started by somebody.
    """
    if not policy.elastic:
        return _Part()
    _, hopeless = _split(packing.misfits, _wholes(fleet))
    why = "it asks for more than any worker of this queue can have"
    return _Part(
        tuple(Refuse(job.id, f"{why}: {job.amount.shortfall(capacity)}") for job in hopeless[:REFUSED_AT_MOST])
    )


def _named(jobs: Sequence[PendingJob]) -> str:
    names = ", ".join(job.id for job in jobs[:NAMED_AT_MOST])
    return names if len(jobs) <= NAMED_AT_MOST else f"{names} and {len(jobs) - NAMED_AT_MOST} more"


def _jobs(count: int, noun: str = "job") -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
