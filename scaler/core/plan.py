"""The scaler's one decision: what to start and what to stop, for one queue, now.

Invariants, for any snapshot: never more than `max_instances` exist because of a plan; what is unknown holds everything;
nothing that holds a job, or may hold one, is stopped; carrying a plan out and planning again at the same moment does
nothing more. Running jobs are not demand, what is asked for and what is starting is capacity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from launch.core.capacity import Amount
from launch.core.quantity import show_duration
from scaler.core.actions import Action, Launch, Part, Refuse, Stop, show_count
from scaler.core.ending import Floor, end_idle, end_useless, floor_for
from scaler.core.forecast import offered_load
from scaler.core.launching import launch
from scaler.core.packing import Sizes, sizes_of
from scaler.core.schedule import Misfits, Schedule, schedule
from scaler.core.snapshot import Pending, PendingGroup, Policy, Snapshot, Unknown
from scaler.core.standing import Standing, standings

__all__ = ["Action", "Launch", "Plan", "Refuse", "Stop", "plan"]

NAMED_AT_MOST = 3
"""How many jobs of a kind a reason names."""
REFUSED_AT_MOST = 100
"""How many jobs one plan refuses; the next one goes on."""
LOOK_APART_S = 1.0
"""Looks at whether running jobs have ended as expected are at least this far ahead."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, when to look again at the latest (None: no need), and why, in sentences for people."""

    actions: tuple[Action, ...]
    next_look_at: datetime | None
    reasons: tuple[str, ...]


def plan(snapshot: Snapshot, policy: Policy, now: datetime) -> Plan:
    """Decide for one queue."""
    pending, workers, capacity = snapshot.pending, snapshot.workers, snapshot.capacity
    if isinstance(pending, Unknown) or isinstance(workers, Unknown) or isinstance(capacity, Unknown):
        unknown = [part for part in (pending, workers, capacity) if isinstance(part, Unknown)]
        return Plan((), None, tuple(dict.fromkeys(f"holding: {part.why}" for part in unknown)))

    groups, excluded = _demand(pending, policy)
    fleet = standings(workers, policy, snapshot.past, now)
    existing = sum(1 for item in fleet if item.worker.instance is not None)
    limit = max(0, policy.max_instances - existing) if policy.elastic else 0
    found = schedule(groups, fleet, capacity, limit, policy, snapshot.past, now)
    floor = floor_for(offered_load(snapshot.past, capacity, now, policy.tuning.tau_s, workers), policy)
    at_work = bool(groups) or any(item.worker.presence is not None and item.worker.presence.holds for item in fleet)

    wholes = _wholes(fleet) if found.misfits or not policy.elastic else []
    parts = (
        end_useless(fleet),
        end_idle(fleet, found.used, floor, policy, snapshot.past, now),
        launch(snapshot, fleet, found, floor if at_work and not pending.paused else Floor(), policy, limit, now),
        _refuse(found, wholes, capacity, policy),
        _soon(found, now),
        Part(reasons=(*excluded, *_waiting(found, wholes, capacity, policy, pending))),
    )
    looks = [at for part in parts for at in part.look_at]
    looks += [item.due for item in fleet if item.due is not None]
    return Plan(
        actions=tuple(action for part in parts for action in part.actions),
        next_look_at=min(looks, default=None),
        reasons=tuple(reason for part in parts for reason in part.reasons),
    )


def _demand(pending: Pending, policy: Policy) -> tuple[Sequence[PendingGroup], list[str]]:
    """The jobs that workers of this queue would take now, and why the others are none."""
    if pending.paused:
        waiting = pending.count
        return (), ([f"the queue is paused: {show_count(waiting)} pending until it is resumed"] if waiting else [])
    if policy.job_types is None:
        return pending.groups, []
    others = [group for group in pending.groups if group.job_type not in policy.job_types]
    if not others:
        return pending.groups, []
    types = ", ".join(sorted({group.job_type for group in others})[:NAMED_AT_MOST])
    named = _named([(group, group.count) for group in others])
    reason = f"{named}: no worker of this queue takes the type {types} (job_types of the queue)"
    return [group for group in pending.groups if group.job_type in policy.job_types], [reason]


