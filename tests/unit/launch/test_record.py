"""Job records: their moves, and how they read each other's writing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.states import TRANSITIONS, Event, IllegalTransition, Reason, State
from launch.record import JobRecord
from launch.subjects import JobId

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def first() -> JobRecord:
    """A queued job."""
    return JobRecord(queue="q", seq=7, job_type="train", submitted_at=NOW, updated_at=NOW)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_a_record_moves_as_the_table_says(events: list[Event]) -> None:
    record = first()
    for n, event in enumerate(events, start=1):
        now = NOW + timedelta(seconds=n)
        if (record.state, event) in TRANSITIONS:
            moved = record.moved(event, now, message=f"move {n}")
            assert moved.state is TRANSITIONS[record.state, event]
            assert (moved.updated_at, moved.message) == (now, f"move {n}")
            assert (
                moved.model_copy(
                    update={"state": record.state, "updated_at": record.updated_at, "message": record.message}
                )
                == record
            )
            record = moved
        else:
            with pytest.raises(IllegalTransition):
                record.moved(event, now)


def test_a_record_knows_its_id() -> None:
    assert first().id == JobId("q", 7)


def test_a_move_can_not_name_its_own_state() -> None:
    assert first().moved(Event.CLAIM, NOW, state=State.SUCCEEDED).state is State.PREPARING


def test_an_older_reader_ignores_newer_keys() -> None:
    body = first().model_dump_json().replace('"seq":7', '"seq":7,"invented_later":{"a":1}')
    assert JobRecord.model_validate_json(body) == first()


@given(st.text(st.characters(blacklist_categories=["Cs"])), st.sampled_from(Reason))
def test_a_record_survives_json(message: str, reason: Reason) -> None:
    record = first().moved(Event.FAIL, NOW, message=message, reason=reason, raw=message)
    assert JobRecord.model_validate_json(record.model_dump_json()) == record
    assert JobRecord.model_validate_json(record.model_dump_json(exclude_none=True)) == record
