"""The worker's books: nothing is given out twice, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.ledger import Holding, Ledger
from launch.core.capacity import Amount
from launch.subjects import JobId

GPUS = ("GPU-a", "GPU-b", "GPU-c")
CAPACITY = Amount(cpu_milli=4000, memory_bytes=1000, gpus=3, slots=4)
A, B, C = JobId("q", 1), JobId("q", 2), JobId("q", 3)


def amount(cpu_milli: int = 0, memory_bytes: int = 0, gpus: int = 0) -> Amount:
    return Amount(cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=gpus, slots=1)


def test_a_job_holds_what_it_asks_for_until_it_is_released() -> None:
    ledger = Ledger(CAPACITY, GPUS)
    holding = ledger.hold(A, amount(1000, 200, 2))
    assert holding == Holding(amount(1000, 200, 2), ("GPU-a", "GPU-b"))
    assert ledger.held_by(A) == holding
    assert ledger.free == Amount(cpu_milli=3000, memory_bytes=800, gpus=1, slots=3)
    ledger.release(A, holding)
    assert ledger.free == ledger.capacity == CAPACITY
    with pytest.raises(KeyError):
        ledger.held_by(A)


def test_what_does_not_fit_is_refused_with_the_numbers_and_changes_nothing() -> None:
    ledger = Ledger(CAPACITY, GPUS)
    ledger.hold(A, amount(3000, gpus=2))
    with pytest.raises(ValueError, match=r"q/2 does not fit: cpu 1.5 of 1, gpu 2 of 1"):
        ledger.hold(B, amount(1500, gpus=2))
    assert ledger.hold(B, amount(1000, gpus=1)).gpus == ("GPU-c",)


def test_a_job_holds_once() -> None:
    ledger = Ledger(CAPACITY, GPUS)
    holding = ledger.hold(A, amount(1000))
    with pytest.raises(ValueError, match="q/1 holds resources already"):
        ledger.hold(A, amount(1000))
    ledger.release(A, holding)
    ledger.release(A, holding)
    assert ledger.free == CAPACITY


def test_a_late_release_of_one_attempt_leaves_the_next_ones() -> None:
    ledger = Ledger(CAPACITY, GPUS)
    first = ledger.hold(A, amount(gpus=1))
    ledger.release(A, first)
    second = ledger.hold(A, amount(gpus=1))
    ledger.release(A, first)
    assert ledger.held_by(A) is second
    assert ledger.free.gpus == 2


def test_load_is_the_fullest_dimension() -> None:
    ledger = Ledger(CAPACITY, GPUS)
    assert ledger.load == 0
    ledger.hold(A, amount(1000, 900))
    assert ledger.load == pytest.approx(0.9)
    ledger.hold(B, amount(gpus=3))
    assert ledger.load == 1


def test_the_number_of_gpus_is_that_of_their_uuids() -> None:
    with pytest.raises(ValueError, match="3 GPUs, but 1 UUIDs"):
        Ledger(CAPACITY, ("GPU-a",))


amounts = st.builds(amount, st.integers(0, 4000), st.integers(0, 1000), st.integers(0, 3))
jobs = st.sampled_from([JobId("q", seq) for seq in range(1, 8)])
steps = st.lists(st.tuples(jobs, st.none() | amounts), max_size=60)


@given(steps)
def test_free_and_held_are_the_capacity_and_no_gpu_is_shared(plan: list[tuple[JobId, Amount | None]]) -> None:
    ledger = Ledger(CAPACITY, GPUS)
    held: dict[JobId, Holding] = {}
    for job, wanted in plan:
        if wanted is None:
            if job in held:
                ledger.release(job, held.pop(job))
        elif job in held or not wanted.fits_in(ledger.free):
            with pytest.raises(ValueError, match=str(job)):
                ledger.hold(job, wanted)
        else:
            held[job] = ledger.hold(job, wanted)
        total = ledger.free
        for holding in held.values():
            total += holding.amount
        assert total == CAPACITY
        assert Amount().fits_in(ledger.free)
        given_out = [gpu for holding in held.values() for gpu in holding.gpus]
        assert len(set(given_out)) == len(given_out) == CAPACITY.gpus - ledger.free.gpus
        assert set(given_out) <= set(GPUS)
        assert all(len(holding.gpus) == holding.amount.gpus for holding in held.values())
        assert 0 <= ledger.load <= 1
