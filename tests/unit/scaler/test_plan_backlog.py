"""Pending jobs kept from look to look, held against the same made anew at each look."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from scaler.core.backlog import Backlog
from scaler.core.snapshot import NAMED_AT_MOST, Pending, PendingGroup, PendingJob
from tests.unit.scaler.worlds import NOW, ago, job

numbers = st.integers(1, 12)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), numbers),
        st.tuples(st.just("remove"), numbers),
        st.tuples(st.just("look"), st.frozensets(numbers)),
    ),
    max_size=40,
)


def made(number: int) -> PendingJob:
    """One of four kinds, in the order of their numbers."""
    plain = job(number, 1 + number % 2)
    return replace(plain, rank=number % 4 // 2, arrived_at=NOW + timedelta(seconds=number))


def of(view: Pending) -> dict[tuple[str, int, int], PendingGroup]:
    return {(group.job_type, group.rank, group.amount.cpu_milli): group for group in view.groups}


@given(steps)
def test_a_view_is_what_came_and_neither_went_nor_is_held(taken: list[tuple[str, int | frozenset[int]]]) -> None:
    backlog, there = Backlog(), set[int]()
    for step, what in [*taken, ("look", frozenset())]:
        if isinstance(what, frozenset):
            held = frozenset(f"q/{number}" for number in what)
            expected = of(Pending.of(made(number) for number in there - what))
            found = of(backlog.view(held))
            assert found == expected
        elif step == "add":
            there.add(what)
            backlog.add(made(what))
        else:
            there.discard(what)
            backlog.remove([f"q/{what}"])
    assert len(backlog) == len(there)


def test_an_unchanged_kind_is_not_looked_at_again() -> None:
    backlog = Backlog(job(number, number % 2) for number in range(1, 1001))
    first = backlog.view()
    backlog.remove(["q/3"])
    second = backlog.view(frozenset({"q/5"}))
    assert [one is other for one, other in zip(first.groups, second.groups, strict=True)] == [False, True]
    assert (second.groups[0].count, len(second.groups[0].ids)) == (498, NAMED_AT_MOST)


def test_a_job_that_was_handed_back_is_the_oldest_again() -> None:
    backlog = Backlog([replace(job(number), arrived_at=ago(100 - number)) for number in (1, 2, 3)])
    backlog.view(frozenset({"q/1", "q/2"}))
    assert backlog.view(frozenset({"q/2"})).groups[0].ids == ("q/1", "q/3")
    assert backlog.view(beyond=7, paused=True).count == 10


def test_a_job_that_is_held_before_it_is_heard_of_is_not_pending() -> None:
    backlog = Backlog()
    assert backlog.view(frozenset({"q/1"})).groups == ()
    backlog.add(job(1))
    assert backlog.view(frozenset({"q/1"})).groups == ()
    assert "q/1" in backlog
    assert backlog.view().count == 1
    backlog.clear()
    assert backlog.view().count == len(backlog) == 0
