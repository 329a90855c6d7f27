"""Resource vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount

amounts = st.builds(
    Amount,
    cpu_milli=st.integers(0, 10**6),
    memory_bytes=st.integers(0, 2**50),
    gpus=st.integers(0, 64),
    slots=st.integers(0, 1000),
)


@given(amounts, st.lists(amounts))
def test_giving_back_what_was_taken_restores_the_start(total: Amount, taken: list[Amount]) -> None:
    free = total
    for amount in taken:
        free = free - amount
    for amount in reversed(taken):
        free = free + amount
    assert free == total


@given(amounts, amounts)
def test_what_fits_leaves_nothing_negative(amount: Amount, room: Amount) -> None:
    left = room - amount
    fits = min(left.cpu_milli, left.memory_bytes, left.gpus, left.slots) >= 0
    assert amount.fits_in(room) == fits
    assert (amount.shortfall(room) == "") == fits


@given(amounts, amounts, amounts)
def test_what_fits_beside_another_fits_alone(one: Amount, other: Amount, room: Amount) -> None:
    if (one + other).fits_in(room):
        assert one.fits_in(room)
        assert other.fits_in(room - one)


@given(amounts, amounts)
def test_the_load_is_a_share_of_what_fits(used: Amount, total: Amount) -> None:
    load = used.load_of(total)
    assert load >= 0
    if used.fits_in(total):
        assert load <= 1


@pytest.mark.parametrize("dimension", Amount.model_fields)
def test_each_dimension_counts_to_the_last_unit(dimension: str) -> None:
    room = Amount(cpu_milli=5, memory_bytes=5, gpus=5, slots=5)
    assert room.fits_in(room)
    more = room.model_copy(update={dimension: 6})
    assert not more.fits_in(room)
    assert " of " in more.shortfall(room)
    assert room.fits_in(more)


def test_a_shortfall_has_the_numbers() -> None:
    wanted = Amount(cpu_milli=4000, memory_bytes=8 * 2**30, gpus=1, slots=1)
    room = Amount(cpu_milli=2000, memory_bytes=8 * 2**30, slots=1)
    assert wanted.shortfall(room) == "cpu 4 of 2, gpu 1 of 0"
    assert Amount(memory_bytes=2**30, slots=2).shortfall(Amount()) == "memory 1Gi of 0B, jobs at once 2 of 0"


def test_the_load_ignores_what_a_worker_has_none_of() -> None:
    assert Amount(cpu_milli=500, memory_bytes=2**29).load_of(Amount(cpu_milli=2000, memory_bytes=2**30)) == 0.5
    assert Amount().load_of(Amount()) == 0
