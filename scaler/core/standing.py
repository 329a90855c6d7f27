"""Where each worker stands: of use now, of use soon, on its way out, or lost.

One table from what is known of a worker to its kind, its room for jobs, and the moment at which that changes by itself.
Invariant: what is out of sight but may come back keeps its place, and is never ended before its deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from launch.core.capacity import Amount
from launch.core.quantity import show_duration
from launch.presence import AgentState
from scaler.core.instance import Instance, InstanceState
from scaler.core.packing import Room
from scaler.core.snapshot import EPOCH, History, Policy, Worker


class Kind(StrEnum):
    """What a worker is to the plan."""

    FOREIGN = "foreign"
    """Started by somebody else: its room counts, it is never stopped and fills no place."""
    READY = "ready"
    STARTING = "starting"
    """Launched, or found and not heard of yet: its room will be there."""
    RETURNING = "returning"
    """Cut off together with the broker: expected back as it was."""
    LEAVING = "leaving"
    """Takes no more work; it still fills a place."""
    DRAINED = "drained"
    OVERDUE = "overdue"
    """It should have registered by now."""
    LOST = "lost"
    """Its agent was there and is not any more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A worker with its kind. `room` is what it has for pending jobs; `due` when it changes kind if nothing happens."""

    worker: Worker
    kind: Kind
    room: Amount | None = None
    due: datetime | None = None
    why_end: str | None = None

    @property
    def live(self) -> bool:
        """Whether it counts towards the queue's minimum."""
        return self.kind in (Kind.READY, Kind.STARTING, Kind.RETURNING)

    @property
    def idle_since(self) -> datetime | None:
        """Since when it surely holds nothing; None if it holds something or that is not sure."""
        presence = self.worker.presence
        if self.kind is not Kind.READY or presence is None or presence.holds:
            return None
        return presence.idle_since

    @property
    def launched_at(self) -> datetime:
        """When its instance (or, without one, its agent) was started."""
        if self.worker.instance is not None:
            return self.worker.instance.launched_at
        return self.worker.presence.started_at if self.worker.presence is not None else EPOCH

    def as_room(self) -> Room:
        """Its room, for packing."""
        presence = self.worker.presence
        return Room(self.worker.name, self.room or Amount(), presence.job_types if presence is not None else None)


def standings(workers: Sequence[Worker], policy: Policy, now: datetime) -> list[Standing]:
    """Every worker's standing, in the order in which their rooms are filled.

    First the room that costs nothing, then the fuller before the emptier, the lately busy before the long idle, and
    what is still coming last: so the workers that are left empty are those that can go.
    """
    return sorted((_standing(worker, policy, now) for worker in workers), key=_order)


def _standing(worker: Worker, policy: Policy, now: datetime) -> Standing:
    instance, presence = worker.instance, worker.presence
    if instance is None:
        ready = presence is not None and presence.state is AgentState.READY
        return Standing(worker, Kind.FOREIGN, presence.free if ready and presence is not None else None)
    if instance.state is InstanceState.STOPPING:
        return Standing(worker, Kind.LEAVING)
    if presence is None:
        return _unseen(worker, instance, policy, now)
    if presence.state is AgentState.DRAINED and not presence.holds and not worker.stale:
        return Standing(worker, Kind.DRAINED, why_end="its agent is drained")
    if presence.state is not AgentState.READY:
        return Standing(worker, Kind.LEAVING)
    return Standing(worker, Kind.RETURNING if worker.stale else Kind.READY, presence.free)


def _unseen(worker: Worker, instance: Instance, policy: Policy, now: datetime) -> Standing:
    """An instance whose agent is not there: not yet, or not any more."""
    absent_since = worker.absent_since or now
    if worker.history is History.NEW:
        due = max(instance.launched_at, absent_since) + timedelta(seconds=policy.boot_deadline_s)
        if now < due:
            return Standing(worker, Kind.STARTING, instance.capacity, due)
        why = f"its agent did not register within {show_duration(policy.boot_deadline_s)}"
        return Standing(worker, Kind.OVERDUE, why_end=why)
    back_by = absent_since + timedelta(seconds=policy.return_grace_s)
    if worker.history is History.ADOPTED and now < back_by:
        return Standing(worker, Kind.RETURNING, instance.capacity, back_by)
    due = absent_since + timedelta(seconds=max(policy.lost_deadline_s, policy.return_grace_s))
    if now < due:
        return Standing(worker, Kind.LOST, due=due)
    why = f"its agent has been out of sight for {show_duration((now - absent_since).total_seconds())}"
    return Standing(worker, Kind.LOST, why_end=why)


_FIRST = {Kind.FOREIGN: 0, Kind.READY: 1, Kind.RETURNING: 2}


def _order(standing: Standing) -> tuple[int, float, float, float, str]:
    """Sorts standings for packing."""
    worker = standing.worker
    load = idle = 0.0
    if standing.kind is Kind.READY and worker.presence is not None:
        load = (worker.presence.capacity - worker.presence.free).load_of(worker.presence.capacity)
        idle = worker.presence.idle_since.timestamp() if worker.presence.idle_since else 0.0
    return (_FIRST.get(standing.kind, 3), -load, -idle, standing.launched_at.timestamp(), worker.name)
