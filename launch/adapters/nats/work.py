"""Taking jobs: durables that appear with the types that are used, and pulls that know priorities.

nats-py's own fetch knows neither priority groups nor several consumers at once, so the pull protocol
(`$JS.API.CONSUMER.MSG.NEXT`) is spoken here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.nats.answer import take_out
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError
from launch.adapters.nats.pull import SHORT_TOKEN, Round
from launch.adapters.nats.queues import (
    FOREVER,
    consumer_of,
    is_paused,
    list_consumers,
    read_depth,
    stream_info,
)
from launch.errors import BrokerUnavailable, LaunchError
from launch.ports import Delivery, Message
from launch.subjects import Priority, WorkConsumer

MAX_WAITING = 100_000
RESYNC_S = 20.0
"""How long a notice that went to an agent which has just vanished can keep a new type from the others."""

NO_WAIT_ANSWER_S = 5.0

_DELIVERED_AS = 6
"""The part of a short reply token that counts the consumer's deliveries."""


class NatsWork:
    """`launch.ports.Work`."""

    def __init__(self, connection: Connection, ack_wait_s: float) -> None:
        self._connection = connection
        self._ack_wait_s = ack_wait_s

    # -- which consumers ----------------------------------------------------------------------------------------

    async def consumers(self, queue: str, job_types: Sequence[str] | None) -> AsyncGenerator[tuple[WorkConsumer, ...]]:
        changed = asyncio.Event()
        known: set[WorkConsumer] = set()

        def on_notice(msg: Msg) -> None:
            with contextlib.suppress(LaunchError):
                consumer = subjects.parse_job_subject(msg.subject)[1]
                if consumer not in known:
                    known.add(consumer)
                    # Not in this generator: its reader may be busy, and this notice came to nobody else.
                    task = asyncio.get_running_loop().create_task(learn(consumer), name=f"make {consumer.name}")
                    self._connection.in_background(task)

        async def learn(consumer: WorkConsumer) -> None:
            try:
                await self._create(queue, consumer)
            except LaunchError:
                known.discard(consumer)
            changed.set()

        created = f"$JS.EVENT.ADVISORY.CONSUMER.CREATED.{subjects.work_stream(queue)}.>"
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._connection.on_reconnect(changed.set))
            # In one queue group, so that each notice costs one agent a look, not all of them; the rest learn of a new
            # durable from the server's advisory, or at the next resync if that agent was gone.
            notices = self._connection.subscription(subjects.submitted_subject(queue), on_notice, group="agents")
            await stack.enter_async_context(notices)
            await stack.enter_async_context(self._connection.subscription(created, lambda _: changed.set()))
            told: tuple[WorkConsumer, ...] | None = None
            while True:
                changed.clear()
                try:
                    present = await self._complete(queue, job_types or ())
                except BrokerUnavailable:
                    if told is None:
                        raise
                else:
                    known |= present
                    mine = sorted(
                        (c for c in present if job_types is None or c.job_type in job_types),
                        key=lambda c: (c.priority.rank, c.job_type),
                    )
                    if told != tuple(mine):
                        told = tuple(mine)
                        yield told
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RESYNC_S):
                        await changed.wait()

    async def _complete(self, queue: str, job_types: Sequence[str]) -> set[WorkConsumer]:
        """Make the durables that are missing for these types and for every job that lies there; returns all."""
        wanted = set((await read_depth(self._connection, queue)).subjects)
        wanted |= {WorkConsumer(job_type, Priority.MEDIUM) for job_type in job_types}
        present = {consumer_of(item) for item in await list_consumers(self._connection, queue)}
        for consumer in wanted - present:
            await self._create(queue, consumer)
        return present | wanted

    async def _create(self, queue: str, consumer: WorkConsumer) -> None:
        stream = subjects.work_stream(queue)
        config: dict[str, Any] = {
            "name": consumer.name,
            "durable_name": consumer.name,
            "filter_subject": consumer.subject(queue),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": MAX_WAITING,
            "priority_groups": [subjects.PULL_GROUP],
            "priority_policy": "prioritized",
        }
        paused = is_paused(await stream_info(self._connection, queue))
        if paused:
            config["pause_until"] = FOREVER
        subject = f"CONSUMER.CREATE.{stream}.{consumer.name}.{config['filter_subject']}"
        await self._connection.api(subject, {"stream_name": stream, "config": config})
        # Whoever paused or resumed the queue just now may have listed its consumers before this one was there.
        if is_paused(await stream_info(self._connection, queue)) != paused:
            until = {} if paused else {"pause_until": FOREVER}
            await self._connection.api(f"CONSUMER.PAUSE.{stream}.{consumer.name}", until)

    # -- pulling ------------------------------------------------------------------------------------------------

    async def pull_now(self, queue: str, consumer: WorkConsumer, batch: int) -> list[Delivery]:
        request = {"batch": batch, "no_wait": True, "group": subjects.PULL_GROUP, "priority": 0}
        round_ = Round(self._connection, queue)
        try:
            await round_.start([consumer], request)
            async with asyncio.timeout(NO_WAIT_ANSWER_S):
                while round_.open and len(round_.taken) < batch:
                    await round_.next()
        except TimeoutError:
            if not round_.taken:
                raise BrokerUnavailable(f"pull from {queue}: NATS did not answer in time") from None
        except asyncio.CancelledError:
            self._give_back(round_)
            raise
        finally:
            round_.stop()
        return round_.taken

    async def pull_wait(
        self, queue: str, consumers: Sequence[WorkConsumer], *, rank: int, wait_s: float
    ) -> list[Delivery]:
        request = {"batch": 1, "expires": int(wait_s * 1e9), "group": subjects.PULL_GROUP, "priority": rank}
        round_ = Round(self._connection, queue)
        try:
            await round_.start(consumers, request)
            with contextlib.suppress(TimeoutError):
                # The server ends the pulls itself; a little more than it takes, in case its word was lost.
                async with asyncio.timeout(wait_s + NO_WAIT_ANSWER_S):
                    while round_.open and not round_.taken:
                        await round_.next()
            if round_.open:
                await round_.drain()
        except asyncio.CancelledError:
            self._give_back(round_)
            raise
        finally:
            round_.stop()
        return round_.taken

    def _give_back(self, round_: Round) -> None:
        """After a cancelled pull: what had already arrived, or still does, goes back at once."""

        async def give_back() -> None:
            with contextlib.suppress(LaunchError):
                await round_.drain()
                for delivery in round_.taken:
                    await self.nak(delivery.reply)

        round_.kept = True
        task = asyncio.get_running_loop().create_task(give_back(), name="give back a cancelled pull")
        self._connection.in_background(task)

    # -- answering ----------------------------------------------------------------------------------------------

    def token(self, message: Message) -> str:
        # The server goes by stream, consumer and the message's sequence, `take_out` by the time, too. As which message
        # of the consumer it was delivered (here: none) is read by a nak alone; nobody reads how often it was, and
        # what was left then.
        job, stored_at = message.job, round(message.published_at.timestamp() * 1e6) * 1000
        return f"$JS.ACK.{subjects.work_stream(job.queue)}.{message.consumer.name}.1.{job.seq}.0.{stored_at}.0"

    async def ack(self, reply: str) -> None:
        await self._answer(reply, b"+ACK", "ack a job")

    async def nak(self, reply: str, *, delay_s: float = 0.0) -> None:
        body = b"-NAK" if delay_s <= 0 else b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode()
        await self._connection.publish(await self._delivered(reply), body)

    async def _delivered(self, reply: str) -> str:
        """This token, as that of a delivery if it was made without one.

        The server drops a nak for what the consumer had delivered before the oldest that is not answered (`processNak`
        in its consumer.go), which the sequence in the token says; that of the last delivery always counts.
        """
        parts = reply.split(".")
        if len(parts) != SHORT_TOKEN or parts[_DELIVERED_AS] != "0":
            return reply
        queue = subjects.queue_of_stream(parts[2])
        if queue is None:
            return reply
        try:
            consumers = await list_consumers(self._connection, queue)
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            return reply  # nobody is there to take the job back
        last = next((item["delivered"]["consumer_seq"] for item in consumers if item["name"] == parts[3]), 0)
        return ".".join([*parts[:_DELIVERED_AS], str(last), *parts[_DELIVERED_AS + 1 :]])

    async def term(self, reply: str, *, why: str) -> None:
        await self._answer(reply, b"+TERM " + why.encode()[:200], "terminate a job")

    async def _answer(self, reply: str, body: bytes, what: str) -> None:
        try:
            await self._connection.request(reply, body, what=what)
        except BrokerUnavailable:
            if self._connection.connected_since is None:
                raise
            # Perhaps nobody can hear it any more: the consumer that handed the job out is gone, and one made anew
            # says nothing to this. Then the job must leave the queue in another way, if it still lies there.
            if not await take_out(self._connection, reply):
                raise

    async def progress(self, replies: Sequence[str]) -> None:
        for reply in replies:
            await self._connection.publish(reply, b"+WPI")
