"""A delivery and a record: every row of the decision, and what holds for all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.claim import ClaimDecision, Verdict, decide_claim
from launch.core.capacity import Amount
from launch.core.states import TERMINAL_STATES, State
from launch.presence import AgentPresence
from launch.record import CancelRequest, JobRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE_S = 15.0
ME = "me"
OWNED = (State.PREPARING, State.RUNNING)
CANCEL = CancelRequest(requested_at=NOW, by="somebody@test")


def record(state: State, agent: str | None = "other", *, cancelled: bool = False) -> JobRecord:
    return JobRecord(
        queue="q",
        seq=7,
        job_type="train",
        state=state,
        agent=agent,
        attempt=1,
        cancel=CANCEL if cancelled else None,
        submitted_at=NOW - timedelta(days=1),
        updated_at=NOW,
    )


def owner(*holds: str, agent_id: str = "other") -> AgentPresence:
    room = Amount(cpu_milli=2000, slots=2)
    return AgentPresence(
        agent_id=agent_id, queue="q", capacity=room, free=room, holds=holds, version="1", host="h", started_at=NOW
    )


def decide(
    known: JobRecord | None,
    *,
    running_here: bool = False,
    present: AgentPresence | None = None,
    connected_for_s: float = 3600.0,
    unchanged_for_s: float = 3600.0,
) -> ClaimDecision:
    return decide_claim(
        known,
        me=ME,
        running_here=running_here,
        owner=present,
        connected_for_s=connected_for_s,
        lease_s=LEASE_S,
        unchanged_for_s=unchanged_for_s,
    )


def test_without_a_record_it_is_queued_and_claimed() -> None:
    assert decide(None).verdict is Verdict.CLAIM


def test_a_queued_job_is_claimed_whoever_had_it_before() -> None:
    assert decide(record(State.QUEUED)).verdict is Verdict.CLAIM
    assert decide(record(State.QUEUED, ME)).verdict is Verdict.CLAIM
    assert decide(record(State.QUEUED, None), connected_for_s=0).verdict is Verdict.CLAIM


def test_a_queued_job_that_was_cancelled_is_not_claimed() -> None:
    assert decide(record(State.QUEUED, cancelled=True)).verdict is Verdict.CANCEL


@pytest.mark.parametrize("state", sorted(TERMINAL_STATES))
def test_what_has_ended_is_a_late_duplicate(state: State) -> None:
    decision = decide(record(state, ME), running_here=True)
    assert decision.verdict is Verdict.ACK
    assert state in decision.why


@pytest.mark.parametrize("state", OWNED)
def test_what_runs_here_is_kept_cancelled_or_not(state: State) -> None:
    assert decide(record(state, ME), running_here=True, connected_for_s=0).verdict is Verdict.KEEP
    # The running attempt hears of the cancel by itself, and stops its container.
    assert decide(record(state, ME, cancelled=True), running_here=True).verdict is Verdict.KEEP


@pytest.mark.parametrize("state", OWNED)
def test_what_was_mine_before_a_restart_is_taken_over_at_once(state: State) -> None:
    assert decide(record(state, ME), connected_for_s=0).verdict is Verdict.TAKE_OVER
    assert decide(record(state, ME, cancelled=True)).verdict is Verdict.CANCEL


@pytest.mark.parametrize("state", OWNED)
def test_a_present_owner_that_holds_it_is_left_alone(state: State) -> None:
    decision = decide(record(state), present=owner("q/1", "q/7"))
    assert decision == ClaimDecision(Verdict.LEAVE, "other holds it")


def test_a_present_owner_that_may_be_about_to_list_it_is_given_a_lease() -> None:
    decision = decide(record(State.PREPARING), present=owner("q/70"), unchanged_for_s=5.0)
    assert decision.verdict is Verdict.WAIT
    assert decision.delay_s == pytest.approx(LEASE_S - 5.0)


def test_a_present_owner_that_does_not_hold_it_is_as_good_as_absent() -> None:
    decision = decide(record(State.RUNNING), unchanged_for_s=LEASE_S, present=owner("q/70", "other/7"))
    assert (decision.verdict, decision.why) == (Verdict.TAKE_OVER, "other is present but does not hold it")
    assert decide(record(State.RUNNING, cancelled=True), present=owner()).verdict is Verdict.CANCEL


def test_an_absent_owner_may_only_have_blinked_until_i_was_connected_for_a_lease() -> None:
    decision = decide(record(State.RUNNING), connected_for_s=LEASE_S - 4.0)
    assert decision.verdict is Verdict.WAIT
    assert decision.delay_s == pytest.approx(4.0)
    decision = decide(record(State.RUNNING), connected_for_s=LEASE_S)
    assert (decision.verdict, decision.why) == (Verdict.TAKE_OVER, "other is gone")
    assert decide(record(State.RUNNING, cancelled=True)).verdict is Verdict.CANCEL


# -- for any delivery ---------------------------------------------------------------------------------------------

records = st.builds(
    record,
    st.sampled_from(State),
    st.sampled_from([ME, "other", None]),
    cancelled=st.booleans(),
)
owners = st.none() | st.builds(owner, st.sampled_from(["q/7", "q/70", "q/1"]))
connections = st.floats(0, 1e5)


@given(records, st.booleans(), connections)
def test_a_present_owner_that_lists_the_job_is_never_robbed(
    known: JobRecord, running_here: bool, connected_for_s: float
) -> None:
    present = owner("q/1", "q/7")
    decision = decide(known, running_here=running_here, present=present, connected_for_s=connected_for_s)
    if known.state in OWNED and known.agent != ME:
        assert decision.verdict is Verdict.LEAVE


@given(st.sampled_from(sorted(TERMINAL_STATES)), st.booleans(), st.booleans(), owners, connections)
def test_a_terminal_record_is_always_acked(
    state: State, cancelled: bool, running_here: bool, present: AgentPresence | None, connected_for_s: float
) -> None:
    for agent in (ME, "other", None):
        known = record(state, agent, cancelled=cancelled)
        decision = decide(known, running_here=running_here, present=present, connected_for_s=connected_for_s)
        assert decision.verdict is Verdict.ACK


@given(records, owners, st.floats(0, LEASE_S, exclude_max=True))
def test_nothing_of_an_absent_owner_is_taken_within_a_lease_of_a_reconnect(
    known: JobRecord, present: AgentPresence | None, connected_for_s: float
) -> None:
    decision = decide(known, present=present, connected_for_s=connected_for_s)
    if known.state in OWNED and known.agent != ME and present is None:
        assert decision.verdict is Verdict.WAIT


@given(st.none() | records, st.booleans(), owners, connections)
def test_what_was_cancelled_is_never_started_again(
    known: JobRecord | None, running_here: bool, present: AgentPresence | None, connected_for_s: float
) -> None:
    decision = decide(known, running_here=running_here, present=present, connected_for_s=connected_for_s)
    if known is not None and known.cancel is not None:
        assert decision.verdict not in (Verdict.CLAIM, Verdict.TAKE_OVER)


@given(st.none() | records, st.booleans(), owners, connections, st.floats(0, 1e5))
def test_a_wait_ends_within_a_lease_and_nothing_else_waits(
    known: JobRecord | None,
    running_here: bool,
    present: AgentPresence | None,
    connected_for_s: float,
    unchanged_for_s: float,
) -> None:
    decision = decide(
        known,
        running_here=running_here,
        present=present,
        connected_for_s=connected_for_s,
        unchanged_for_s=unchanged_for_s,
    )
    assert decision.why
    if decision.verdict is Verdict.WAIT:
        assert 0 < decision.delay_s <= LEASE_S
    else:
        assert decision.delay_s == 0
    # And once the wait is over, with nothing changed, it is decided.
    if decision.verdict is Verdict.WAIT and known is not None:
        after = decide(
            known,
            present=present,
            connected_for_s=connected_for_s + LEASE_S,
            unchanged_for_s=unchanged_for_s + LEASE_S,
        )
        assert after.verdict in (Verdict.TAKE_OVER, Verdict.CANCEL)
