"""Taking jobs from a queue, by the text of `launch.ports.Work`: consumers, pulls, acks, redelivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from launch.errors import NotFound
from launch.ports import Broker, Delivery, NewJob
from launch.subjects import JobId, Priority, WorkConsumer
from tests.contract.broker_world import ACK_WAIT_S, TRAIN, World, lapses, take, until_status

EVALUATE = WorkConsumer("evaluate", Priority.MEDIUM)

Sets = AsyncGenerator[tuple[WorkConsumer, ...]]


@asynccontextmanager
async def working(broker: Broker, queue: str, *job_types: str) -> AsyncIterator[None]:
    """An agent for these types is there, so their durables are."""
    async with aclosing(broker.work.consumers(queue, job_types)) as sets:
        await anext(sets)
        yield


async def until(sets: Sets, *wanted: WorkConsumer) -> tuple[WorkConsumer, ...]:
    """Read sets until one has all of these."""
    async with asyncio.timeout(10):
        while True:
            found = await anext(sets)
            if set(wanted) <= set(found):
                return found


async def publish(broker: Broker, queue: str, count: int, job_type: str = "train") -> list[JobId]:
    """Some jobs."""
    return [(await broker.jobs.publish(queue, job_type, b"%d" % n)).job for n in range(count)]


async def pull(broker: Broker, queue: str, *consumers: WorkConsumer, wait_s: float = 10.0) -> list[Delivery]:
    """Wait for work as an agent of middling fullness does."""
    return await broker.work.pull_wait(queue, consumers or (TRAIN,), rank=5, wait_s=wait_s)


# -- which consumers ------------------------------------------------------------------------------------------------


async def test_an_agent_for_types_has_theirs_most_urgent_first(broker: Broker, other: Broker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, ["train", "evaluate"])) as sets:
        first = await anext(sets)
        assert {TRAIN, EVALUATE} <= set(first)
        for priority in (Priority.LOW, Priority.HIGH, Priority.CRITICAL):
            await other.jobs.publish(queue, "train", b"{}", priority=priority)
        await other.jobs.publish(queue, "stranger", b"{}")
        wanted = [WorkConsumer("train", priority) for priority in Priority]
        found = first if set(wanted) <= set(first) else await until(sets, *wanted)
        assert [c for c in found if c.job_type == "train"] == wanted
        assert list(found) == sorted(found, key=lambda c: c.priority.rank)
        assert {c.job_type for c in found} == {"train", "evaluate"}


async def test_an_agent_for_any_type_has_what_was_ever_used(broker: Broker, other: Broker, queue: str) -> None:
    await other.jobs.publish(queue, "train", b"{}")
    await other.jobs.publish(queue, "evaluate", b"{}", priority=Priority.HIGH)
    async with aclosing(broker.work.consumers(queue, None)) as sets:
        assert await anext(sets) == (WorkConsumer("evaluate", Priority.HIGH), TRAIN)


async def test_a_type_never_used_before_is_picked_up_at_once(broker: Broker, other: Broker, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, None)) as sets:
        assert await anext(sets) == ()
        await other.jobs.publish(queue, "train", b"{}")
        assert await until(sets, TRAIN) == (TRAIN,)
        [delivery] = await take(broker, queue, 1)
        await other.jobs.publish(queue, "train", b"{}", priority=Priority.CRITICAL)
        urgent = WorkConsumer("train", Priority.CRITICAL)
        assert await until(sets, urgent) == (urgent, TRAIN)
        await take(broker, queue, 1, urgent)
        assert delivery.message.consumer == TRAIN


async def test_a_plain_publish_of_a_new_type_is_picked_up_too(broker: Broker, world: World, queue: str) -> None:
    async with aclosing(broker.work.consumers(queue, None)) as sets:
        await anext(sets)
        await world.publish_raw(f"queue.{queue}.fine-tune.low", b"raw")
        consumer = WorkConsumer("fine-tune", Priority.LOW)
        await until(sets, consumer)
        [delivery] = await take(broker, queue, 1, consumer)
        assert (delivery.message.consumer, delivery.message.body) == (consumer, b"raw")


@pytest.mark.parametrize("odd", ["Train", "t\u00e9l\u00e9", "a" * 100, "-x", "a@high", "a=b", "$SYS"])
async def test_a_type_that_is_no_legal_name_is_delivered_all_the_same(
    broker: Broker, world: World, queue: str, odd: str
) -> None:
    async with aclosing(broker.work.consumers(queue, None)) as sets:
        await anext(sets)
        await world.publish_raw(f"queue.{queue}.{odd}.high", b"odd")
        consumer = WorkConsumer(odd, Priority.HIGH)
        assert await until(sets, consumer) == (consumer,)
        [delivery] = await take(broker, queue, 1, consumer)
        assert (delivery.message.consumer, delivery.message.job) == (consumer, JobId(queue, 1))
        await broker.work.term(delivery.reply, why="'Train' is no job type: a\nb \u00e4" + "x" * 5000)
        assert await broker.jobs.get(delivery.message.job) is None


async def test_two_agents_both_learn_of_new_types(broker: Broker, other: Broker, queue: str) -> None:
    async with (
        aclosing(broker.work.consumers(queue, None)) as ones,
        aclosing(other.work.consumers(queue, None)) as others,
    ):
        await anext(ones)
        await anext(others)
        both = asyncio.gather(until(ones, TRAIN), until(others, TRAIN))
        await broker.jobs.publish(queue, "train", b"{}")
        assert list(await both) == [(TRAIN,), (TRAIN,)]


async def test_a_busy_agent_does_not_keep_new_types_from_others(broker: Broker, other: Broker, queue: str) -> None:
    async with (
        aclosing(broker.work.consumers(queue, None)) as busy,
        aclosing(other.work.consumers(queue, None)) as idle,
    ):
        await anext(busy)  # and never again: it is full, or hangs
        await anext(idle)
        for n in range(12):
            consumer = WorkConsumer(f"type-{n}", Priority.MEDIUM)
            waiting = asyncio.create_task(until(idle, consumer))
            await broker.jobs.publish(queue, consumer.job_type, b"{}")
            await waiting


async def test_what_comes_next_is_what_nobody_was_given_most_urgent_first(
    broker: Broker, other: Broker, queue: str
) -> None:
    async with working(broker, queue, "train", "evaluate"):
        first, second, third = await publish(broker, queue, 3)
        [evaluate] = await publish(broker, queue, 1, "evaluate")
        urgent = (await broker.jobs.publish(queue, "train", b"!", priority=Priority.HIGH)).job
        async with aclosing(other.work.consumers(queue, None)) as sets:
            await until(sets, TRAIN, EVALUATE, WorkConsumer("train", Priority.HIGH))
        await until_status(broker, queue, TRAIN, pending=3)
        await until_status(broker, queue, EVALUATE, pending=1)
        assert [m.job for m in await other.jobs.upcoming(queue, None, 9)] == [urgent, evaluate, first, second, third]
        assert [m.job for m in await other.jobs.upcoming(queue, ["train"], 3)] == [urgent, first, second]
        [held] = await broker.work.pull_now(queue, TRAIN, 1)
        [message, _] = await other.jobs.upcoming(queue, ["train"], 2)
        assert message.body == b"!"
        assert [m.job for m in await other.jobs.upcoming(queue, ["train"], 9)] == [urgent, second, third]
        await broker.work.nak(held.reply)
        await broker.jobs.discard(second)
        assert [m.job for m in await other.jobs.upcoming(queue, ["train"], 9)] == [urgent, third]
        assert await other.jobs.upcoming(queue, [], 9) == []
        assert len(await broker.work.pull_now(queue, TRAIN, 9)) == 2  # it took nothing
    with pytest.raises(NotFound):
        await broker.jobs.upcoming("no-such-queue", None, 1)


async def test_what_is_seen_ahead_is_what_comes_and_its_token_answers_the_delivery(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        await publish(broker, queue, 3)
        await until_status(broker, queue, TRAIN, pending=3)
        seen = await broker.jobs.upcoming(queue, None, 3)
        taken = await take(broker, queue, 3)
        assert [delivery.message for delivery in taken] == seen
        acked, withdrawn, given_back = (broker.work.token(message) for message in seen)
        await broker.work.progress([acked])
        await broker.work.ack(acked)
        await broker.work.term(withdrawn, why="a test")
        # With a pause far below the ack wait: a nak that nobody took would be followed by the message too late.
        since_s = asyncio.get_running_loop().time()
        await broker.work.nak(given_back, delay_s=1)
        [again] = await broker.work.pull_wait(queue, [TRAIN], rank=0, wait_s=10)
        assert (again.message.job, again.delivered) == (seen[2].job, 2)
        assert asyncio.get_running_loop().time() - since_s > 0.8
        # The token is that of any delivery, not of the first alone; and once more does no harm.
        await broker.work.ack(given_back)
        await broker.work.ack(given_back)
        assert (await broker.jobs.depth(queue)).messages == 0
        await broker.queues.delete(queue)
        await broker.work.nak(given_back)  # to nobody


# -- pulling --------------------------------------------------------------------------------------------------------


async def test_nothing_there_is_told_at_once(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"), asyncio.timeout(3):
        assert await broker.work.pull_now(queue, TRAIN, 10) == []


async def test_a_delivery_is_the_message_and_counts(broker: Broker, world: World, queue: str) -> None:
    async with working(broker, queue, "train"):
        await world.publish_raw(f"queue.{queue}.train", b"\x00body", {"Who": "me"})
        [delivery] = await take(broker, queue, 1)
        message = await broker.jobs.get(JobId(queue, 1))
        assert message is not None
        assert replace(delivery.message, published_at=message.published_at) == message
        assert abs(delivery.message.published_at - message.published_at) < timedelta(milliseconds=1)
        assert dict(message.headers) == {"Who": "me"}
        assert delivery.delivered == 1


async def test_pull_now_takes_up_to_a_batch_in_order(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = await publish(broker, queue, 5)
        await until_status(broker, queue, TRAIN, pending=5)
        first = await broker.work.pull_now(queue, TRAIN, 3)
        rest = await broker.work.pull_now(queue, TRAIN, 3)
        assert [d.message.job for d in first] == jobs[:3]
        assert [d.message.job for d in rest] == jobs[3:]
        assert await broker.work.pull_now(queue, TRAIN, 3) == []


async def test_pull_now_takes_many(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = await publish(broker, queue, 300)
        await until_status(broker, queue, TRAIN, pending=300)
        assert [d.message.job for d in await broker.work.pull_now(queue, TRAIN, 1000)] == jobs


async def test_two_pull_at_once_and_share(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = await publish(broker, queue, 10)
        await until_status(broker, queue, TRAIN, pending=10)
        halves = await asyncio.gather(*(who.work.pull_now(queue, TRAIN, 5) for who in (broker, other)))
        assert sorted(d.message.job for half in halves for d in half) == jobs


async def test_a_waiting_pull_wakes_on_publish(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train", "evaluate"):
        waits = asyncio.create_task(pull(broker, queue, TRAIN, EVALUATE, wait_s=30))
        await until_status(other, queue, EVALUATE, waiting=1)
        job = (await other.jobs.publish(queue, "evaluate", b"{}")).job
        async with asyncio.timeout(2):
            [delivery] = await waits
        assert delivery.message.job == job
        await broker.work.ack(delivery.reply)
        await until_status(other, queue, TRAIN, waiting=0)


async def test_a_waiting_pull_takes_what_is_there_already(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        [job] = await publish(broker, queue, 1)
        async with asyncio.timeout(2):
            assert [d.message.job for d in await pull(broker, queue, wait_s=30)] == [job]


async def test_a_waiting_pull_ends_in_time(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        began_s = asyncio.get_running_loop().time()
        assert await pull(broker, queue, wait_s=0.3) == []
        assert 0.25 < asyncio.get_running_loop().time() - began_s < 3


async def test_what_comes_for_two_consumers_at_once_is_all_handed_over(
    broker: Broker, other: Broker, queue: str
) -> None:
    async with working(broker, queue, "train", "evaluate"):
        [train] = await publish(other, queue, 1, "train")
        [evaluate] = await publish(other, queue, 1, "evaluate")
        seen: list[Delivery] = []
        async with asyncio.timeout(10):  # far below the ack wait, so what is handed over was not dropped before
            while len(seen) < 2:
                seen += await pull(broker, queue, TRAIN, EVALUATE)
        assert sorted(d.message.job for d in seen) == [train, evaluate]
        assert [d.delivered for d in seen] == [1, 1]


async def test_the_lowest_rank_is_served_first(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        ranks = [7, 2, 9, 0, 5]
        served: list[int] = []

        async def agent(rank: int) -> None:
            deliveries = await other.work.pull_wait(queue, [TRAIN], rank=rank, wait_s=30)
            served.append(rank)
            for delivery in deliveries:
                await other.work.ack(delivery.reply)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for count, rank in enumerate(ranks, start=1):
                group.create_task(agent(rank))
                await until_status(broker, queue, TRAIN, waiting=count)
            for count in range(len(ranks) - 1, -1, -1):
                await broker.jobs.publish(queue, "train", b"{}")
                await until_status(broker, queue, TRAIN, waiting=count)
        assert served == sorted(ranks)


async def test_two_waiting_agents_get_one_each(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        waits = [asyncio.create_task(pull(who, queue)) for who in (broker, other)]
        await until_status(broker, queue, TRAIN, waiting=2)
        jobs = await publish(broker, queue, 2)
        async with asyncio.timeout(5):
            found = await asyncio.gather(*waits)
        assert sorted(d.message.job for deliveries in found for d in deliveries) == jobs
        assert [len(deliveries) for deliveries in found] == [1, 1]


async def test_a_cancelled_pull_leaves_no_request_behind(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        waits = asyncio.create_task(pull(other, queue))
        await until_status(broker, queue, TRAIN, waiting=1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await until_status(broker, queue, TRAIN, waiting=0)


@lapses
async def test_cancelled_pulls_lose_nothing(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = set[JobId]()
        seen = set[JobId]()
        for n in range(20):
            waits = asyncio.create_task(pull(other, queue))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            jobs.add((await broker.jobs.publish(queue, "train", b"{}")).job)
            for _ in range(n % 5):
                await asyncio.sleep(0)
            waits.cancel()
            for result in await asyncio.gather(waits, return_exceptions=True):
                if isinstance(result, list):
                    seen |= {d.message.job for d in result}
                    for delivery in result:
                        await other.work.ack(delivery.reply)
        async with asyncio.timeout(20):
            while seen != jobs:
                for delivery in await pull(broker, queue):
                    seen.add(delivery.message.job)
                    await broker.work.ack(delivery.reply)
        assert await broker.jobs.peek(queue, 100) == []


# -- what becomes of a delivery -------------------------------------------------------------------------------------


async def hold_one(broker: Broker, queue: str) -> Delivery:
    """Publish a job and take it."""
    await publish(broker, queue, 1)
    [delivery] = await take(broker, queue, 1)
    return delivery


@asynccontextmanager
async def renewing(broker: Broker, held: Delivery) -> AsyncIterator[None]:
    """Renew it all the while, however long the test's own steps take."""

    async def renew() -> None:
        while True:
            await broker.work.progress([held.reply])
            await asyncio.sleep(ACK_WAIT_S / 10)

    async with asyncio.TaskGroup() as group:
        renews = group.create_task(renew())
        yield
        renews.cancel()


