"""Where each worker stands: of use now, of use soon, on its way out, or lost.

One table from what is known of a worker to its kind, its room for jobs, and the moment at which that changes by itself.
Invariant: what is out of sight but may come back keeps its place, and is never ended before its deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from launch.core.capacity import Amount
from launch.core.quantity import show_duration
from launch.presence import AgentState
from scaler.core.durations import quantile_s, residual_s, typical_s
from scaler.core.instance import Instance, InstanceState
from scaler.core.packing import Sizes, sizes_of
from scaler.core.snapshot import EPOCH, History, Past, Policy, Worker

LONGEST_DEADLINE_S = 3600.0
"""No instance gets longer than this to register, whatever the boots before it took."""


class Kind(StrEnum):
    """What a worker is to the plan."""

    FOREIGN = "foreign"
    """Started by somebody else: its room counts, it is never stopped and fills no place."""
    READY = "ready"
    STARTING = "starting"
    """Asked for, or launched and not heard of yet: its room will be there."""
    RETURNING = "returning"
    """Cut off together with the broker: expected back as it was."""
    LEAVING = "leaving"
    """Takes no more work, or has been asked not to; it still fills a place."""
    DRAINED = "drained"
    OVERDUE = "overdue"
    """It should have registered by now."""
    LOST = "lost"
    """Its agent was there and is not any more."""


class Standing(NamedTuple):
    """A worker with its kind. `room` is what it has for pending jobs; `due` when it changes kind if nothing happens."""

    worker: Worker
    kind: Kind
    room: Amount | None = None
    due: datetime | None = None
    why_end: str | None = None

    @property
    def live(self) -> bool:
        """Whether it counts towards the queue's minimum."""
        return self.kind in _LIVE

    @property
    def launched_at(self) -> datetime:
        """When its instance (or, without one, its agent) was started."""
        if self.worker.instance is not None:
            return self.worker.instance.launched_at
        return self.worker.presence.started_at if self.worker.presence is not None else EPOCH


def boot_s(past: Past, policy: Policy) -> float:
    """What a boot usually lasts."""
    usual = typical_s(past.boots_s)
    return policy.tuning.boot_prior_s if usual is None else usual


def boot_left_s(past: Past, policy: Policy, age_s: float) -> float:
    """How long an instance of this age will still take to register; never longer than a new one would."""
    whole = boot_s(past, policy)
    left = residual_s(past.boots_s, age_s)
    if left is None:
        # As long again, where it takes longer than any before it.
        left = whole - age_s if age_s < whole else age_s
    return min(whole, max(0.0, left))


def boot_deadline_s(past: Past, policy: Policy) -> float:
    """How long an instance gets to register."""
    slow = quantile_s(past.boots_s, 0.99) or 0.0
    return max(policy.tuning.boot_deadline_s, min(3 * slow, LONGEST_DEADLINE_S))


def standings(workers: Sequence[Worker], policy: Policy, past: Past, now: datetime) -> list[Standing]:
    """Every worker's standing, in the order of the workers."""
    deadline = timedelta(seconds=boot_deadline_s(past, policy))
    return [_standing(worker, policy, deadline, now) for worker in workers]


def _standing(worker: Worker, policy: Policy, deadline: timedelta, now: datetime) -> Standing:
    instance, presence = worker.instance, worker.presence
    if instance is None:
        ready = presence is not None and presence.state is AgentState.READY
        return Standing(worker, Kind.FOREIGN, presence.free if ready and presence is not None else None)
    if worker.intended:
        return Standing(worker, Kind.STARTING, instance.capacity)
    if instance.state is InstanceState.STOPPING:
        return Standing(worker, Kind.LEAVING)
    if presence is None:
        return _unseen(worker, instance, policy, deadline, now)
    if presence.state is AgentState.DRAINED and not presence.holds and not worker.stale:
        return Standing(worker, Kind.DRAINED, why_end="its agent is drained")
    if presence.state is not AgentState.READY:
        return Standing(worker, Kind.LEAVING)
    if worker.drain_asked_at is not None:
        hears_by = worker.drain_asked_at + timedelta(seconds=policy.drain_retry_s)
        if now < hears_by:
            return Standing(worker, Kind.LEAVING, due=hears_by)
    return Standing(worker, Kind.RETURNING if worker.stale else Kind.READY, presence.free)


def _unseen(worker: Worker, instance: Instance, policy: Policy, deadline: timedelta, now: datetime) -> Standing:
    """An instance whose agent is not there: not yet, or not any more."""
    absent_since = worker.absent_since or now
    if worker.history is History.NEW:
        due = max(instance.launched_at, absent_since) + deadline
        if now < due:
            return Standing(worker, Kind.STARTING, instance.capacity, due)
        why = f"its agent did not register within {show_duration(deadline.total_seconds())}"
        return Standing(worker, Kind.OVERDUE, why_end=why)
    if worker.history is History.DRAINED:
        return Standing(worker, Kind.DRAINED, why_end="its agent was drained, and has left")
    back_by = absent_since + timedelta(seconds=policy.return_grace_s)
    if worker.history is History.ADOPTED and now < back_by:
        return Standing(worker, Kind.RETURNING, instance.capacity, back_by)
    due = absent_since + timedelta(seconds=max(policy.lost_deadline_s, policy.return_grace_s))
    if now < due:
        return Standing(worker, Kind.LOST, due=due)
    why = f"its agent has been out of sight for {show_duration((now - absent_since).total_seconds())}"
    return Standing(worker, Kind.LOST, why_end=why)


_LIVE = frozenset((Kind.READY, Kind.STARTING, Kind.RETURNING))
_FIRST = {Kind.FOREIGN: 0, Kind.READY: 1, Kind.RETURNING: 2}
_NOTHING: Sizes = (0, 0, 0, 0)


def filling_order(standing: Standing) -> tuple[int, float, Sizes, float, datetime, str]:
    """Sorts standings into the order in which their rooms are filled; those with the same room follow one another.

    First the room that costs nothing, then the fuller before the emptier, the lately busy before the long idle, and
    what is still coming last: so the workers that are left empty are those that can go.
    """
    worker, kind = standing.worker, standing.kind
    presence = worker.presence
    if kind is not Kind.READY or presence is None:
        return (_FIRST.get(kind, 3), 0.0, _NOTHING, 0.0, standing.launched_at, worker.name)
    free, whole = sizes_of(presence.free), sizes_of(presence.capacity)
    left = min([part / all_ for all_, part in zip(whole, free, strict=True) if all_], default=1.0)
    idle = presence.idle_since.timestamp() if presence.idle_since is not None else 0.0
    return (1, left, free, -idle, standing.launched_at, presence.agent_id)
