"""Whether and when a failed attempt is tried again."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.retry import FIRST_DELAY_S, MAX_DELAY_S, MAX_INTERRUPTIONS, RetryDecision, decide_retry
from launch.core.states import CAUSES, Cause, Reason
from tests.unit.launch.test_states import table

reasons = st.sampled_from(Reason)
counts = st.integers(0, 50)
jitters = st.floats(0, 1, exclude_max=True)


def of_cause(cause: Cause) -> list[Reason]:
    """The reasons of a cause, a cancel aside."""
    return [reason for reason in Reason if CAUSES[reason] is cause and reason is not Reason.CANCELLED]


@given(reasons, counts, counts, counts, jitters)
def test_counts_never_shrink_and_only_one_grows(
    reason: Reason, retries: int, failures: int, interruptions: int, jitter: float
) -> None:
    decision = decide_retry(
        reason=reason, retries=retries, failures=failures, interruptions=interruptions, jitter=jitter
    )
    grown = (decision.failures - failures, decision.interruptions - interruptions)
    assert grown in ((0, 0), (1, 0), (0, 1))
    assert 0 <= decision.delay_s <= MAX_DELAY_S
    assert decision.why
    if not decision.retry:
        assert decision.delay_s == 0


@pytest.mark.parametrize("reason", of_cause(Cause.JOB))
@given(retries=st.integers(0, 20), jitter=jitters)
def test_a_jobs_own_fault_is_tried_as_often_as_it_asks(reason: Reason, retries: int, jitter: float) -> None:
    assert attempts(reason, retries, jitter) == retries + 1


@pytest.mark.parametrize("reason", of_cause(Cause.INFRASTRUCTURE))
@given(retries=st.integers(0, 20), jitter=jitters)
def test_the_infrastructures_fault_is_bounded_and_spends_no_retries(
    reason: Reason, retries: int, jitter: float
) -> None:
    assert attempts(reason, retries, jitter) == MAX_INTERRUPTIONS + 1
    decision = decide_retry(reason=reason, retries=retries, failures=3, interruptions=0, jitter=jitter)
    assert (decision.retry, decision.failures, decision.interruptions) == (True, 3, 1)


def attempts(reason: Reason, retries: int, jitter: float) -> int:
    """How many attempts a job gets that fails for this reason every time."""
    decision = RetryDecision(True, 0, 0, 0, "")
    count = 0
    while decision.retry:
        count += 1
        decision = decide_retry(
            reason=reason,
            retries=retries,
            failures=decision.failures,
            interruptions=decision.interruptions,
            jitter=jitter,
        )
    return count


@pytest.mark.parametrize("reason", [*of_cause(Cause.CONFIGURATION), Reason.CANCELLED])
def test_what_would_fail_again_is_not_tried_again(reason: Reason) -> None:
    decision = decide_retry(reason=reason, retries=100, failures=1, interruptions=2, jitter=0.5)
    assert (decision.retry, decision.failures, decision.interruptions) == (False, 1, 2)


def test_a_preempted_job_waits_for_nothing() -> None:
    assert decide_retry(reason=Reason.PREEMPTED, retries=0, failures=0, interruptions=5, jitter=0.9).delay_s == 0


@given(jitters)
def test_the_delay_doubles_up_to_its_bound(jitter: float) -> None:
    delays = [
        decide_retry(
            reason=Reason.EXIT_NONZERO, retries=1000, failures=failures, interruptions=0, jitter=jitter
        ).delay_s
        for failures in range(40)
    ]
    assert FIRST_DELAY_S / 2 <= delays[0] <= FIRST_DELAY_S
    assert delays == sorted(delays)
    assert MAX_DELAY_S / 2 <= delays[-1] <= MAX_DELAY_S
    for before, after in pairwise(delays):
        assert after == pytest.approx(min(2 * before, delays[-1]))


def test_jitter_spreads_the_upper_half() -> None:
    low, high = (
        decide_retry(reason=Reason.AGENT_LOST, retries=0, failures=0, interruptions=3, jitter=jitter).delay_s
        for jitter in (0.0, 0.999)
    )
    # The fourth interruption: 8 s, of which the upper half is drawn.
    assert low == 4.0
    assert high == pytest.approx(8.0, rel=0.01)


def test_the_document_says_what_the_code_does() -> None:
    for cause_name, again, spends, bound, delay in table("Retries"):
        for reason in of_cause(Cause(cause_name)):
            decision = decide_retry(reason=reason, retries=1, failures=0, interruptions=0, jitter=0)
            assert (again == "yes") == decision.retry
            assert spends == ("`retries`" if decision.failures else "nothing")
        limit = {"`retries`": 1, "none": inf}.get(bound, 0)
        if again == "no":
            assert (bound, delay) == ("none", "none")
        elif not limit:
            assert bound == f"{MAX_INTERRUPTIONS} interruptions"
        if again == "yes":
            assert delay.startswith(f"{FIRST_DELAY_S:.0f} s, doubling up to {MAX_DELAY_S / 60:.0f} min")
