"""Answers to deliveries whose consumer or stream is not what it was: none of them is said for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent.persist import until_heard
from launch.adapters.nats import NatsBroker, connect
from launch.adapters.nats.failures import ApiError
from launch.adapters.nats.pull import Round
from launch.errors import BrokerError, BrokerUnavailable, BrokerUnsuitable
from launch.ports import Delivery, NewJob
from launch.subjects import Priority, work_stream
from tests.contract.broker_world import TRAIN, queue_spec, take
from tests.support.cluster import Cluster

pytestmark = pytest.mark.nats


@pytest.fixture
async def broker(nats_url: str, queue_name: str) -> AsyncIterator[NatsBroker]:
    made = await connect(nats_url, name="test")
    await made.queues.apply(queue_spec(queue_name))
    yield made
    await made.queues.delete(queue_name)
    await made.close()


async def make_consumer(broker: NatsBroker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        assert await anext(sets) == (TRAIN,)


async def held(broker: NatsBroker, queue: str) -> Delivery:
    """A job that was taken."""
    await make_consumer(broker, queue)
    await broker.jobs.publish(queue, "train", b"{}")
    [delivery] = await take(broker, queue, 1)
    return delivery


async def test_a_job_whose_consumer_is_gone_leaves_the_queue(broker: NatsBroker, queue_name: str) -> None:
    for end in ("ack", "term"):
        delivery = await held(broker, queue_name)
        await broker._connection.api(f"CONSUMER.DELETE.{work_stream(queue_name)}.train")
        async with asyncio.timeout(3):
            await (broker.work.ack(delivery.reply) if end == "ack" else broker.work.term(delivery.reply, why="no spec"))
        assert await broker.jobs.get(delivery.message.job) is None
        await broker.work.ack(delivery.reply)


async def test_a_job_whose_consumer_was_made_anew_leaves_the_queue(broker: NatsBroker, queue_name: str) -> None:
    delivery = await held(broker, queue_name)
    await broker._connection.api(f"CONSUMER.DELETE.{work_stream(queue_name)}.train")
    await make_consumer(broker, queue_name)
    async with asyncio.timeout(20):
        await broker.work.ack(delivery.reply)
    assert await broker.jobs.get(delivery.message.job) is None


async def test_a_queue_that_was_made_again_has_nothing_to_answer(broker: NatsBroker, queue_name: str) -> None:
    delivery = await held(broker, queue_name)
    await broker.queues.delete(queue_name)
    async with asyncio.timeout(3):
        await broker.work.ack(delivery.reply)
    await broker.queues.apply(queue_spec(queue_name))
    async with asyncio.timeout(3):
        await broker.work.ack(delivery.reply)
    other = (await broker.jobs.publish(queue_name, "train", b"{}")).job
    await make_consumer(broker, queue_name)
    async with asyncio.timeout(20):
        await broker.work.ack(delivery.reply)
    assert await broker.jobs.get(other) is not None


async def test_a_server_that_takes_no_ids_in_batches_is_named(
    broker: NatsBroker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def as_by_2_12_0(*_: object) -> dict[str, object]:
        raise ApiError(400, 10177, "atomic publish unsupported header used: Nats-Msg-Id")

    monkeypatch.setattr(broker.jobs, "_publish", as_by_2_12_0)
    with pytest.raises(BrokerUnsuitable, match=r"2\.12\.0 takes no message ids.*allowed: 2\.12\.1 or later"):
        await broker.jobs.publish_batch(queue_name, [NewJob("train", Priority.MEDIUM, b"{}")] * 3, msg_id="a")


async def test_another_job_of_the_same_number_is_left_alone(broker: NatsBroker, queue_name: str) -> None:
    delivery = await held(broker, queue_name)
    stream = work_stream(queue_name)
    config = (await broker._connection.api(f"STREAM.INFO.{stream}"))["config"]
    await broker._connection.api(f"STREAM.DELETE.{stream}")
    await broker._connection.api(f"STREAM.CREATE.{stream}", {**config, "first_seq": 0})
    other = (await broker.jobs.publish(queue_name, "train", b"{}")).job
    assert other == delivery.message.job
    async with asyncio.timeout(3):
        await broker.work.ack(delivery.reply)
    assert await broker.jobs.get(other) is not None


async def test_an_answer_to_no_delivery_at_all_ends(broker: NatsBroker) -> None:
    async with asyncio.timeout(3):
        for reply in ("", "nonsense", "$JS.ACK.a.b.c.d.e.f.g"):
            await broker.work.ack(reply)


async def direct_gets(broker: NatsBroker, queue: str, allowed: bool) -> None:
    """Have the queue's stream answer them, or nobody, as a server does that has not heard of its leader yet."""
    stream = work_stream(queue)
    config = (await broker._connection.api(f"STREAM.INFO.{stream}"))["config"]
    await broker._connection.api(f"STREAM.UPDATE.{stream}", {**config, "allow_direct": allowed})


async def test_a_stream_that_is_there_is_asked_until_somebody_answers_for_it(
    broker: NatsBroker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.adapters.nats.connection.UNHEARD_S", 60.0)
    job = (await broker.jobs.publish(queue_name, "train", b"{}")).job
    await direct_gets(broker, queue_name, allowed=False)
    asked, api = asyncio.Event(), broker._connection.api

    async def seen(subject: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        asked.set()
        return await api(subject, payload)

    monkeypatch.setattr(broker._connection, "api", seen)
    look = asyncio.create_task(broker.jobs.get(job))
    await asked.wait()
    await direct_gets(broker, queue_name, allowed=True)
    async with asyncio.timeout(20):
        message = await look
    assert message is not None
    assert message.job == job


async def test_a_stream_that_nobody_answers_for_is_not_asked_for_ever(
    broker: NatsBroker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.adapters.nats.connection.UNHEARD_S", 0.2)
    job = (await broker.jobs.publish(queue_name, "train", b"{}")).job
    await direct_gets(broker, queue_name, allowed=False)
    with pytest.raises(BrokerUnavailable, match="nobody answered"):
        await broker.jobs.get(job)


async def test_a_round_that_never_began_leaves_nothing_behind(nats_url: str, queue_name: str) -> None:
    broker = await connect(nats_url, name="test")
    await broker.close()
    round_ = Round(broker._connection, queue_name)
    with pytest.raises(BrokerUnavailable):
        await round_.start([TRAIN], {"batch": 1})
    assert broker._connection._listeners
    await round_.drain()
    assert not broker._connection._listeners


async def test_an_answer_without_a_leader_is_not_taken_for_heard(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        await cluster.start()
        broker = await connect(cluster.servers["n1"].url, name="test", replicas=3)
        await broker.queues.apply(queue_spec("q"))
        delivery = await held(broker, "q")
        for name in ("n2", "n3"):
            await cluster.kill(name)
        async with asyncio.timeout(20):
            with pytest.raises(BrokerError):
                await broker.work.ack(delivery.reply)
        await cluster.start()
        async with asyncio.timeout(20):
            await until_heard("ack", lambda: broker.work.ack(delivery.reply))
            # Any copy of the stream answers a read; one that has just come back hears of the removal a moment later.
            while await broker.jobs.get(delivery.message.job) is not None:  # noqa: ASYNC110  (and tells nobody)
                await asyncio.sleep(0.02)
        await broker.close()
    finally:
        await cluster.stop()
