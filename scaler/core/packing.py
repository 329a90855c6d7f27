"""First-fit-decreasing of pending jobs into rooms: those that exist first, then new instances.

Jobs are taken largest first (by the largest share of any dimension of a new instance), each into the first room that
has space for it. Equal jobs are placed together, so the cost goes with the kinds of jobs, not with their number.
Invariant: rooms that got nothing can be taken away, and new ones that were opened can be added as rooms at the end,
without any job being placed elsewhere: that makes planning idempotent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.core.capacity import Amount
from scaler.core.snapshot import PendingJob


@dataclass(frozen=True, slots=True)
class Room:
    """Space on a worker that exists or is coming; `job_types` None takes any."""

    name: str
    free: Amount
    job_types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the jobs went.

    `used` names the rooms that got at least one; `opened` counts the new instances, `in_new` the jobs in them;
    `left` counts the jobs that would need more than were allowed; `misfits` are those that found no room and are too
    large for any new instance.
    """

    used: frozenset[str]
    opened: int
    in_new: int
    left: int
    misfits: tuple[PendingJob, ...]


def pack(jobs: Sequence[PendingJob], rooms: Sequence[Room], capacity: Amount, limit: int) -> Packing:
    """Pack `jobs` into `rooms`, in this order, then into at most `limit` new instances of `capacity`."""
    bins = [_Bin(room.free, room.name, room.job_types) for room in rooms]
    used: set[str] = set()
    misfits: list[PendingJob] = []
    left = opened = in_new = 0
    for group in _groups(jobs, capacity):
        amount, job_type, count = group[0].amount, group[0].job_type, len(group)
        for place in bins:
            taken = place.take(amount, job_type, count)
            count -= taken
            if place.name is None:
                in_new += taken
            elif taken:
                used.add(place.name)
            if not count:
                break
        if count and not amount.fits_in(capacity):
            misfits.extend(group[-count:])
            continue
        while count and opened < limit:
            bins.append(_Bin(capacity))
            opened += 1
            taken = bins[-1].take(amount, job_type, count)
            in_new += taken
            count -= taken
        left += count
    return Packing(frozenset(used), opened, in_new, left, tuple(misfits))


def _groups(jobs: Sequence[PendingJob], capacity: Amount) -> list[list[PendingJob]]:
    """Equal jobs together, the largest first; ties in an order that depends on nothing but the jobs themselves."""
    groups: dict[tuple[int, int, int, int, str], list[PendingJob]] = {}
    for job in jobs:
        amount = job.amount
        key = (amount.gpus, amount.cpu_milli, amount.memory_bytes, amount.slots, job.job_type)
        groups.setdefault(key, []).append(job)
    ordered = sorted(groups.items(), key=lambda item: (item[1][0].amount.load_of(capacity), item[0]), reverse=True)
    return [group for _, group in ordered]


class _Bin:
    """A room while it is being filled."""

    __slots__ = ("_free", "_job_types", "name")

    def __init__(self, free: Amount, name: str | None = None, job_types: tuple[str, ...] | None = None) -> None:
        self.name = name
        self._free = [free.cpu_milli, free.memory_bytes, free.gpus, free.slots]
        self._job_types = job_types

    def take(self, amount: Amount, job_type: str, count: int) -> int:
        """Put in as many of `count` equal jobs as fit; returns how many."""
        if self._job_types is not None and job_type not in self._job_types:
            return 0
        sizes = (amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)
        for size, free in zip(sizes, self._free, strict=True):
            # As in `Amount.fits_in`: an overdrawn dimension takes nothing, not even a job that asks for none of it.
            count = min(count, max(0, free // size) if size else (count if free >= 0 else 0))
        if count:
            self._free = [free - size * count for size, free in zip(sizes, self._free, strict=True)]
        return count
