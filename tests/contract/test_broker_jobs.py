"""The jobs that lie in the queues, by the text of `launch.ports.Jobs`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from launch.errors import NotFound, OtherBatch, QueueFull
from launch.ports import Broker, NewJob
from launch.subjects import JobId, Priority, WorkConsumer
from tests.contract.broker_world import TRAIN, World, queue_spec, take


async def test_a_job_is_kept_as_published(broker: Broker, other: Broker, queue: str) -> None:
    body = bytes(range(256)) * 17
    published = await broker.jobs.publish(queue, "train", body, priority=Priority.HIGH)
    assert published.job == JobId(queue, 1)
    assert not published.duplicate
    message = await other.jobs.get(published.job)
    assert message is not None
    assert message.job == published.job
    assert message.consumer == WorkConsumer("train", Priority.HIGH)
    assert message.body == body
    assert message.published_at.utcoffset() == timedelta(0)


async def test_an_empty_body_is_kept_too(broker: Broker, queue: str) -> None:
    job = (await broker.jobs.publish(queue, "train", b"")).job
    message = await broker.jobs.get(job)
    assert message is not None
    assert message.body == b""


async def test_a_body_far_larger_than_a_spec_is_kept(broker: Broker, queue: str) -> None:
    body = b"\xff" * 900_000
    job = (await broker.jobs.publish(queue, "train", body)).job
    message = await broker.jobs.get(job)
    assert message is not None
    assert message.body == body
    assert [m.body for m in await broker.jobs.peek(queue, 5)] == [body]


async def test_ids_are_ordered_and_published_at_too(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"%d" % n)).job for n in range(5)]
    assert jobs == sorted(jobs)
    times = [message.published_at for message in await broker.jobs.peek(queue, 10)]
    assert times == sorted(times)


async def test_what_never_was_is_none(broker: Broker, queue: str) -> None:
    assert await broker.jobs.get(JobId(queue, 99)) is None
    assert await broker.jobs.get(JobId(f"{queue}-not", 1)) is None
    assert not await broker.jobs.discard(JobId(queue, 99))
    assert not await broker.jobs.discard(JobId(f"{queue}-not", 1))


async def test_a_repeat_by_message_id_is_not_stored_again(broker: Broker, other: Broker, queue: str) -> None:
    first = await broker.jobs.publish(queue, "train", b"1", msg_id="same")
    again = await other.jobs.publish(queue, "train", b"2", msg_id="same")
    assert (again.job, again.duplicate) == (first.job, True)
    different = await broker.jobs.publish(queue, "train", b"3", msg_id="different")
    assert not different.duplicate
    assert [m.body for m in await broker.jobs.peek(queue, 10)] == [b"1", b"3"]


async def test_a_repeat_is_recognised_after_the_job_is_done(broker: Broker, queue: str) -> None:
    first = await broker.jobs.publish(queue, "train", b"1", msg_id="same")
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        [delivery] = await take(broker, queue, 1)
        await broker.work.ack(delivery.reply)
    again = await broker.jobs.publish(queue, "train", b"1", msg_id="same")
    assert (again.job, again.duplicate) == (first.job, True)
    assert await broker.jobs.get(first.job) is None


async def test_message_ids_are_a_queues_own(broker: Broker, queue: str) -> None:
    neighbour = f"{queue}-2"
    await broker.queues.apply(queue_spec(neighbour))
    await broker.jobs.publish(queue, "train", b"1", msg_id="same")
    assert not (await broker.jobs.publish(neighbour, "train", b"1", msg_id="same")).duplicate
    await broker.queues.delete(neighbour)


async def test_a_full_queue_refuses_and_drops_nothing(broker: Broker, world: World, queue: str) -> None:
    first = (await broker.jobs.publish(queue, "train", b"x" * 100)).job
    await world.limit_queue(queue, 2000)
    with pytest.raises(QueueFull, match=queue):
        await broker.jobs.publish(queue, "train", b"x" * 4000)
    assert (await broker.jobs.depth(queue)).messages == 1
    assert await broker.jobs.discard(first)
    await broker.jobs.publish(queue, "train", b"x" * 100)


async def test_depth_counts_by_type_and_priority(broker: Broker, queue: str) -> None:
    await broker.jobs.publish(queue, "train", b"{}")
    await broker.jobs.publish(queue, "train", b"{}")
    await broker.jobs.publish(queue, "train", b"{}", priority=Priority.CRITICAL)
    await broker.jobs.publish(queue, "evaluate", b"{}", priority=Priority.LOW)
    depth = await broker.jobs.depth(queue)
    assert depth.messages == 4
    assert (depth.first_seq, depth.last_seq) == (1, 4)
    assert depth.subjects == {
        TRAIN: 2,
        WorkConsumer("train", Priority.CRITICAL): 1,
        WorkConsumer("evaluate", Priority.LOW): 1,
    }


async def test_an_empty_queue_has_no_depth(broker: Broker, queue: str) -> None:
    depth = await broker.jobs.depth(queue)
    assert (depth.messages, depth.last_seq, dict(depth.subjects)) == (0, 0, {})
    assert await broker.jobs.peek(queue, 5) == []


async def test_peek_skips_gaps_and_shows_what_is_held(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"%d" % n)).job for n in range(6)]
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        held = await take(broker, queue, 2)
        assert [d.message.job for d in held] == jobs[:2]
        await broker.work.ack(held[0].reply)
        for gone in (jobs[3], jobs[5]):
            assert await broker.jobs.discard(gone)
        assert [m.job for m in await broker.jobs.peek(queue, 2)] == [jobs[1], jobs[2]]
        assert [(m.job, m.body) for m in await broker.jobs.peek(queue, 10)] == [
            (jobs[1], b"1"),
            (jobs[2], b"2"),
            (jobs[4], b"4"),
        ]
        depth = await broker.jobs.depth(queue)
        assert (depth.messages, depth.first_seq, depth.last_seq) == (3, 2, 6)


async def test_a_discarded_job_is_never_delivered(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"{}")).job for _ in range(3)]
    async with aclosing(broker.work.consumers(queue, ["train"])) as sets:
        await anext(sets)
        [held] = await take(broker, queue, 1)
        assert await broker.jobs.discard(jobs[0])
        assert await broker.jobs.discard(jobs[1])
        assert not await broker.jobs.discard(jobs[1])
        await broker.work.nak(held.reply)
        [delivery] = await broker.work.pull_wait(queue, [TRAIN], rank=0, wait_s=5)
        assert delivery.message.job == jobs[2]
        await broker.work.ack(held.reply)
        assert await broker.work.pull_now(queue, TRAIN, 5) == []


async def test_any_client_can_publish(broker: Broker, world: World, queue: str) -> None:
    await world.publish_raw(f"queue.{queue}.train", b"plain")
    await world.publish_raw(f"queue.{queue}.train.critical", b"urgent", {"Who": "somebody"})
    await world.publish_raw(f"queue.{queue}.Not.low", b"\x00\xff")
    plain, urgent, odd = await broker.jobs.peek(queue, 10)
    assert (plain.consumer, plain.body, dict(plain.headers)) == (TRAIN, b"plain", {})
    assert urgent.consumer == WorkConsumer("train", Priority.CRITICAL)
    assert urgent.headers["Who"] == "somebody"
    assert (odd.consumer, odd.body) == (WorkConsumer("Not", Priority.LOW), b"\x00\xff")


async def test_a_subject_of_another_shape_is_refused_at_once(world: World, broker: Broker, queue: str) -> None:
    for tail in ("train.urgent", "train.medium", "train.high.more"):
        with pytest.raises(NotFound):
            await world.publish_raw(f"queue.{queue}.{tail}", b"{}")
    assert (await broker.jobs.depth(queue)).messages == 0


async def test_notices_begin_with_a_gap_and_name_every_job(
    broker: Broker, other: Broker, world: World, queue: str
) -> None:
    neighbour = f"{queue}-2"
    await other.queues.apply(queue_spec(neighbour))
    async with asyncio.timeout(10), aclosing(broker.jobs.notices(queue)) as notices:
        assert await anext(notices) is None
        await broker.jobs.depth(queue)  # "look again": any answer means that the server has us listed
        await other.jobs.publish(neighbour, "train", b"{}")
        first = (await other.jobs.publish(queue, "train", b"{}", msg_id="a")).job
        await other.jobs.publish(queue, "train", b"{}", msg_id="a")
        second = (await other.jobs.publish(queue, "evaluate", b"{}", priority=Priority.LOW)).job
        await world.publish_raw(f"queue.{queue}.Odd.high", b"{}")
        assert [await anext(notices) for _ in range(3)] == [first, second, JobId(queue, 3)]
    await other.queues.delete(neighbour)


async def test_peek_goes_on_after_what_is_known(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"%d" % number)).job for number in range(5)]
    assert [m.job for m in await broker.jobs.peek(queue, 2, after_seq=jobs[1].seq)] == jobs[2:4]
    await broker.jobs.discard(jobs[2])
    assert [m.job for m in await broker.jobs.peek(queue, 9, after_seq=jobs[1].seq)] == jobs[3:]
    assert await broker.jobs.peek(queue, 9, after_seq=jobs[4].seq) == []


async def test_the_counts_by_subject_may_be_left_out(broker: Broker, queue: str) -> None:
    jobs = [(await broker.jobs.publish(queue, "train", b"x")).job for _ in range(3)]
    found = await broker.jobs.depth(queue, by_subject=False)
    assert (found.messages, found.first_seq, found.last_seq, found.subjects) == (3, jobs[0].seq, jobs[2].seq, {})


def new_jobs(count: int, *, job_type: str = "train", size: int = 10) -> list[NewJob]:
    return [NewJob(job_type, Priority.MEDIUM, b"%0*d" % (size, number)) for number in range(count)]


async def test_a_batch_is_stored_in_order_without_a_gap(broker: Broker, other: Broker, queue: str) -> None:
    before = (await other.jobs.publish(queue, "train", b"before")).job
    jobs = [NewJob("train", Priority.MEDIUM, b"0"), NewJob("evaluate", Priority.LOW, b"1"), *new_jobs(998)]
    published = await broker.jobs.publish_batch(queue, jobs, msg_id="a")
    assert (published.job, published.duplicate) == (JobId(queue, before.seq + 1), False)
    lying = await other.jobs.peek(queue, 2000, after_seq=before.seq)
    assert [message.job.seq for message in lying] == list(range(before.seq + 1, before.seq + 1001))
    assert [(m.consumer, m.body) for m in lying] == [(WorkConsumer(j.job_type, j.priority), j.body) for j in jobs]


async def test_a_repeated_batch_is_recognised(broker: Broker, other: Broker, queue: str) -> None:
    first = await broker.jobs.publish_batch(queue, new_jobs(3), msg_id="a")
    await broker.jobs.publish_batch(queue, new_jobs(1), msg_id="b")
    await broker.jobs.discard(first.job)
    again = await other.jobs.publish_batch(queue, new_jobs(3), msg_id="a")
    assert (again.job, again.duplicate) == (first.job, True)
    alone = await other.jobs.publish_batch(queue, new_jobs(1), msg_id="b")
    assert (alone.job.seq, alone.duplicate) == (first.job.seq + 3, True)
    assert (await broker.jobs.depth(queue)).messages == 3


@pytest.mark.parametrize("stored", [1, 3])
async def test_another_batch_with_the_same_id_is_no_repeat(broker: Broker, queue: str, stored: int) -> None:
    first = (await broker.jobs.publish_batch(queue, new_jobs(stored), msg_id="a")).job
    await broker.jobs.discard(first)
    for others in (new_jobs(5), new_jobs(2), [*new_jobs(2), *new_jobs(1)]):
        with pytest.raises(OtherBatch, match="stored before"):
            await broker.jobs.publish_batch(queue, others, msg_id="a")
    assert (await broker.jobs.depth(queue)).messages == stored - 1
    alone = await broker.jobs.publish_batch(queue, new_jobs(1), msg_id="a")
    assert (alone.job, alone.duplicate) == (first, True)


async def test_a_full_queue_takes_all_of_a_batch_or_none(broker: Broker, world: World, queue: str) -> None:
    await world.limit_queue(queue, 5000)
    with pytest.raises(QueueFull, match=queue):
        await broker.jobs.publish_batch(queue, new_jobs(20, size=300), msg_id="a")
    assert (await broker.jobs.depth(queue)).messages == 0
    await broker.jobs.publish_batch(queue, new_jobs(3, size=300), msg_id="a")
    assert (await broker.jobs.depth(queue)).messages == 3


async def test_a_batch_needs_a_queue(broker: Broker, queue: str) -> None:
    with pytest.raises(NotFound):
        await broker.jobs.publish_batch(f"{queue}-not", new_jobs(2), msg_id="a")


async def test_a_batch_is_noticed(broker: Broker, other: Broker, queue: str) -> None:
    async with asyncio.timeout(10), aclosing(broker.jobs.notices(queue)) as notices:
        assert await anext(notices) is None
        first = (await other.jobs.publish_batch(queue, new_jobs(3), msg_id="a")).job
        assert [await anext(notices) for _ in range(3)] == [JobId(queue, first.seq + n) for n in range(3)]
