"""The life of a job, and the document that draws it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.states import (
    CAUSES,
    TERMINAL_STATES,
    TRANSITIONS,
    Cause,
    Event,
    IllegalTransition,
    Reason,
    State,
    next_state,
)

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "state-machine.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the document, without backticks and the header."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@given(st.lists(st.sampled_from(Event)))
def test_any_run_of_events_stays_within_the_table(events: list[Event]) -> None:
    state = State.QUEUED
    for event in events:
        if (state, event) in TRANSITIONS:
            assert not state.terminal
            state = next_state(state, event)
        else:
            with pytest.raises(IllegalTransition, match=f"a {state} job can't {event}"):
                next_state(state, event)


def test_nothing_follows_a_terminal_state() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == TERMINAL_STATES
    assert not {state for state, _ in TRANSITIONS} & TERMINAL_STATES


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {State.QUEUED}
    while more := {to for (state, _), to in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(State)
    ending = set(TERMINAL_STATES)
    while more := {state for (state, _), to in TRANSITIONS.items() if to in ending} - ending:
        ending |= more
    assert ending == set(State)


@pytest.mark.parametrize("state", [state for state in State if not state.terminal])
def test_every_state_that_is_not_an_end_can_be_cancelled(state: State) -> None:
    assert next_state(state, Event.CANCEL) is State.CANCELLED


def test_only_a_running_job_succeeds() -> None:
    assert [state for state, event in TRANSITIONS if event is Event.SUCCEED] == [State.RUNNING]


def test_every_reason_has_a_cause() -> None:
    assert set(CAUSES) == set(Reason)


def test_the_diagram_is_the_table() -> None:
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", DOCUMENT, re.MULTILINE)
    assert {(State(a), Event(e)): State(b) for a, b, e in drawn} == TRANSITIONS
    assert len(drawn) == len(TRANSITIONS)


def test_the_diagram_begins_and_ends_where_the_table_does() -> None:
    assert re.findall(r"^ +\[\*\] --> (\w+)$", DOCUMENT, re.MULTILINE) == ["queued"]
    assert set(re.findall(r"^ +(\w+) --> \[\*\]$", DOCUMENT, re.MULTILINE)) == set(TERMINAL_STATES)


def test_the_table_of_reasons_is_the_code() -> None:
    rows = {reason.strip("`"): cause for reason, cause, _ in table("Reasons")}
    assert rows == {reason.value: cause.value for reason, cause in CAUSES.items()}
    assert all(meaning for _, _, meaning in table("Reasons"))


def test_every_event_is_explained() -> None:
    assert [row[0].strip("`") for row in table("Events")] == [event.value for event in Event]


def test_every_cause_is_in_the_table_of_retries() -> None:
    assert {row[0] for row in table("Retries")} == {cause.value for cause in Cause}