async def test_an_acked_job_is_gone_and_acking_again_does_no_harm(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        delivery = await hold_one(broker, queue)
        await broker.work.ack(delivery.reply)
        assert await other.jobs.get(delivery.message.job) is None
        await broker.work.ack(delivery.reply)
        await other.work.ack(delivery.reply)
        assert (await other.jobs.depth(queue)).messages == 0


@lapses
async def test_a_held_job_comes_again_after_the_ack_wait(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        began_s = asyncio.get_running_loop().time()  # before it is taken: the wait begins with the delivery
        first = await hold_one(broker, queue)
        [second] = await pull(other, queue)
        assert asyncio.get_running_loop().time() - began_s > ACK_WAIT_S * 0.8
        assert second.message == first.message
        assert (first.delivered, second.delivered) == (1, 2)


@lapses
async def test_an_ack_of_an_earlier_delivery_counts_from_anywhere(
    broker: Broker, other: Broker, world: World, queue: str
) -> None:
    async with working(broker, queue, "train"):
        first = await hold_one(broker, queue)
        [second] = await pull(other, queue)
        stranger = await world.connect("stranger")
        await stranger.work.ack(first.reply)
        assert await broker.jobs.get(first.message.job) is None
        await other.work.ack(second.reply)
        assert await pull(broker, queue, wait_s=2 * ACK_WAIT_S) == []


@lapses
async def test_progress_keeps_a_job_from_coming_again(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        kept = await hold_one(broker, queue)
        async with renewing(other, kept):
            dropped = await hold_one(broker, queue)
            for delivered in (2, 3):
                [again] = await pull(other, queue)
                assert (again.message.job, again.delivered) == (dropped.message.job, delivered)
        await broker.work.ack(kept.reply)
        assert await broker.jobs.get(kept.message.job) is None


@lapses
async def test_progress_by_an_earlier_reply_counts_for_the_present_delivery(
    broker: Broker, other: Broker, queue: str
) -> None:
    async with working(broker, queue, "train"):
        first = await hold_one(broker, queue)
        [second] = await pull(other, queue)
        async with renewing(broker, first):
            assert await pull(other, queue, wait_s=2 * ACK_WAIT_S) == []
        await broker.work.ack(second.reply)
        assert await broker.jobs.get(first.message.job) is None


async def test_progress_for_many_and_for_what_is_gone(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        await publish(broker, queue, 3)
        deliveries = await take(broker, queue, 3)
        await broker.work.ack(deliveries[0].reply)
        await broker.work.progress([d.reply for d in deliveries])
        await broker.work.progress([])
        assert (await broker.jobs.depth(queue)).messages == 2


async def test_a_job_given_back_comes_again_at_once(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        first = await hold_one(broker, queue)
        await broker.work.nak(first.reply)
        async with asyncio.timeout(10):  # far below the ack wait
            [second] = await pull(other, queue)
        assert (second.message.job, second.delivered) == (first.message.job, 2)


@lapses
async def test_a_job_given_back_with_a_delay_comes_after_it(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        delivery = await hold_one(broker, queue)
        began_s = asyncio.get_running_loop().time()
        await broker.work.nak(delivery.reply, delay_s=2 * ACK_WAIT_S)
        [second] = await pull(other, queue)
        assert 1.8 * ACK_WAIT_S < asyncio.get_running_loop().time() - began_s < 4 * ACK_WAIT_S
        assert second.message.job == delivery.message.job


async def test_a_delay_may_be_shorter_than_the_ack_wait(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        delivery = await hold_one(broker, queue)
        began_s = asyncio.get_running_loop().time()
        await broker.work.nak(delivery.reply, delay_s=0.25)
        async with asyncio.timeout(10):  # far below the ack wait
            [_] = await pull(other, queue)
        assert asyncio.get_running_loop().time() - began_s > 0.2


@lapses
async def test_a_job_waiting_out_a_delay_can_be_finished(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        delivery = await hold_one(broker, queue)
        await broker.work.nak(delivery.reply, delay_s=ACK_WAIT_S / 2)
        await other.work.ack(delivery.reply)
        assert await broker.jobs.get(delivery.message.job) is None
        assert await pull(broker, queue, wait_s=ACK_WAIT_S) == []


@lapses
async def test_a_terminated_job_is_gone(broker: Broker, other: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        delivery = await hold_one(broker, queue)
        await broker.work.term(delivery.reply, why="its body is not JSON")
        assert await other.jobs.get(delivery.message.job) is None
        assert await pull(other, queue, wait_s=1.5 * ACK_WAIT_S) == []


async def test_what_comes_again_goes_before_what_is_new(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = await publish(broker, queue, 3)
        [first] = await take(broker, queue, 1)
        await broker.work.nak(first.reply)
        assert (await broker.jobs.depth(queue)).messages == 3
        order = [(await pull(broker, queue))[0].message.job for _ in range(3)]
        assert sorted(order) == jobs
        assert order.index(jobs[0]) < 2


async def test_many_jobs_may_be_held_at_once(broker: Broker, queue: str) -> None:
    async with working(broker, queue, "train"):
        jobs = [NewJob("train", Priority.MEDIUM, b"{}")] * 600
        for half in ("first", "second"):
            await broker.jobs.publish_batch(queue, jobs, msg_id=half)
        held = await take(broker, queue, 2 * len(jobs))
        for start in range(0, len(held), 100):  # Not all at once: each answer has its own few seconds to come.
            await asyncio.gather(*(broker.work.ack(d.reply) for d in held[start : start + 100]))
        assert (await broker.jobs.depth(queue)).messages == 0


async def test_the_ack_wait_is_known(broker: Broker, ack_wait_s: float) -> None:
    assert broker.ack_wait_s == ack_wait_s