def _soon(found: Schedule, now: datetime) -> Part:
    """Jobs for which nothing is started, as running ones make room in time: looked at again when they should have."""
    if not found.soon or found.soon_at is None:
        return Part()
    at = max(found.soon_at, now + timedelta(seconds=LOOK_APART_S))
    within = show_duration((found.soon_at - now).total_seconds())
    reason = (
        f"{show_count(found.soon)} waiting for running ones to end: sooner than a new instance, the first in {within}"
    )
    return Part((), (at,), (reason,))


def _waiting(
    found: Schedule, wholes: Sequence[Amount], capacity: Amount, policy: Policy, pending: Pending
) -> Iterable[str]:
    """Why jobs go on waiting in spite of the plan."""
    more = found.left + (0 if pending.paused else pending.beyond)
    larger, hopeless = _split(found.misfits, wholes)
    if policy.elastic:
        if more:
            yield f"{show_count(more)} waiting: max_instances is {policy.max_instances}"
        for job_id, group in _first(larger):
            yield f"{job_id} waits for room on a larger worker: {group.amount.shortfall(capacity)} of a new one"
        for job_id, group in _first(hopeless):
            yield f"{job_id} fits no instance that could be started: {group.amount.shortfall(capacity)}"
        unnamed = sum(max(0, _sum(kind) - NAMED_AT_MOST) for kind in (larger, hopeless))
        if unnamed:
            yield f"and {unnamed} more like that"
    elif not wholes and (more or found.misfits):
        total = more + _sum(found.misfits)
        yield f"{show_count(total)} waiting: no worker is present, and the scaler starts none for this queue"
    else:
        if more or larger:
            yield f"{show_count(more + _sum(larger))} waiting for room on a worker"
        if hopeless:
            yield f"{_named(hopeless)}: too large for any worker that is present"


def _wholes(fleet: Sequence[Standing]) -> list[Amount]:
    """What the workers that are of use hold when they are empty: each kind once."""
    kinds: dict[Sizes, Amount] = {}
    for item in fleet:
        presence = item.worker.presence
        if item.room is not None and presence is not None:
            kinds.setdefault(sizes_of(presence.capacity), presence.capacity)
    return list(kinds.values())


def _split(misfits: Misfits, wholes: Sequence[Amount]) -> tuple[Misfits, Misfits]:
    """Those that some present worker could hold were it empty, and those that none could."""
    larger = tuple(entry for entry in misfits if any(entry[0].amount.fits_in(whole) for whole in wholes))
    return larger, tuple(entry for entry in misfits if not any(entry[0].amount.fits_in(whole) for whole in wholes))


def _refuse(found: Schedule, wholes: Sequence[Amount], capacity: Amount, policy: Policy) -> Part:
    """What can never run here is told so at once, even while there is no worker that could tell it.

    Where the scaler starts nothing, a larger worker may yet be started by somebody.
    """
    if not policy.elastic:
        return Part()
    _, hopeless = _split(found.misfits, wholes)
    why = "it asks for more than any worker of this queue can have"
    refused = [
        Refuse(job_id, f"{why}: {group.amount.shortfall(capacity)}") for group, _ in hopeless for job_id in group.ids
    ]
    return Part(tuple(refused[:REFUSED_AT_MOST]))


def _sum(entries: Sequence[tuple[PendingGroup, int]]) -> int:
    return sum(count for _, count in entries)


def _first(entries: Sequence[tuple[PendingGroup, int]]) -> list[tuple[str, PendingGroup]]:
    """A few of them by name: the last of each group, as those before it may have found room."""
    named = [(job_id, group) for group, count in entries for job_id in group.ids[-count:]]
    return named[:NAMED_AT_MOST]


def _named(entries: Sequence[tuple[PendingGroup, int]]) -> str:
    names = ", ".join(job_id for job_id, _ in _first(entries))
    more = _sum(entries) - NAMED_AT_MOST
    return f"{names} and {more} more" if more > 0 else names
