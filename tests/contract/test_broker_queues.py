"""Queue specs and the streams behind them, by the text of `launch.ports.Queues`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from launch.errors import BrokerError, NotFound, QueueFull
from launch.ports import SYNCED, Broker, Changed
from launch.queue import QueueSpec
from tests.contract.broker_world import TRAIN, World, queue_spec, take, until_status


async def test_apply_says_what_it_did_and_does_nothing_twice(broker: Broker, queue_name: str) -> None:
    spec = queue_spec(queue_name, max_instances=3)
    assert await broker.queues.apply(spec)
    assert await broker.queues.apply(spec) == []
    assert await broker.queues.get(queue_name) == spec
    await broker.queues.delete(queue_name)


async def test_apply_of_a_changed_spec_keeps_the_jobs(broker: Broker, queue: str) -> None:
    job = (await broker.jobs.publish(queue, "train", b"{}")).job
    changed = queue_spec(queue, max_instances=7, provider={"type": "local", "memory": "8Gi"})
    assert await broker.queues.apply(changed)
    assert await broker.queues.get(queue) == changed
    assert await broker.jobs.get(job) is not None


async def test_several_apply_at_once(broker: Broker, other: Broker, queue_name: str) -> None:
    spec = queue_spec(queue_name)
    await asyncio.gather(*(who.queues.apply(spec) for who in (broker, other) * 3))
    assert await broker.queues.get(queue_name) == spec
    await broker.queues.delete(queue_name)


async def test_changed_settings_are_repaired_and_named(broker: Broker, world: World, queue: str) -> None:
    await world.limit_queue(queue, 100)
    with pytest.raises(QueueFull):
        await broker.jobs.publish(queue, "train", b"x" * 1000)
    lines = await broker.queues.apply(queue_spec(queue))
    assert any("repaired" in line for line in lines)
    assert await broker.queues.apply(queue_spec(queue)) == []
    await broker.jobs.publish(queue, "train", b"x" * 1000)


async def test_another_retention_is_refused_not_repaired(broker: Broker, world: World, queue: str) -> None:
    await world.replace_stream(queue)
    with pytest.raises(BrokerError, match="retention"):
        await broker.queues.apply(queue_spec(queue))


async def test_an_unknown_queue_is_not_found(broker: Broker, queue_name: str) -> None:
    for call in (
        broker.queues.get(queue_name),
        broker.queues.delete(queue_name),
        broker.queues.status(queue_name),
        broker.queues.set_paused(queue_name, True),
        broker.jobs.depth(queue_name),
        broker.jobs.peek(queue_name, 5),
        broker.jobs.publish(queue_name, "train", b"{}"),
        anext(broker.work.consumers(queue_name, None)),
        anext(broker.work.consumers(queue_name, ["train"])),
    ):
        with pytest.raises(NotFound, match=queue_name):
            await call


async def test_list_is_by_name(broker: Broker, queue_name: str) -> None:
    names = [f"{queue_name}-b", f"{queue_name}-a", f"{queue_name}-c"]
    for name in names:
        await broker.queues.apply(queue_spec(name))
    listed = [spec.queue_name for spec in await broker.queues.list()]
    assert listed == sorted(listed)
    assert set(names) <= set(listed)
    for name in names:
        await broker.queues.delete(name)


async def test_delete_tells_how_many_jobs_were_lost(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"{}")).job for _ in range(3)]
    assert await broker.queues.delete(queue) == 3
    with pytest.raises(NotFound):
        await broker.queues.get(queue)
    with pytest.raises(NotFound):
        await broker.jobs.publish(queue, "train", b"{}")
    assert await broker.jobs.get(jobs[0]) is None
    assert queue not in [spec.queue_name for spec in await broker.queues.list()]


async def test_a_queue_made_again_never_gives_an_id_twice(broker: Broker, queue: str) -> None:
    for _ in range(2):
        await broker.jobs.publish(queue, "train", b"{}")
    last = (await broker.jobs.publish(queue, "train", b"{}")).job
    await broker.queues.delete(queue)
    await broker.queues.apply(queue_spec(queue))
    assert (await broker.jobs.publish(queue, "train", b"{}")).job.seq > last.seq
    assert await broker.queues.apply(queue_spec(queue)) == []


async def test_status_counts_what_waits_and_what_is_held(broker: Broker, other: Broker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        consumers = await anext(sets)
        for _ in range(3):
            await broker.jobs.publish(queue, "train", b"{}")
        held = await take(broker, queue, 1)
        await until_status(broker, queue, TRAIN, pending=2)
        status = await broker.queues.status(queue)
        train = next(c for c in status.consumers if c.consumer == TRAIN)
        assert (train.pending, train.unacked, train.waiting) == (2, 1, 0)
        assert status.depth.messages == 3
        assert not status.paused
        assert [c.consumer for c in status.consumers] == list(consumers) == [TRAIN]
        await take(broker, queue, 2)
        waits = asyncio.create_task(other.work.pull_wait(queue, [TRAIN], rank=3, wait_s=10))
        await until_status(broker, queue, TRAIN, waiting=1)
        fourth = (await broker.jobs.publish(queue, "train", b"{}")).job
        assert [d.message.job for d in await waits] == [fourth]
        await broker.work.ack(held[0].reply)
        assert (await broker.queues.status(queue)).depth.messages == 3


async def test_a_paused_queue_hands_out_nothing_until_resumed(broker: Broker, other: Broker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        running = (await broker.jobs.publish(queue, "train", b"running")).job
        [held] = await take(broker, queue, 1)
        await broker.queues.set_paused(queue, True)
        await broker.queues.set_paused(queue, True)
        waits = asyncio.create_task(other.work.pull_wait(queue, [TRAIN], rank=5, wait_s=30))
        waiting = (await broker.jobs.publish(queue, "train", b"waiting")).job
        assert await broker.work.pull_now(queue, TRAIN, 5) == []
        assert (await broker.queues.status(queue)).paused
        await broker.work.progress([held.reply])
        await broker.work.ack(held.reply)
        assert await broker.jobs.get(running) is None
        assert not waits.done()
        await broker.queues.set_paused(queue, False)
        assert not (await broker.queues.status(queue)).paused
        async with asyncio.timeout(5):
            assert [d.message.job for d in await waits] == [waiting]


async def test_a_pause_holds_for_types_first_used_during_it(broker: Broker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, None)) as sets:
        await anext(sets)
        await broker.queues.set_paused(queue, True)
        await broker.jobs.publish(queue, "train", b"{}")
        async with asyncio.timeout(5):
            while TRAIN not in await anext(sets):
                pass
        assert await broker.work.pull_now(queue, TRAIN, 5) == []
        await broker.queues.set_paused(queue, False)
        await take(broker, queue, 1)


async def test_apply_leaves_a_pause_alone(broker: Broker, queue: str) -> None:
    await broker.queues.set_paused(queue, True)
    await broker.queues.apply(queue_spec(queue, max_instances=9))
    assert (await broker.queues.status(queue)).paused
    await broker.queues.set_paused(queue, False)
    assert not (await broker.queues.status(queue)).paused


async def test_watch_tells_of_what_is_there_and_of_every_change(broker: Broker, other: Broker, queue: str) -> None:
    second = f"{queue}-2"
    async with asyncio.timeout(10), aclosing(broker.queues.watch()) as watch:
        seen = {}
        while (item := await anext(watch)) is not SYNCED:
            assert isinstance(item, Changed)
            assert item.value is not None
            seen[item.key] = item.value
        assert seen[queue] == queue_spec(queue)
        changed = queue_spec(queue, max_instances=4)
        await other.queues.apply(queue_spec(second))
        await other.queues.apply(changed)
        await other.queues.delete(second)
        events: list[tuple[str, QueueSpec | None]] = []
        while len(events) < 3:
            item = await anext(watch)
            assert isinstance(item, Changed)
            if item.key in (queue, second):
                events.append((item.key, item.value))
    assert events == [(second, queue_spec(second)), (queue, changed), (second, None)]


async def test_a_watch_of_specs_hears_of_a_pause_and_of_its_end(broker: Broker, other: Broker, queue: str) -> None:
    spec = QueueSpec(queue_name=queue)
    await broker.queues.apply(spec)
    async with asyncio.timeout(10), aclosing(broker.queues.watch()) as watch:
        while await anext(watch) is not SYNCED:
            pass
        for paused in (True, False):
            await other.queues.set_paused(queue, paused)
            item = await anext(watch)
            while isinstance(item, Changed) and item.key != queue:
                item = await anext(watch)
            assert isinstance(item, Changed)
            assert item.value == spec
