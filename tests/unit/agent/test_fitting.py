"""Run it, keep it, pass it on, or say that nobody ever can: every row, and what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.fitting import LATER_DELAY_S, PASS_DELAY_S, Fit, FitDecision, decide_fit
from launch.core.capacity import Amount
from launch.presence import AgentPresence, AgentState

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def room(cpus: int, slots: int = 2) -> Amount:
    return Amount(cpu_milli=cpus * 1000, slots=slots)


def other(
    agent_id: str = "b", *, free: Amount, capacity: Amount, state: AgentState = AgentState.READY
) -> AgentPresence:
    return AgentPresence(
        agent_id=agent_id, queue="q", state=state, capacity=capacity, free=free, version="1", host="h", started_at=NOW
    )


def decide(
    cpus: int,
    *,
    free: Amount,
    capacity: Amount,
    others: Sequence[AgentPresence] = (),
    held_for_s: float = 0.0,
    waited_s: float = 0.0,
    more_may_come: bool = False,
) -> FitDecision:
    return decide_fit(
        room(cpus, 1),
        free=free,
        capacity=capacity,
        others=others,
        held_for_s=held_for_s,
        hold_s=60.0,
        waited_s=waited_s,
        more_may_come=more_may_come,
    )


def test_what_fits_runs_whoever_else_has_room() -> None:
    rest = other(free=room(8), capacity=room(8))
    assert decide(2, free=room(2), capacity=room(4), others=[rest]).fit is Fit.RUN


def test_somebody_with_room_gets_it() -> None:
    rest = other(free=room(2), capacity=room(2))
    decision = decide(2, free=room(1), capacity=room(4), others=[rest])
    assert decision == FitDecision(Fit.PASS_ON, "b has room", PASS_DELAY_S)


@pytest.mark.parametrize("state", [AgentState.DRAINING, AgentState.DRAINED])
def test_somebody_who_drains_gets_nothing(state: AgentState) -> None:
    rest = other(free=room(8), capacity=room(8), state=state)
    assert decide(2, free=room(1), capacity=room(4), others=[rest]).fit is Fit.HOLD
    assert decide(6, free=room(4), capacity=room(4), others=[rest]).fit is Fit.NEVER


def test_without_room_anywhere_it_is_kept_with_the_numbers() -> None:
    full = other(free=room(0), capacity=room(4))
    decision = decide(2, free=room(1), capacity=room(4), others=[full], held_for_s=59.9)
    assert decision == FitDecision(Fit.HOLD, "no room now: cpu 2 of 1 free")


def test_it_is_kept_for_a_bounded_time() -> None:
    decision = decide(2, free=room(1), capacity=room(4), held_for_s=60.0)
    assert decision == FitDecision(Fit.PASS_ON, "no room came free: cpu 2 of 1 free", 60.0)
    assert LATER_DELAY_S < 60.0


def test_the_longer_it_has_waited_the_longer_it_is_kept_and_then_stays_away() -> None:
    long_kept = decide(2, free=room(1), capacity=room(4), held_for_s=899.0, waited_s=3600.0)
    assert long_kept.fit is Fit.HOLD
    given_up = decide(2, free=room(1), capacity=room(4), held_for_s=900.0, waited_s=3600.0)
    assert (given_up.fit, given_up.delay_s) == (Fit.PASS_ON, 900.0)


def test_slots_count_too() -> None:
    decision = decide(1, free=room(4, 0), capacity=room(4))
    assert decision == FitDecision(Fit.HOLD, "no room now: jobs at once 1 of 0 free")


def test_what_only_a_larger_worker_can_run_is_left_to_it() -> None:
    larger = other(free=room(0), capacity=room(8))
    decision = decide(6, free=room(4), capacity=room(4), others=[larger], held_for_s=600.0)
    assert decision == FitDecision(Fit.PASS_ON, "too large here, b could run it", LATER_DELAY_S)


def test_what_nobody_can_run_is_never_run_unless_a_larger_machine_may_come() -> None:
    decision = decide(6, free=room(4), capacity=room(4))
    assert decision == FitDecision(Fit.NEVER, "it asks for more than any worker has: cpu 6 of 4")
    decision = decide(6, free=room(4), capacity=room(4), more_may_come=True)
    assert (decision.fit, decision.delay_s) == (Fit.PASS_ON, LATER_DELAY_S)
    assert "cpu 6 of 4" in decision.why


amounts = st.builds(
    lambda cpu, memory, gpus: Amount(cpu_milli=cpu, memory_bytes=memory, gpus=gpus, slots=1),
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 3),
)  # fmt: skip
rooms = st.builds(
    lambda cpu, memory, gpus, slots: Amount(cpu_milli=cpu, memory_bytes=memory, gpus=gpus, slots=slots),
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip


@st.composite
def halls(draw: st.DrawFn) -> tuple[Amount, Amount]:
    """A capacity, and what is free of it."""
    held, free = draw(rooms), draw(rooms)
    return held + free, free


agents = st.builds(
    lambda hall, state: other(free=hall[1], capacity=hall[0], state=state), halls(), st.sampled_from(AgentState)
)


@given(amounts, halls(), st.lists(agents, max_size=4), st.floats(0, 200), st.booleans())
def test_every_decision_is_sound(
    amount: Amount, hall: tuple[Amount, Amount], others: list[AgentPresence], held_for_s: float, more_may_come: bool
) -> None:
    capacity, free = hall
    decision = decide_fit(
        amount,
        free=free,
        capacity=capacity,
        others=others,
        held_for_s=held_for_s,
        hold_s=60.0,
        waited_s=0.0,
        more_may_come=more_may_come,
    )
    ready = [one for one in others if one.state is AgentState.READY]
    assert (decision.fit is Fit.RUN) == amount.fits_in(free)
    assert (decision.delay_s > 0) == (decision.fit is Fit.PASS_ON)
    if decision.fit is Fit.HOLD:
        assert held_for_s < 60.0
        assert amount.fits_in(capacity)
        assert not any(amount.fits_in(one.free) for one in ready)
    if decision.fit is Fit.NEVER:
        assert not more_may_come
        assert not any(amount.fits_in(one.capacity) for one in ready)
        assert not amount.fits_in(capacity)
