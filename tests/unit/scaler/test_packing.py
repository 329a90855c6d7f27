"""First-fit, held against one that places job by job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount
from scaler.core.packing import Demand, Place, Rooms, how_many, least_of, open_new, sizes_of
from scaler.core.snapshot import Pending, PendingJob
from tests.unit.scaler.worlds import CAPACITY, capacities, job, jobs, pending_jobs

given_rooms = st.lists(
    st.tuples(capacities, st.integers(1, 3), st.sampled_from([None, None, ("eval",)])), max_size=4
).map(
    lambda found: [
        (free, types) for free, count, types in found for _ in range(count)
    ]
)  # fmt: skip
Given = Sequence[tuple[Amount, tuple[str, ...] | None]]


@dataclass(frozen=True)
class Packed:
    used: frozenset[int]
    opened: int
    in_new: int
    left: int
    misfits: int


def size(amount: Amount, job_type: str, capacity: Amount) -> tuple[float, int, int, int, int, str]:
    share = amount.load_of(capacity)
    return (share, amount.gpus, amount.cpu_milli, amount.memory_bytes, amount.slots, job_type)


def demands_of(pending: Sequence[PendingJob], capacity: Amount, lasts_s: float | None = None) -> list[Demand]:
    return [
        Demand(group, sizes_of(group.amount), group.count, lasts_s, group.amount.load_of(capacity),
               group.amount.fits_in(capacity))
        for group in Pending.of(pending).groups
    ]  # fmt: skip


def pack(
    pending: Sequence[PendingJob], rooms: Given, capacity: Amount, limit: int, lasts_s: float | None = None
) -> Packed:
    """The largest first, into rooms that are there and then into new ones, alike ones together."""
    demands = demands_of(pending, capacity, lasts_s)
    demands.sort(key=lambda demand: size(demand.group.amount, demand.group.job_type, capacity), reverse=True)
    alike: list[Rooms] = []
    for number, (free, types) in enumerate(rooms):
        if alike and (alike[-1].free, alike[-1].job_types) == (sizes_of(free), types):
            alike[-1] = Rooms(alike[-1].free, alike[-1].count + 1, [*(alike[-1].members or ()), number], types)
        else:
            alike.append(Rooms(sizes_of(free), 1, [number], types))
    place, opened, in_new, left, misfits = Place(alike, least_of(demands)), 0, 0, 0, 0
    for demand in demands:
        before = demand.count - place.fill(demand, 0.0)
        opened += open_new(place, demand, sizes_of(capacity), 0.0, 0.0, limit - opened) if demand.fits else 0
        in_new += before - demand.count
        left += demand.count if demand.fits else 0
        misfits += 0 if demand.fits else demand.count
    taken = [rooms for rooms in place.all() if rooms.taken]
    assert not any(min(rooms.free) < 0 for rooms in taken)
    used = frozenset(number for rooms in taken for number in rooms.members or ())
    return Packed(used, opened, in_new, left, misfits)


def one_by_one(pending: Sequence[PendingJob], rooms: Given, capacity: Amount, limit: int) -> Packed:
    """The same by the book."""
    free = [room for room, _ in rooms]
    used, opened, left, misfits = set(), 0, 0, 0
    for item in sorted(pending, key=lambda item: size(item.amount, item.job_type, capacity), reverse=True):
        for at, room in enumerate(free):
            types = rooms[at][1] if at < len(rooms) else None
            if item.amount.fits_in(room) and (types is None or item.job_type in types):
                break
        else:
            if not item.amount.fits_in(capacity):
                misfits += 1
                continue
            if opened == limit:
                left += 1
                continue
            opened += 1
            at = len(free)
            free.append(capacity)
        free[at] -= item.amount
        if at < len(rooms):
            used.add(at)
    return Packed(frozenset(used), opened, 0, left, misfits)


@given(pending_jobs, given_rooms, capacities, st.integers(0, 4))
def test_it_packs_as_one_by_one_does(
    pending: tuple[PendingJob, ...], rooms: list[tuple[Amount, tuple[str, ...] | None]], capacity: Amount, limit: int
) -> None:
    found, expected = pack(pending, rooms, capacity, limit), one_by_one(pending, rooms, capacity, limit)
    assert (found.used, found.opened, found.left, found.misfits) == (
        expected.used, expected.opened, expected.left, expected.misfits,
    )  # fmt: skip


def test_existing_rooms_are_filled_before_new_ones_open() -> None:
    assert pack(jobs(6), [(CAPACITY, None)], CAPACITY, 5) == Packed(frozenset({0}), 1, 2, 0, 0)


def test_large_jobs_are_placed_first() -> None:
    """In the order of submission 1, 1, 3, 3 would need three machines of 4."""
    pending = [job(1, 1), job(2, 1), job(3, 3), job(4, 3)]
    assert pack(pending, [], CAPACITY, 9).opened == 2


def test_the_scarcest_dimension_decides() -> None:
    assert pack([job(n, 0.1, memory_gib=8) for n in range(1, 5)], [], CAPACITY, 9).opened == 2


def test_an_overdrawn_room_takes_nothing() -> None:
    over = Amount(cpu_milli=-1, memory_bytes=1, gpus=0, slots=3)
    assert pack([job(1, 0)], [(over, None)], CAPACITY, 0).left == 1
    assert how_many((-1, 1, 0, 3), (0, 0, 0, 1), 1) == 0


def test_rooms_take_only_their_types() -> None:
    found = pack(jobs(1), [(CAPACITY, ("eval",))], CAPACITY, 1)
    assert (found.used, found.opened) == (frozenset(), 1)


def test_a_hundred_thousand_jobs_are_packed_by_kind() -> None:
    found = pack([job(n, n % 4 + 1) for n in range(100_000)], [], CAPACITY, 200)
    assert found.opened == 200
    assert found.in_new + found.left == 100_000


def test_short_jobs_take_turns() -> None:
    """Four places for a minute: 4 now, 4 after 25 s and 4 after 50 s; 13 jobs need a place that is not there."""
    demand = demands_of(jobs(13), CAPACITY, lasts_s=25.0)[0]
    place = Place([Rooms(sizes_of(CAPACITY), 1, [0])], demand.sizes)
    assert (place.fill(demand, 60.0), demand.count) == (12, 1)
    few = demands_of(jobs(4), CAPACITY, lasts_s=25.0)[0]
    place = Place([Rooms(sizes_of(CAPACITY), 1, [0])], few.sizes)
    place.fill(few, 60.0)
    assert [rooms.free[3] for rooms in place.all()] == [2]
