"""What the ports promise about lost connections: watches go on, hints say "look again", nothing stored is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime, timedelta

import pytest

from launch.client import Client
from launch.core.states import Event
from launch.errors import BrokerUnavailable
from launch.job import JobSpec
from launch.ports import SYNCED, Broker, Changed, Synced
from launch.presence import AgentPresence
from launch.subjects import JobId, Priority, WorkConsumer
from tests.contract.broker_world import (
    ACK_WAIT_S,
    NOW,
    TRAIN,
    World,
    chunk,
    lapses,
    presence,
    queue_spec,
    record,
    take,
    until_status,
)


@pytest.fixture
async def loose(world: World) -> Broker:
    """A connection that the test may cut."""
    return await world.connect_loosely()


def since(broker: Broker) -> datetime:
    """Since when it is connected; it must be."""
    found = broker.connected_since
    assert found is not None
    assert found.utcoffset() == timedelta(0)
    return found


async def test_a_call_without_a_connection_is_unavailable(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    before = since(loose)
    await world.cut()
    with pytest.raises(AssertionError):
        since(loose)
    with pytest.raises(BrokerUnavailable):
        await loose.jobs.publish(queue, "train", b"{}")
    assert since(broker) <= before
    await broker.jobs.depth(queue)
    await world.mend()
    assert since(loose) > before
    await loose.jobs.depth(queue)


async def test_a_read_without_a_connection_is_unavailable_soon(loose: Broker, world: World, queue: str) -> None:
    job = JobId(queue, 1)
    await loose.logs.append(job, [chunk(b"line\n")])
    await world.cut()
    async with asyncio.timeout(20), aclosing(loose.logs.read(job)) as output:
        for call in (loose.records.list(queue), anext(output)):
            with pytest.raises(BrokerUnavailable):
                await call
    await world.mend()
    assert await loose.records.list(queue) == []


async def test_a_records_watch_goes_on_where_it_was(broker: Broker, loose: Broker, world: World, queue: str) -> None:
    job = JobId(queue, 1)
    revision = await broker.records.create(record(job))
    async with asyncio.timeout(30), aclosing(loose.records.watch(queue=queue)) as watch:
        assert await anext(watch) == Changed(str(job), record(job), revision)
        assert await anext(watch) is SYNCED
        await world.cut()
        for attempt in range(1, 4):
            revision = await broker.records.update(record(job, attempt=attempt), revision)
        await world.mend()
        seen = [await anext(watch) for _ in range(3)]
        revision = await broker.records.update(record(job).moved(Event.CANCEL, NOW), revision)
        assert await anext(watch) == Changed(str(job), record(job).moved(Event.CANCEL, NOW), revision)
    assert [item.value for item in seen if isinstance(item, Changed)] == [record(job, attempt=n) for n in (1, 2, 3)]


async def until_lost(watch: AsyncGenerator[Changed[AgentPresence] | Synced], agent_id: str) -> None:
    """Read until it says that this agent is gone."""
    item = await anext(watch)
    while not isinstance(item, Changed) or item.key != agent_id or item.value is not None:
        item = await anext(watch)


async def test_an_agent_lost_during_a_cut_is_seen_after_it(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    name = f"{queue}-a1"
    await broker.agents.put(presence(name, queue), ttl_s=60)
    async with (
        asyncio.timeout(30),
        aclosing(loose.agents.watch()) as watch,
        aclosing(broker.agents.watch()) as witness,
    ):
        for each in (watch, witness):  # Neither begins before it is first read.
            while await anext(each) is not SYNCED:
                pass
        await world.cut()
        await broker.agents.put(presence(name, queue), ttl_s=1)
        await until_lost(witness, name)
        await world.mend()
        await until_lost(watch, name)


async def test_followed_output_has_no_gap_and_no_repeat(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    job = JobId(queue, 1)
    await broker.logs.append(job, [chunk(b"%d\n" % n) for n in range(5)])
    async with asyncio.timeout(30), aclosing(loose.logs.read(job, follow=True)) as following:
        seen = [(await anext(following)).data for _ in range(3)]
        await world.cut()
        await broker.logs.append(job, [chunk(b"%d\n" % n) for n in range(5, 10)])
        await world.mend()
        seen += [(await anext(following)).data for _ in range(7)]
    assert seen == [b"%d\n" % n for n in range(10)]


async def test_notices_say_that_some_may_be_missing(broker: Broker, loose: Broker, world: World, queue: str) -> None:
    async with asyncio.timeout(30), aclosing(loose.jobs.notices(queue)) as notices:
        assert await anext(notices) is None
        await world.cut()
        await broker.jobs.publish(queue, "train", b"{}")
        await world.mend()
        assert await anext(notices) is None
        await loose.jobs.depth(queue)
        job = (await broker.jobs.publish(queue, "train", b"{}")).job
        assert await anext(notices) == job


async def test_cancel_hints_say_that_some_may_be_missing(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    async with asyncio.timeout(30), aclosing(loose.cancels.heard(queue)) as heard:
        assert await anext(heard) is None
        await world.cut()
        await broker.cancels.announce(JobId(queue, 1))
        await world.mend()
        assert await anext(heard) is None
        await loose.jobs.depth(queue)
        await broker.cancels.announce(JobId(queue, 2))
        assert await anext(heard) == JobId(queue, 2)


async def test_a_type_that_came_up_during_a_cut_is_found(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    async with asyncio.timeout(30), aclosing(loose.work.consumers(queue, None)) as sets:
        assert await anext(sets) == ()
        await world.cut()
        await broker.jobs.publish(queue, "train", b"{}", priority=Priority.LOW)
        await world.mend()
        assert await anext(sets) == (WorkConsumer("train", Priority.LOW),)


@lapses
async def test_a_cut_ends_a_waiting_pull_and_loses_no_job(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    async with asyncio.timeout(30), aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        waits = asyncio.create_task(loose.work.pull_wait(queue, [TRAIN], rank=0, wait_s=60))
        await until_status(broker, queue, TRAIN, waiting=1)
        await world.cut()
        job = (await broker.jobs.publish(queue, "train", b"{}")).job
        await world.mend()
        with suppress(BrokerUnavailable):
            assert await waits == []
        [delivery] = await loose.work.pull_wait(queue, [TRAIN], rank=0, wait_s=10)
        assert delivery.message.job == job


@lapses
async def test_what_was_taken_before_a_cut_can_be_acked_after_it(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    async with asyncio.timeout(30), aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        await broker.jobs.publish(queue, "train", b"{}")
        [held] = await take(loose, queue, 1)
        await world.cut()
        [again] = await broker.work.pull_wait(queue, [TRAIN], rank=0, wait_s=10 * ACK_WAIT_S)
        assert again.message.job == held.message.job
        await world.mend()
        await loose.work.ack(held.reply)
        assert await broker.jobs.get(held.message.job) is None


@lapses
async def test_a_server_that_restarts_has_lost_nothing(own_world: World) -> None:
    broker = await own_world.connect()
    await broker.queues.apply(queue_spec("q"))
    jobs = [(await broker.jobs.publish("q", "train", b"%d" % n, msg_id=str(n))).job for n in range(3)]
    await broker.logs.append(jobs[0], [chunk(b"line\n")])
    revision = await broker.records.create(record(jobs[0]))
    lease = await broker.leases.acquire("leader", "me", ttl_s=60)
    assert lease is not None
    async with (
        asyncio.timeout(50),
        aclosing(broker.work.consumers("q", None)) as sets,
        aclosing(broker.records.watch(job=jobs[0])) as watch,
    ):
        assert await anext(sets) == (TRAIN,)
        assert isinstance(await anext(watch), Changed)
        assert await anext(watch) is SYNCED
        held = await take(broker, "q", 2)
        await own_world.stop()
        await own_world.start()
        assert await broker.queues.list() == [queue_spec("q")]
        assert [m.job for m in await broker.jobs.peek("q", 10)] == jobs
        assert (await broker.jobs.publish("q", "train", b"2", msg_id="2")).duplicate
        await broker.work.ack(held[0].reply)
        assert await broker.jobs.get(jobs[0]) is None
        seen = {d.message.job for d in await broker.work.pull_wait("q", [TRAIN], rank=0, wait_s=10)}
        seen |= {d.message.job for d in await broker.work.pull_wait("q", [TRAIN], rank=0, wait_s=10)}
        assert seen == set(jobs[1:])
        revision = await broker.records.update(record(jobs[0], attempt=1), revision)
        assert await anext(watch) == Changed(str(jobs[0]), record(jobs[0], attempt=1), revision)
        assert await broker.logs.last_seq(jobs[0]) == 1
        assert await broker.leases.renew("leader", "me", lease, ttl_s=60) is not None


async def test_nothing_need_be_there_before_the_first_call(own_world: World) -> None:
    broker = await own_world.connect()
    async with asyncio.timeout(20):
        assert await broker.queues.list() == []
        assert await broker.records.list() == []
        assert await broker.agents.list() == []
        assert await broker.leases.holder("leader") is None
        assert await broker.logs.last_seq(JobId("q", 1)) == 0
        assert await broker.leases.acquire("leader", "me", ttl_s=30) is not None
        await broker.agents.put(presence("a1", "q"), ttl_s=30)
        assert [a.agent_id for a in await broker.agents.list()] == ["a1"]
        assert await broker.leases.holder("leader") == "me"


async def test_closing_is_idempotent_and_final(world: World, queue: str) -> None:
    leaver = await world.connect("leaver")
    await leaver.jobs.depth(queue)
    await leaver.close()
    await leaver.close()
    assert leaver.connected_since is None
    with pytest.raises(BrokerUnavailable):
        await leaver.jobs.depth(queue)


async def test_a_bulk_over_a_bad_connection_is_whole_and_doubles_nothing(
    broker: Broker, loose: Broker, world: World, queue: str
) -> None:
    jobs = 5000
    troubled = asyncio.Semaphore(0)

    async def trouble() -> None:
        for _ in range(2):
            await troubled.acquire()
            await world.cut()
            await world.mend()

    def progress(done: int) -> None:
        if done in (1000, 3000):
            troubled.release()

    specs = (JobSpec(image=f"i{number}", job_type="train") for number in range(jobs))
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(trouble())
        ids = await Client(loose).submit_many(queue, specs, progress=progress)
    stored = await broker.jobs.peek(queue, 2 * jobs)
    assert [JobSpec.model_validate_json(message.body).image for message in stored] == [f"i{n}" for n in range(jobs)]
    assert [message.job for message in stored] == list(ids)
