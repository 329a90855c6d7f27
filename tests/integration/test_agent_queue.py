"""What an agent takes from a real queue: from plain publishers, in order, as much as fits, and without letting go."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats.errors
import pytest

from launch.core.states import Reason, State
from launch.subjects import MAX_SPEC_BYTES, RAW_KEPT_BYTES
from tests.integration.agent_lab import HOLD, LIMIT_S, Lab

pytestmark = [pytest.mark.docker, pytest.mark.nats]

LONG_ACK_WAIT_S = 3.0
"""A word in each third of it: no stall of the machine may look like one that was left out."""


# -- plain publishers -----------------------------------------------------------------------------------------------


async def test_a_plain_publish_of_a_type_never_used_before_is_taken_at_once(lab: Lab) -> None:
    async with lab.agent():
        for kind in ("train", "brand-new", "brand-new.high"):
            record = await lab.ended(await lab.submit(kind, command=["true"]))
            assert record.state is State.SUCCEEDED, record.message
            assert record.claimed_at is not None
            assert (record.claimed_at - record.submitted_at).total_seconds() < 10  # half the time to the next resync
            assert record.job_type == kind.partition(".")[0]
        # A publish that nobody hears of: no request, no ack, no reply.
        await lab.raw.publish(f"queue.{lab.queue}.fire-and-forget", json.dumps({"image": lab.image}).encode())
        await lab.raw.flush()
        record = await lab.until(type(record.id)(lab.queue, record.seq + 1), lambda found: found.state.terminal)
        assert record.job_type == "fire-and-forget"


async def test_a_shape_of_subject_that_is_no_job_is_refused_to_its_publisher(lab: Lab) -> None:
    for kind in ("train.urgent", "train.high.now"):
        with pytest.raises(nats.errors.NoRespondersError):
            await lab.publish(b"{}", kind)


BODIES = [
    ("train", b"python train.py", "not JSON"),
    ("train", b"", "empty body"),
    ("train", bytes(range(256)) * 300, "not JSON"),
    ("train", b'{"image": "x", "imagee": "y"}', "imagee: found an unknown key"),
    ("train", json.dumps({"image": "x", "env": {"A": "x" * MAX_SPEC_BYTES}}).encode(), f"at most {MAX_SPEC_BYTES}"),
    ("train", json.dumps({f"k{number}": 1 for number in range(10_000)}).encode(), "unknown key"),
    ("Train", b'{"image": "x"}', "job_type: found 'Train'"),
    ("-x.critical", b'{"image": "x"}', "job_type: found '-x'"),
]


async def test_what_is_no_job_becomes_a_record_and_the_agent_goes_on(lab: Lab) -> None:
    async with lab.agent():
        for kind, body, words in BODIES:
            job = await lab.publish(body, kind)
            record = await lab.ended(job)
            assert (record.state, record.reason) == (State.FAILED, Reason.INVALID_SPEC), words
            assert record.message is not None
            assert words in record.message
            assert record.raw == body[:RAW_KEPT_BYTES].decode(errors="backslashreplace")
            assert record.raw_bytes == len(body)
        assert (await lab.ended(await lab.submit(command=["true"]))).state is State.SUCCEEDED
    assert await lab.left() == 0


async def test_the_most_urgent_job_goes_first(lab: Lab) -> None:
    order = ("train.low", "train", "eval.high", "train.critical", "eval", "train.high")
    jobs = [await lab.submit(kind, command=["true"]) for kind in order]
    async with lab.agent(max_jobs=1):
        records = [await lab.ended(job) for job in jobs]
    claimed = sorted(records, key=lambda record: str(record.claimed_at))
    assert [record.priority for record in claimed] == ["critical", "high", "high", "medium", "medium", "low"]


# -- capacity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "resources"),
    [
        ({"max_jobs": 2}, {}),
        ({"cpu_milli": 1000, "max_jobs": 9}, {"cpu": 0.5}),
        ({"memory_bytes": 100 * 2**20, "max_jobs": 9}, {"memory": "40Mi"}),
    ],
    ids=["max_jobs", "cpu", "memory"],
)
async def test_as_many_jobs_run_at_a_time_as_fit(lab: Lab, offer: dict[str, Any], resources: dict[str, Any]) -> None:
    lab.ack_wait_s = LONG_ACK_WAIT_S
    async with lab.agent(**offer), lab.answers() as answers:
        jobs = [await lab.submit(command=HOLD, resources=resources) for _ in range(3)]
        for job in jobs[:2]:
            await lab.until(job, State.RUNNING)
        await lab.presence(lambda entry: entry is not None and len(entry.holds) == 2)
        # For longer than an ack wait: what is held, or kept back for want of room, is spoken for every third of it.
        kept_back = "max_jobs" not in resources and offer["max_jobs"] == 9
        words = 0
        async with asyncio.timeout(LIMIT_S):
            while words < 5:
                seq, delivered, word = await answers.get()
                assert (delivered, word) == (1, b"+WPI")
                words += seq == (jobs[2].seq if kept_back else jobs[0].seq)
        assert await lab.client.records.get(jobs[2]) is None
        assert len(lab.containers()) == 2
        await lab.release(jobs[0])
        await lab.until(jobs[2], State.RUNNING)
        for job in jobs[1:]:
            await lab.release(job)
        records = [await lab.ended(job) for job in jobs]
    assert [(record.state, record.attempt) for record in records] == [(State.SUCCEEDED, 1)] * 3


async def test_a_job_too_large_for_any_worker_is_unschedulable_with_the_numbers(lab: Lab) -> None:
    async with lab.agent(cpu_milli=1000, memory_bytes=2**30):
        record = await lab.ended(await lab.submit(resources={"cpu": 64, "memory": "1Ti", "gpu": 8}))
    assert (record.state, record.reason) == (State.FAILED, Reason.UNSCHEDULABLE)
    assert record.message == "it asks for more than any worker has: cpu 64 of 1, memory 1Ti of 1Gi, gpu 8 of 0"
    assert await lab.left() == 0


# -- the lease --------------------------------------------------------------------------------------------------------


async def test_a_job_longer_than_its_ack_wait_is_delivered_once_and_acked_after_its_exit(lab: Lab) -> None:
    lab.ack_wait_s = LONG_ACK_WAIT_S
    async with lab.agent("a"), lab.agent("b"), lab.answers() as answers:
        job = await lab.submit(command=HOLD)
        owner = (await lab.until(job, State.RUNNING)).agent
        words = 0
        async with asyncio.timeout(LIMIT_S):
            # Three words make an ack wait.
            while words < 6:
                seq, delivered, word = await answers.get()
                assert (seq, delivered, word) == (job.seq, 1, b"+WPI")
                words += 1
        assert await lab.left() == 1
        await lab.release(job)
        record = await lab.ended(job)
        async with asyncio.timeout(LIMIT_S):
            while (await answers.get())[2] != b"+ACK":
                pass
    assert (record.state, record.agent, record.attempt) == (State.SUCCEEDED, owner, 1)
    assert await lab.left() == 0


async def test_two_agents_share_a_queue_and_no_job_runs_twice(lab: Lab) -> None:
    async with lab.agent("a", max_jobs=2), lab.agent("b", max_jobs=2):
        jobs = [await lab.submit(command=["sh", "-c", "echo once; sleep 0.2"]) for _ in range(8)]
        records = [await lab.ended(job) for job in jobs]
    assert {(record.state, record.attempt) for record in records} == {(State.SUCCEEDED, 1)}
    assert {record.agent for record in records} == {lab.agent_id("a"), lab.agent_id("b")}
    assert [await lab.output(job) for job in jobs] == [b"once\n"] * 8
    assert await lab.left() == 0
