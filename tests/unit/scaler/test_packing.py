"""First-fit-decreasing, held against one that places job by job."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount
from scaler.core.packing import Packing, Room, pack
from scaler.core.snapshot import PendingJob
from tests.unit.scaler.worlds import CAPACITY, TYPES, capacities, job, jobs, pending_jobs

rooms = st.lists(
    st.tuples(capacities, st.sampled_from([None, None, ("eval",)])), max_size=4
).map(lambda found: [Room(f"r{n}", free, types) for n, (free, types) in enumerate(found)])  # fmt: skip


def one_by_one(pending: Sequence[PendingJob], given_rooms: Sequence[Room], capacity: Amount, limit: int) -> Packing:
    """The same by the book."""

    def size(item: PendingJob) -> tuple[float, int, int, int, int, str]:
        amount = item.amount
        share = amount.load_of(capacity)
        return (share, amount.gpus, amount.cpu_milli, amount.memory_bytes, amount.slots, item.job_type)

    free = [room.free for room in given_rooms]
    used, opened, in_new, left, misfits = set(), 0, 0, 0, []
    for item in sorted(pending, key=size, reverse=True):
        for at, room in enumerate(free):
            types = given_rooms[at].job_types if at < len(given_rooms) else None
            if item.amount.fits_in(room) and (types is None or item.job_type in types):
                break
        else:
            if not item.amount.fits_in(capacity):
                misfits.append(item)
                continue
            if opened == limit:
                left += 1
                continue
            opened += 1
            at = len(free)
            free.append(capacity)
        free[at] -= item.amount
        if at < len(given_rooms):
            used.add(given_rooms[at].name)
        else:
            in_new += 1
    return Packing(frozenset(used), opened, in_new, left, tuple(misfits))


@given(pending_jobs, rooms, capacities, st.integers(0, 4))
def test_it_packs_as_one_by_one_does(
    pending: tuple[PendingJob, ...], given_rooms: list[Room], capacity: Amount, limit: int
) -> None:
    found = pack(pending, given_rooms, capacity, limit)
    expected = one_by_one(pending, given_rooms, capacity, limit)
    assert (found.used, found.opened, found.in_new, found.left) == (
        expected.used, expected.opened, expected.in_new, expected.left,
    )  # fmt: skip
    assert {item.id for item in found.misfits} == {item.id for item in expected.misfits}


def test_existing_rooms_are_filled_before_new_ones_open() -> None:
    found = pack(jobs(6), [Room("a", CAPACITY)], CAPACITY, 5)
    assert (found.used, found.opened, found.in_new, found.left) == (frozenset({"a"}), 1, 2, 0)


def test_large_jobs_are_placed_first() -> None:
    """In the order of submission 1, 1, 3, 3 would need three machines of 4."""
    pending = [job(1, 1), job(2, 1), job(3, 3), job(4, 3)]
    assert pack(pending, [], CAPACITY, 9).opened == 2


def test_the_scarcest_dimension_decides() -> None:
    found = pack([job(n, 0.1, memory_gib=8) for n in range(1, 5)], [], CAPACITY, 9)
    assert found.opened == 2


def test_an_overdrawn_room_takes_nothing() -> None:
    over = Amount(cpu_milli=-1, memory_bytes=1, gpus=0, slots=3)
    assert pack([job(1, 0)], [Room("a", over)], CAPACITY, 0).left == 1


def test_rooms_take_only_their_types() -> None:
    found = pack(jobs(1), [Room("a", CAPACITY, ("eval",))], CAPACITY, 1)
    assert found.used == frozenset()
    assert found.opened == 1
    assert TYPES == ("train", "eval")


def test_a_hundred_thousand_jobs_are_packed_by_kind() -> None:
    found = pack([job(n, n % 4 + 1) for n in range(100_000)], [], CAPACITY, 200)
    assert found.opened == 200
    assert found.in_new + found.left == 100_000
