"""The client, on the fake broker and on the real server: the same words, the same outcomes."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

import launch
from launch.adapters.clock import SystemClock
from launch.client import Client
from launch.core.capacity import Amount
from launch.core.states import Event, Reason, State
from launch.errors import LaunchError, NotFound, SpecError
from launch.handle import Job
from launch.ports import Broker, LogChunk
from launch.presence import AgentPresence
from launch.record import JobRecord
from tests.fakes.broker import FakeServer

SPEC = launch.JobSpec(image="busybox", command=("echo", "0.001"))


@pytest.fixture(params=["fake", "nats"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made: Broker
    if request.param == "fake":
        made = FakeServer().connect()
    else:
        from launch.adapters import nats

        made = await nats.connect(request.getfixturevalue("nats_url"), name="test")
    yield made
    await made.close()


@pytest.fixture
async def client(broker: Broker, queue_name: str) -> AsyncIterator[Client]:
    client = Client(broker)
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name))
    yield client
    await client.delete_queue(queue_name)


async def claim(broker: Broker, job: Job) -> tuple[JobRecord, int]:
    """Play the agent: claim the job and start it."""
    now = datetime.now(UTC)
    record = (await job.record()).moved(Event.CLAIM, now, agent="a", attempt=1).moved(Event.START, now, started_at=now)
    return record, await broker.records.create(record)


async def finish(broker: Broker, record: JobRecord, revision: int, exit_code: int = 0) -> None:
    event = Event.SUCCEED if exit_code == 0 else Event.FAIL
    reason = None if exit_code == 0 else Reason.EXIT_NONZERO
    now = datetime.now(UTC)
    ended = record.moved(event, now, exit_code=exit_code, reason=reason, finished_at=now)
    await broker.records.update(ended, revision)
    await broker.jobs.discard(record.id)


def chunk(data: bytes, source: str = "stdout", attempt: int = 1) -> LogChunk:
    return LogChunk(source=source, attempt=attempt, time="2026-01-01T00:00:00.000000001Z", data=data)


async def drained(lines: AsyncGenerator[launch.LogLine]) -> list[str]:
    async with aclosing(lines):
        return [line.text async for line in lines]


async def test_a_submitted_job_is_queued_and_reads_as_written(client: Client, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC, job_type="train", priority=launch.Priority.HIGH)
    record = await job.record()
    assert (record.state, record.job_type, record.priority) == (State.QUEUED, "train", launch.Priority.HIGH)
    assert record.spec is not None
    assert record.spec.command == ("echo", "0.001")
    assert await job.history() == [record]
    assert client.job(str(job.id)).id == job.id


async def test_the_type_comes_from_one_place(client: Client, queue_name: str) -> None:
    typed = SPEC.model_copy(update={"job_type": "train"})
    assert (await (await client.submit(queue_name, typed)).record()).job_type == "train"
    assert (await (await client.submit(queue_name, SPEC)).record()).job_type == "default"
    with pytest.raises(SpecError, match=r"'train' in the spec and 'test'"):
        await client.submit(queue_name, typed, job_type="test")


@pytest.mark.parametrize("job_type", ["a.high", "a.b", "A", "*"])
async def test_a_type_that_can_not_be_one_is_refused(client: Client, queue_name: str, job_type: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"found '{job_type}'; allowed: 1 to 63 of a-z")):
        await client.submit(queue_name, SPEC, job_type=job_type)
    with pytest.raises(launch.BulkInterrupted, match="allowed: 1 to 63 of a-z"):
        await client.submit_many(queue_name, [SPEC], job_type=job_type)


async def test_a_queue_of_one_type_gives_it_and_refuses_others(client: Client, queue_name: str) -> None:
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name, job_types=("train",)))
    assert (await (await client.submit(queue_name, SPEC)).record()).job_type == "train"
    with pytest.raises(SpecError, match="allowed: train"):
        await client.submit(queue_name, SPEC, job_type="test")


async def test_a_repeat_by_message_id_is_the_same_job(client: Client, queue_name: str) -> None:
    first = await client.submit(queue_name, SPEC, msg_id="once")
    again = await client.submit(queue_name, SPEC, msg_id="once")
    assert again.id == first.id
    assert (first.duplicate, again.duplicate) == (False, True)


async def test_what_does_not_exist_is_not_found(client: Client, queue_name: str) -> None:
    with pytest.raises(NotFound):
        await client.submit("no-such-queue", SPEC)
    missing = client.job(f"{queue_name}/999")
    for ask in (missing.record, missing.history, missing.wait, missing.cancel, missing.why):
        with pytest.raises(NotFound, match="999"):
            await ask()
    with pytest.raises(NotFound):
        await drained(missing.logs())
    with pytest.raises(LaunchError, match="not a job id"):
        client.job("nonsense")


async def test_jobs_lists_records_and_what_is_still_queued(client: Client, broker: Broker, queue_name: str) -> None:
    first, second, third = [await client.submit(queue_name, SPEC) for _ in range(3)]
    await finish(broker, *await claim(broker, first))
    await claim(broker, second)
    states = [(record.id, record.state) for record in await client.jobs(queue_name)]
    assert states == [(first.id, State.SUCCEEDED), (second.id, State.RUNNING), (third.id, State.QUEUED)]
    assert [record.id for record in await client.jobs(queue_name, State.QUEUED)] == [third.id]
    fourth = await client.submit(queue_name, SPEC)
    assert [record.id for record in await client.jobs(queue_name, limit=1)] == [second.id, third.id]
    assert [record.id for record in await client.jobs(queue_name, State.QUEUED)] == [third.id, fourth.id]
    assert {record.id for record in await client.jobs()} >= {first.id, third.id}


async def test_an_agent_that_leaves_the_moment_it_is_asked_to_has_left(
    client: Client, broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, room = f"{queue_name}-a", Amount(slots=1)
    presence = AgentPresence(
        agent_id=agent, queue=queue_name, capacity=room, free=room, version="0", host="h", started_at=datetime.now(UTC)
    )
    await broker.agents.put(presence, ttl_s=60)
    monkeypatch.setattr(broker.agents, "ask_to_drain", broker.agents.remove)
    assert await client.drain_agent(agent, timeout=2.0) is None
    with pytest.raises(NotFound, match="there is no agent"):
        await client.drain_agent(agent)


async def test_wait_hears_of_the_end(client: Client, broker: Broker, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    with pytest.raises(TimeoutError):
        await job.wait(timeout=0.05)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(job.wait(timeout=20))
        await finish(broker, *await claim(broker, job), exit_code=3)
    assert (waiting.result().state, waiting.result().exit_code) == (State.FAILED, 3)
    assert (await job.wait()).exit_code == 3


async def test_following_gives_every_line_and_ends_with_the_job(
    client: Client, broker: Broker, queue_name: str
) -> None:
    job = await client.submit(queue_name, SPEC)
    async with asyncio.TaskGroup() as group:
        lines = group.create_task(drained(job.logs()))
        record, revision = await claim(broker, job)
        await broker.logs.append(job.id, [chunk(b"one\ntw"), chunk(b"oops\n", "stderr")])
        await broker.logs.append(job.id, [chunk(b"o\nend without newline")])
        await finish(broker, record, revision)
    assert lines.result() == ["one", "oops", "two", "end without newline"]
    assert await drained(job.logs()) == lines.result()
    assert await drained(job.logs(follow=False)) == lines.result()


@pytest.mark.parametrize("follow", [True, False])
async def test_tail_counts_lines(client: Client, broker: Broker, queue_name: str, follow: bool) -> None:
    job = await client.submit(queue_name, SPEC)
    record, revision = await claim(broker, job)
    await broker.logs.append(job.id, [chunk(b"one\ntwo\n"), chunk(b"three\nfour\nlast")])
    await finish(broker, record, revision)
    whole = ["one", "two", "three", "four", "last"]
    for count in (1, 2, 3, 4, 5, 99):
        assert await drained(job.logs(follow=follow, tail=count)) == whole[-count:]
    assert await drained(job.logs(follow=follow, tail=0)) == []


async def test_following_a_job_without_output_ends_too(client: Client, broker: Broker, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    async with asyncio.TaskGroup() as group:
        lines = group.create_task(drained(job.logs()))
        await finish(broker, *await claim(broker, job))
    assert lines.result() == []
    assert await drained(job.logs(tail=5)) == []


async def test_a_follower_may_leave_early(client: Client, broker: Broker, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    await broker.logs.append(job.id, [chunk(b"one\n")])
    async with aclosing(job.logs()) as lines:
        assert (await anext(lines)).text == "one"
    assert not [task for task in asyncio.all_tasks() if str(job.id) in task.get_name()]


async def test_cancel_of_a_queued_job_is_at_once(client: Client, broker: Broker, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    record = await client.cancel(str(job.id))
    assert (record.state, record.reason) == (State.CANCELLED, Reason.CANCELLED)
    assert await job.record() == record
    assert await broker.jobs.get(job.id) is None
    assert await job.cancel() == record


async def test_cancel_of_a_running_job_asks_its_agent(client: Client, broker: Broker, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    await claim(broker, job)
    async with aclosing(broker.cancels.heard(queue_name)) as heard:
        assert await anext(heard) is None
        record = await job.cancel()
        assert await anext(heard) == job.id
    assert record.state is State.RUNNING
    assert record.cancel is not None
    assert "@" in record.cancel.by
    assert (await job.cancel()).cancel == record.cancel


async def test_why_says_what_is_missing(client: Client, queue_name: str) -> None:
    job = await client.submit(queue_name, SPEC)
    assert "no agents are present" in str(await job.why())
    await client.pause_queue(queue_name)
    assert "paused" in str(await job.why())
    await job.cancel()
    assert await job.why() is None


async def test_a_body_that_is_no_spec_is_shown_as_such(client: Client, broker: Broker, queue_name: str) -> None:
    published = await broker.jobs.publish(queue_name, "train", b"not json")
    record = await client.job(published.job).record()
    assert record.spec is None
    assert record.message is not None
    assert "invalid" in record.message


async def test_connect_finds_the_server_by_its_address(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_url)
    async with launch.connect() as client:
        assert isinstance(await client.queues(), list)
    assert isinstance(client.clock, SystemClock)
