"""Which pending jobs would start too late on what is there and coming, and how many new instances they need.

First every pending job (by rank, then the longest waiting; the others go past what does not fit) onto the room that
is free now and that running jobs give back within one boot: what such a job gains from a new instance is nothing.
Then the late ones, the largest first, onto what is booting and onto new instances.
Bounded: nothing is looked at beyond one boot (and the patience of the tuning), in a fixed number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

from launch.core.capacity import Amount
from scaler.core.durations import residual_s, typical_s
from scaler.core.packing import Demand, Place, Rooms, Sizes, least_of, may_hold, open_new, sizes_of
from scaler.core.snapshot import Past, PendingGroup, Policy
from scaler.core.standing import Kind, Standing, boot_left_s, boot_s, filling_order

STEPS = 8
"""Into so many steps the time of a boot is cut: what is given back within one counts at its end."""
Misfits = tuple[tuple[PendingGroup, int], ...]
"""Groups of which so many found no room, and are too large for a new instance."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where the pending jobs go.

    `used` are the numbers of the standings that are needed; `soon` counts the jobs that running ones make room for
    in time, the first at `soon_at`; `opened` counts new instances and `in_new` the jobs for them; `booting` those for
    what is booting; `left` counts those that would need more than is allowed.
    """

    used: frozenset[int] = frozenset()
    soon: int = 0
    soon_at: datetime | None = None
    booting: int = 0
    opened: int = 0
    in_new: int = 0
    left: int = 0
    misfits: Misfits = ()


@dataclass(slots=True)
class _Found:
    """What has been found so far."""

    soon: int = 0
    soon_s: float | None = None
    booting: int = 0
    opened: int = 0
    in_new: int = 0
    left: int = 0
    used: set[int] = field(default_factory=set)


def schedule(
    groups: Sequence[PendingGroup],
    fleet: Sequence[Standing],
    capacity: Amount,
    limit: int,
    policy: Policy,
    past: Past,
    now: datetime,
) -> Schedule:
    """Schedule the pending jobs onto `fleet` (in whatever order), and onto at most `limit` new instances."""
    demands = [_demand(group, capacity, past) for group in groups]
    if not demands:
        return Schedule()
    by_size = sorted(demands, key=_size, reverse=True)
    demands = sorted(by_size, key=lambda demand: (demand.group.rank, demand.group.oldest))
    found, least = _Found(), least_of(demands)
    whole_s = boot_s(past, policy)
    horizon_s = whole_s * (1 + policy.tuning.patience)
    tolerated = now + timedelta(seconds=horizon_s - policy.tuning.wait_s)

    def until(demand: Demand) -> float:
        """By when its jobs are to start, in seconds from now."""
        if demand.group.oldest <= tolerated:
            return horizon_s
        return horizon_s + (demand.group.oldest - tolerated).total_seconds()

    place = Place(_free_rooms(fleet, least), least)
    for demand in demands:
        place.fill(demand, until(demand))
    # The rest matters only where something could be started instead.
    if limit > 0 and any(demand.count for demand in demands):
        _follow_releases(place, fleet, [one for one in demands if one.count], until, past, policy, now, found)
    _note(place, found)

    place = Place(_booting_rooms(fleet, past, policy, now), least)
    for demand in by_size:
        found.booting += place.fill(demand, until(demand))
        if not demand.fits:
            continue
        before = demand.count
        found.opened += open_new(
            place, demand, sizes_of(capacity), whole_s, until(demand), limit - found.opened
        )  # fmt: skip
        found.in_new += before - demand.count
        found.left += demand.count
    _note(place, found)
    misfits = tuple((demand.group, demand.count) for demand in by_size if demand.count and not demand.fits)
    soon_at = None if found.soon_s is None else now + timedelta(seconds=found.soon_s)
    return Schedule(
        frozenset(found.used), found.soon, soon_at, found.booting, found.opened, found.in_new, found.left, misfits
    )


def _demand(group: PendingGroup, capacity: Amount, past: Past) -> Demand:
    lasted = past.durations_s.get(group.job_type, ())
    amount = group.amount
    return Demand(
        group, sizes_of(amount), group.count, typical_s(lasted), amount.load_of(capacity), amount.fits_in(capacity)
    )


def _size(demand: Demand) -> tuple[float, int, int, int, int, str]:
    """Ties in an order that depends on nothing but the jobs themselves."""
    cpu, memory, gpus, slots = demand.sizes
    return (demand.load, gpus, cpu, memory, slots, demand.group.job_type)


def _free_rooms(fleet: Sequence[Standing], least: Sizes) -> list[Rooms]:
    """What takes jobs now, or comes back as it was; as far as any of them fits."""
    numbers = [
        number
        for number, item in enumerate(fleet)
        if item.room is not None and item.kind is not Kind.STARTING and may_hold(sizes_of(item.room), least)
    ]
    return _rooms(fleet, [(number, 0.0) for number in numbers])


def _booting_rooms(fleet: Sequence[Standing], past: Past, policy: Policy, now: datetime) -> list[Rooms]:
    step = boot_s(past, policy) / STEPS or 1.0
    times: list[tuple[int, float]] = []
    for number, item in enumerate(fleet):
        if item.room is not None and item.kind is Kind.STARTING:
            left = boot_left_s(past, policy, (now - item.launched_at).total_seconds())
            times.append((number, math.ceil(left / step) * step))
    return _rooms(fleet, times)


def _rooms(fleet: Sequence[Standing], times: Sequence[tuple[int, float]]) -> list[Rooms]:
    """In the order in which they are filled, neighbours with the same room put together."""
    keyed = []
    for number, at_s in sorted(times, key=lambda entry: filling_order(fleet[entry[0]])):
        item = fleet[number]
        room = item.room
        if room is not None:
            types = item.worker.presence.job_types if item.worker.presence is not None else None
            keyed.append((sizes_of(room), types, at_s, number))
    rooms = []
    for (free, types, at_s), alike in groupby(keyed, key=lambda entry: entry[:3]):
        members = [entry[3] for entry in alike]
        rooms.append(Rooms(free, len(members), members, types, at_s))
    return rooms


def _follow_releases(
    place: Place,
    fleet: Sequence[Standing],
    demands: list[Demand],
    until: Callable[[Demand], float],
    past: Past,
    policy: Policy,
    now: datetime,
    found: _Found,
) -> None:
    """Place what is left onto what running jobs give back, step by step."""
    horizon_s = max(until(demand) for demand in demands)
    steps = _releases(fleet, past, policy, now, horizon_s)
    if not any(steps):
        return
    left: dict[int, Sizes] = {}
    for rooms in place.all():
        for number in rooms.members or ():
            left[number] = rooms.free
    for step, released in enumerate(steps, 1):
        at_s = horizon_s * step / len(steps)
        alike: dict[tuple[Sizes, tuple[str, ...] | None], list[int]] = {}
        for number, sizes in released.items():
            free = left[number] = _plus(left[number] if number in left else _room_of(fleet[number]), sizes)
            if may_hold(free, place.least):
                presence = fleet[number].worker.presence
                alike.setdefault((free, presence.job_types if presence else None), []).append(number)
        rooms_now = [
            Rooms(free, len(numbers), numbers, types, at_s)
            for (free, types), numbers in sorted(alike.items(), key=lambda entry: (entry[0][0], entry[0][1] or ()))
        ]
        now_free = Place(rooms_now, place.least)
        placed = sum(now_free.fill(demand, until(demand)) for demand in demands if until(demand) >= at_s)
        if placed:
            found.soon += placed
            found.soon_s = at_s if found.soon_s is None else found.soon_s
            for rooms in now_free.all():
                for number in rooms.members or ():
                    left[number] = rooms.free
        demands = [demand for demand in demands if demand.count]
        if not demands:
            return


def _releases(
    fleet: Sequence[Standing], past: Past, policy: Policy, now: datetime, horizon_s: float
) -> list[dict[int, Sizes]]:
    """What running jobs are expected to give back, by step and by worker."""
    steps: list[dict[int, Sizes]] = [{} for _ in range(STEPS)]
    if horizon_s <= 0:
        return steps
    share = policy.tuning.certainty
    durations, now_s = past.durations_s, now.timestamp()
    for number, item in enumerate(fleet):
        if item.room is None:
            continue
        for job in item.worker.running:
            left_s = residual_s(durations.get(job.job_type, ()), now_s - job.started_at.timestamp(), share)
            if left_s is not None and left_s <= horizon_s:
                step = steps[max(0, math.ceil(left_s / horizon_s * STEPS) - 1)]
                sizes = sizes_of(job.amount)
                step[number] = _plus(step[number], sizes) if number in step else sizes
    return steps


def _room_of(item: Standing) -> Sizes:
    return sizes_of(item.room) if item.room is not None else (0, 0, 0, 0)


def _note(place: Place, found: _Found) -> None:
    for rooms in place.all():
        if rooms.taken:
            found.used.update(rooms.members or ())


def _plus(one: Sizes, other: Sizes) -> Sizes:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])
