"""The fake broker's work: which consumers there are, pulls, and what becomes of a delivery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from launch.errors import BrokerError, NotFound
from launch.ports import Delivery, Message
from launch.subjects import Priority, WorkConsumer, queue_of_stream
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
        async with self._link.request():
            stream = self._server.stream(queue)
        inbox: Inbox[WorkConsumer | None] = Inbox(self._link)

        def hear(message: Message | None) -> None:
            inbox.put(message.consumer if message else None)

        if job_types is None:
            known = {durable.consumer for durable in stream.durables.values()}
            known |= {message.consumer for message in stream.messages.values()}
        else:
            known = {WorkConsumer(job_type, priority) for job_type in job_types for priority in Priority}
        with stream.listening(hear), self._link.listening(inbox.link_moved):
            yield _made(stream, known)
            while True:
                consumer = await inbox.get()
                if consumer is None:
                    raise NotFound(f"queue '{queue}' was deleted")
                if job_types is None and consumer not in known:
                    known.add(consumer)
                    yield _made(stream, known)

    async def pull_now(self, queue: str, consumer: WorkConsumer, batch: int) -> list[Delivery]:
        async with self._link.request():
            durable = self._durable(queue, consumer)
            taken = (durable.take() for _ in range(batch))
            return [delivery for delivery in taken if delivery is not None]

    async def pull_wait(
        self, queue: str, consumers: Sequence[WorkConsumer], *, rank: int, wait_s: float
    ) -> list[Delivery]:
        pull = Pull(rank)
        async with self._link.request():
            durables = [self._durable(queue, consumer) for consumer in consumers]
            for durable in durables:
                durable.ask(pull)

        def withdraw() -> None:
            for durable in durables:
                durable.withdraw(pull)

        try:
            with self._link.listening(withdraw):
                async with asyncio.timeout(wait_s):
                    await pull.answered.wait()
        except TimeoutError:
            pass
        finally:
            withdraw()
        self._link.check()
        return pull.deliveries

    async def ack(self, reply: str) -> None:
        async with self._link.request():
            durable, seq, stream = self._held(reply)
            if durable is not None:
                stream.remove(seq)

    async def nak(self, reply: str, *, delay_s: float = 0.0) -> None:
        async with self._link.request():
            durable, seq, _ = self._held(reply)
            if durable is not None:
                durable.nak(seq, delay_s)

    async def term(self, reply: str, *, why: str) -> None:
        del why
        await self.ack(reply)

    async def progress(self, replies: Sequence[str]) -> None:
        async with self._link.request():
            for reply in replies:
                durable, seq, _ = self._held(reply)
                if durable is not None:
                    durable.progress(seq)

    def _durable(self, queue: str, consumer: WorkConsumer) -> Durable:
        durable = self._server.stream(queue).durables.get(consumer.name)
        if durable is None:
            raise NotFound(f"queue '{queue}' has no consumer '{consumer.name}'")
        return durable

    def _held(self, reply: str) -> tuple[Durable | None, int, WorkStream]:
        """Whose delivery this reply belongs to, if it still counts."""
        try:
            _, _, stream_name, durable_name, _, seq, _ = reply.split(".")
            queue = queue_of_stream(stream_name)
        except ValueError:
            raise BrokerError(f"'{reply}' is no reply token of this broker") from None
        stream = self._server.stream(queue or "")
        return stream.durables.get(durable_name), int(seq), stream


def _made(stream: WorkStream, known: set[WorkConsumer]) -> tuple[WorkConsumer, ...]:
    for consumer in known:
        stream.durable(consumer)
    return tuple(sorted(known, key=urgency))
