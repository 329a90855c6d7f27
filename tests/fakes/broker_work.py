"""The fake broker's work: which consumers there are, pulls, and what becomes of a delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from launch.errors import BrokerError, BrokerUnavailable
from launch.ports import Delivery, Message
from launch.subjects import JobId, Priority, WorkConsumer, queue_of_stream, work_stream
from tests.fakes.broker_link import Inbox, Link
from tests.fakes.broker_queues import urgency
from tests.fakes.broker_server import ServerState
from tests.fakes.broker_stream import Durable, Pull, WorkStream


class FakeWork:
    """`launch.ports.Work`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._link = link

    async def consumers(self, queue: str, job_types: Sequence[str] | None) -> AsyncGenerator[tuple[WorkConsumer, ...]]:
        await self._link.until_up()
        look: Inbox[None] = Inbox(self._link)

        def hear(job: JobId) -> None:
            del job
            look.put(None)

        def link_moved() -> None:
            look.put(None)
            look.link_moved()

        told: tuple[WorkConsumer, ...] | None = None
        with self._server.subscribed(f"submitted.{queue}", hear), self._link.listening(link_moved):
            while True:
                async with self._link.request():
                    stream = self._server.stream(queue)
                    present = {message.consumer for message in stream.messages.values()}
                    present |= {WorkConsumer(job_type, Priority.MEDIUM) for job_type in job_types or ()}
                    for consumer in sorted(present, key=urgency):
                        stream.durable(consumer)
                    present = {durable.consumer for durable in stream.durables.values()}
                mine = tuple(sorted((c for c in present if job_types is None or c.job_type in job_types), key=urgency))
                if mine != told:
                    told = mine
                    yield mine
                await look.get()

    async def pull_now(self, queue: str, consumer: WorkConsumer, batch: int) -> list[Delivery]:
        async with self._link.request():
            durable = self._durable(queue, consumer)
            taken = (durable.take() for _ in range(batch))
            return [delivery for delivery in taken if delivery is not None]

    async def pull_wait(
        self, queue: str, consumers: Sequence[WorkConsumer], *, rank: int, wait_s: float
    ) -> list[Delivery]:
        if not consumers:
            return []
        pull = Pull(rank)
        async with self._link.request():
            durables = [self._durable(queue, consumer) for consumer in consumers]
            for durable in durables:
                durable.ask(pull)

        def withdraw() -> None:
            for durable in durables:
                durable.withdraw(pull)

        def interrupted() -> None:
            withdraw()
            pull.answered.set()

        try:
            with self._link.listening(interrupted):
                async with asyncio.timeout(wait_s):
                    await pull.answered.wait()
        except TimeoutError:
            pass
        finally:
            withdraw()
        self._link.check()
        if pull.refused:
            raise BrokerError(f"pull from '{queue}': the queue was deleted")
        return pull.deliveries

    def token(self, message: Message) -> str:
        return f"$JS.ACK.{work_stream(message.job.queue)}.{message.consumer.name}.1.{message.job.seq}.1"

    async def ack(self, reply: str) -> None:
        async with self._link.request():
            _, seq, stream = self._held(reply)
            stream.remove(seq)

    async def nak(self, reply: str, *, delay_s: float = 0.0) -> None:
        async with self._link.request():
            with suppress(BrokerUnavailable):
                durable, seq, _ = self._held(reply)
                durable.nak(seq, delay_s)

    async def term(self, reply: str, *, why: str) -> None:
        del why
        await self.ack(reply)

    async def progress(self, replies: Sequence[str]) -> None:
        async with self._link.request():
            for reply in replies:
                with suppress(BrokerUnavailable):
                    durable, seq, _ = self._held(reply)
                    durable.progress(seq)

    def _durable(self, queue: str, consumer: WorkConsumer) -> Durable:
        stream = self._server.streams.get(queue)
        durable = stream.durables.get(consumer.name) if stream else None
        if durable is None:
            raise BrokerUnavailable(f"queue '{queue}' has no consumer '{consumer.name}'")
        return durable

    def _held(self, reply: str) -> tuple[Durable, int, WorkStream]:
        """Whose delivery this reply belongs to, if it still counts."""
        try:
            _, _, stream_name, durable_name, _, seq, _ = reply.split(".")
            queue = queue_of_stream(stream_name)
        except ValueError:
            raise BrokerError(f"'{reply}' is no reply token of this broker") from None
        stream = self._server.streams.get(queue or "")
        durable = stream.durables.get(durable_name) if stream else None
        if stream is None or durable is None:
            raise BrokerUnavailable(f"nobody listens on '{reply}' any more")
        return durable, int(seq), stream
