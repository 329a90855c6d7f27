"""What some other program has written where it should not: one spoilt entry is one clear error, and hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import nats
import pytest
from nats.aio.client import Client

from agent.log_sender import LogSender
from launch.adapters.nats import NatsBroker, connect
from launch.errors import BrokerError, BrokerUnavailable, LaunchError, NotFound, Unreadable
from launch.ports import SYNCED, Changed, LogChunk, Logs
from launch.subjects import JobId
from tests.contract.broker_world import chunk, presence, queue_spec, record

pytestmark = pytest.mark.nats

GARBAGE = [b'{"garbage":1}', b"not json", b"\xff\xfe", b"[]"]


@pytest.fixture
async def broker(nats_url: str, queue_name: str) -> AsyncIterator[NatsBroker]:
    made = await connect(nats_url, name="test")
    await made.queues.apply(queue_spec(queue_name))
    yield made
    if queue_name in [spec.queue_name for spec in await made.queues.list()]:
        await made.queues.delete(queue_name)
    await made.close()


@pytest.fixture
async def stranger(nats_url: str) -> AsyncIterator[Client]:
    """Some other program."""
    client = await nats.connect(nats_url)
    yield client
    await client.close()


def one_clear_error(error: LaunchError, key: str) -> None:
    assert not isinstance(error, BrokerError), "what is repeated until it is heard would be repeated for ever"
    assert key in error.message
    assert "\n" not in str(error)


@pytest.mark.parametrize("body", GARBAGE)
async def test_a_spoilt_record_is_unreadable(
    broker: NatsBroker, stranger: Client, queue_name: str, body: bytes
) -> None:
    good, bad = JobId(queue_name, 1), JobId(queue_name, 2)
    await broker.records.create(record(good))
    await stranger.request(f"$KV.jobs.{bad.key}", body)
    await stranger.request(f"$KV.jobs.{queue_name}.no.number", body)
    with pytest.raises(Unreadable) as error:
        await broker.records.get(bad)
    one_clear_error(error.value, bad.key)
    assert await broker.records.list(queue_name) == [record(good)]
    assert await broker.records.history(bad) == []
    async with asyncio.timeout(10), aclosing(broker.records.watch(queue=queue_name)) as watch:
        first = await anext(watch)
        assert isinstance(first, Changed)
        assert first.value == record(good)
        assert await anext(watch) is SYNCED


@pytest.mark.parametrize("body", GARBAGE)
async def test_a_spoilt_presence_is_unreadable(
    broker: NatsBroker, stranger: Client, queue_name: str, body: bytes
) -> None:
    good, bad = f"{queue_name}-good", f"{queue_name}-bad"
    await broker.agents.put(presence(good, queue_name), ttl_s=30)
    await stranger.request(f"$KV.agents.{bad}", body)
    with pytest.raises(Unreadable) as error:
        await broker.agents.get(bad)
    one_clear_error(error.value, bad)
    assert [agent.agent_id for agent in await broker.agents.list(queue_name)] == [good]
    await broker.agents.remove(bad)
    await broker.agents.remove(good)


@pytest.mark.parametrize("body", GARBAGE)
async def test_a_spoilt_queue_spec_is_unreadable_and_can_be_deleted(
    broker: NatsBroker, stranger: Client, queue_name: str, body: bytes
) -> None:
    await broker.jobs.publish(queue_name, "train", b"{}")
    await stranger.request(f"$KV.queues.{queue_name}", body)
    with pytest.raises(Unreadable) as error:
        await broker.queues.get(queue_name)
    one_clear_error(error.value, queue_name)
    assert queue_name not in [spec.queue_name for spec in await broker.queues.list()]
    assert await broker.queues.delete(queue_name) == 1
    for call in (broker.queues.get(queue_name), broker.queues.delete(queue_name)):
        with pytest.raises(NotFound):
            await call


async def test_a_spoilt_queue_spec_is_mended_by_apply(broker: NatsBroker, stranger: Client, queue_name: str) -> None:
    await stranger.request(f"$KV.queues.{queue_name}", b"{}")
    await broker.queues.apply(queue_spec(queue_name))
    assert await broker.queues.get(queue_name) == queue_spec(queue_name)


async def test_a_key_that_is_no_jobs_does_not_keep_a_queue_from_being_made_again(
    broker: NatsBroker, stranger: Client, queue_name: str
) -> None:
    await stranger.request(f"$KV.jobs.{queue_name}.no.number", b"{}")
    await broker._connection.api(f"STREAM.DELETE.queue_{queue_name}")
    assert await broker.queues.apply(queue_spec(queue_name))


async def test_a_lease_held_by_no_text_is_held(broker: NatsBroker, stranger: Client, queue_name: str) -> None:
    await stranger.request(f"$KV.leases.{queue_name}", b"\xff")
    assert await broker.leases.holder(queue_name) is not None
    assert await broker.leases.acquire(queue_name, "me", ttl_s=5) is None


@pytest.mark.parametrize("headers", [None, {"Launch-Attempt": "1"}, {"Launch-Attempt": "one", "Launch-Source": "x"}])
async def test_a_stray_message_among_the_output_is_left_out(
    broker: NatsBroker, stranger: Client, queue_name: str, headers: dict[str, str] | None
) -> None:
    job = JobId(queue_name, 1)
    subject = f"logs.{job.key}"
    await stranger.request(subject, b"stray", headers=headers)
    assert await broker.logs.last_seq(job) == 0
    assert await broker.logs.tail(job, 5) == []
    async with asyncio.timeout(20), aclosing(broker.logs.read(job, follow=True)) as following:
        for n in range(2):
            await broker.logs.append(job, [chunk(b"%d\n" % n)])
            await stranger.request(subject, b"stray", headers=headers)
            assert (await anext(following)).data == b"%d\n" % n
    stored = [stored async for stored in broker.logs.read(job)]
    assert [stored.data for stored in stored] == [b"0\n", b"1\n"]
    assert await broker.logs.tail(job, 1) == stored
    assert await broker.logs.last_seq(job) == stored[-1].seq, "whoever follows waits for this chunk"


class Losing:
    """Logs whose next append is stored, at least in part, and has no answer."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self.lose = 0
        self.last_seq, self.read, self.tail, self.before = logs.last_seq, logs.read, logs.tail, logs.before
        self.max_chunk_bytes = logs.max_chunk_bytes

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        if self.lose:
            self.lose -= 1
            await self._logs.append(job, chunks[: 1 + self.lose])
            raise BrokerUnavailable("no answer")
        await self._logs.append(job, chunks)


async def test_a_stray_message_is_no_chunk_of_the_sender(broker: NatsBroker, stranger: Client, queue_name: str) -> None:
    async def at_once(_: float) -> None:
        await stranger.request(f"logs.{job.key}", b"stray")

    job = JobId(queue_name, 1)
    logs = Losing(broker.logs)
    sender = LogSender(logs, job, 1, at_once)
    await stranger.request(f"logs.{job.key}", b"stray")
    for _ in range(4):
        logs.lose = 2
        await sender.send([chunk(b"same\n") for _ in range(3)])
    assert sender.error is None
    assert [stored.data for stored in await sender.stored()] == [b"same\n"] * 12


async def test_an_append_is_stored_as_it_is_said(broker: NatsBroker, queue_name: str) -> None:
    job = JobId(queue_name, 1)
    await broker.logs.append(job, [chunk(b"same\n")])
    with pytest.raises(BrokerError):
        await broker.logs.append(job, [chunk(b"same\n"), chunk(b"x" * (broker.logs.max_chunk_bytes + 10_000))])
    await broker.logs.append(job, [chunk(b"same\n")])
    assert [stored.data async for stored in broker.logs.read(job)] == [b"same\n"] * 3
