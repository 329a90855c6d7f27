"""Names on the wire."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import subjects
from launch.errors import LaunchError
from launch.subjects import JobId, Priority, WorkConsumer

names = st.from_regex(subjects.NAME_PATTERN, fullmatch=True)
tokens = st.text(
    st.characters(blacklist_characters=". *>\t\r\n\0", blacklist_categories=["Cs"]), min_size=1, max_size=80
)
priorities = st.sampled_from(Priority)


@given(names, st.integers(1, 2**63 - 1))
def test_a_job_id_survives_text_and_key(queue: str, seq: int) -> None:
    job = JobId(queue, seq)
    assert JobId.parse(str(job)) == job
    assert JobId.from_key(job.key) == job


@pytest.mark.parametrize(
    "text",
    [
        "",
        "q",
        "q/",
        "/1",
        "q/0",
        "q/-1",
        "q/1.5",
        "q/x",
        "Q/1",
        "q/1/2",
        "q/\u0661",
        "q/" + "9" * 30,
        "q/+1",
        "q / 1",
        "q/1\n",
    ],
)
def test_what_is_no_job_id_is_named(text: str) -> None:
    with pytest.raises(LaunchError, match="is not a job id") as caught:
        JobId.parse(text)
    assert caught.value.hint


@given(st.text())
def test_any_text_is_a_job_id_or_a_clear_error(text: str) -> None:
    for read in (JobId.parse, JobId.from_key):
        try:
            job = read(text)
        except LaunchError:
            continue
        assert subjects.is_name(job.queue)
        assert job.seq >= 1


@given(names, tokens, priorities)
def test_a_job_subject_is_taken_apart_as_it_was_built(queue: str, job_type: str, priority: Priority) -> None:
    consumer = WorkConsumer(job_type, priority)
    subject = consumer.subject(queue)
    assert subjects.parse_job_subject(subject) == (queue, consumer)
    assert subjects.parse_job_subject(subject.replace("queue", "submitted", 1)) == (queue, consumer)
    assert sum(_matches(pattern, subject) for pattern in subjects.work_stream_subjects(queue)) == 1


@given(st.lists(st.one_of(tokens, st.sampled_from(["queue", "submitted", *Priority])), min_size=1, max_size=6))
def test_any_subject_is_a_jobs_or_a_clear_error(parts: list[str]) -> None:
    subject = ".".join(parts)
    try:
        queue, consumer = subjects.parse_job_subject(subject)
    except LaunchError:
        return
    assert consumer.subject(queue).partition(".")[2] == subject.partition(".")[2]
    assert any(_matches(pattern, consumer.subject(queue)) for pattern in subjects.work_stream_subjects(queue))


def _matches(pattern: str, subject: str) -> bool:
    """NATS's wildcard `*`: one token."""
    wanted, found = pattern.split("."), subject.split(".")
    return len(wanted) == len(found) and all(w in ("*", f) for w, f in zip(wanted, found, strict=True))


@given(st.tuples(st.one_of(names, tokens), priorities), st.tuples(st.one_of(names, tokens), priorities))
def test_two_consumers_never_share_a_name(one: tuple[str, Priority], other: tuple[str, Priority]) -> None:
    assert (WorkConsumer(*one).name == WorkConsumer(*other).name) == (one == other)


@given(names, names, priorities)
def test_a_name_that_looks_like_another_with_a_priority_is_not(base: str, tail: str, priority: Priority) -> None:
    """The pairs that a random search would hardly meet."""
    lookalikes = [base, f"{base}_{priority}", f"{base}-{priority}", f"{base}@{priority}", f"@{tail}", f"{base}@"]
    consumers = {WorkConsumer(job_type, p) for job_type in lookalikes for p in Priority}
    assert len({consumer.name for consumer in consumers}) == len(consumers)


@given(tokens)
def test_a_type_that_is_no_legal_name_takes_no_legal_types_name(job_type: str) -> None:
    consumer = WorkConsumer(job_type, Priority.MEDIUM)
    assert subjects.is_name(consumer.name) == subjects.is_name(job_type)


@given(st.one_of(names, tokens), priorities)
def test_a_consumers_name_is_one_that_the_server_takes(job_type: str, priority: Priority) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_@-]{1,128}", WorkConsumer(job_type, priority).name)


def test_priorities_are_served_in_this_order() -> None:
    assert sorted(Priority, key=lambda p: p.rank) == [Priority.CRITICAL, Priority.HIGH, Priority.MEDIUM, Priority.LOW]


@given(names)
def test_a_work_stream_names_its_queue(queue: str) -> None:
    assert subjects.queue_of_stream(subjects.work_stream(queue)) == queue


@pytest.mark.parametrize("stream", ["logs", "KV_queues", "OBJ_code"])
def test_another_stream_names_none(stream: str) -> None:
    assert subjects.queue_of_stream(stream) is None


@given(names, st.integers(1, 2**63 - 1), st.integers(1, 10**6), names, st.integers(1, 2**63 - 1), st.integers(1, 10**6))
def test_no_two_attempts_share_a_container_name(q1: str, s1: int, a1: int, q2: str, s2: int, a2: int) -> None:
    same = (q1, s1, a1) == (q2, s2, a2)
    assert (subjects.container_name(JobId(q1, s1), a1) == subjects.container_name(JobId(q2, s2), a2)) == same
    # One name may begin like another; `q-1`, 2 and `q`, 1 are the pair to fear.
    assert subjects.container_name(JobId(q1, s1), a1) != subjects.container_name(JobId(f"{q1[:40]}-{s1}", s2), a1)
