"""One set of pull requests under way, answered into one inbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from launch import subjects
from launch.adapters.nats.connection import Connection, header_of, status_of
from launch.adapters.nats.failures import translated
from launch.errors import BrokerError, BrokerUnavailable, NotPermitted
from launch.ports import Delivery, Message
from launch.subjects import JobId, WorkConsumer

_ENDED = (404, 408)
_NOBODY = 503
_REFUSED = 409
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORT_TOKEN, _TIME_OF_SHORT, _TIME_OF_LONG = 9, 7, 9
"""Parts of a reply token, without and with the domain and account, and where the time is in either."""


class Round:
    """One set of pulls that share an inbox; ending the subscription cancels those that are still open."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._events: asyncio.Queue[Msg | NotPermitted | None] = asyncio.Queue()
        self._sub: Subscription | None = None
        self._stack = contextlib.ExitStack()
        self._batch = 1
        self.open = 0
        self.taken: list[Delivery] = []
        self.kept = False

    async def start(self, consumers: Sequence[WorkConsumer], request: dict[str, Any]) -> None:
        inbox = self._connection.client.new_inbox()
        self._stack.enter_context(self._connection.on_reconnect(lambda: self._events.put_nowait(None)))

        async def arrived(msg: Msg) -> None:
            self._events.put_nowait(msg)

        with translated("pull"):
            self._sub = await self._connection.client.subscribe(inbox, cb=arrived)
        body = json.dumps(request).encode()
        stream = subjects.work_stream(self._queue)
        self._batch = request["batch"]
        self.open = len(consumers)
        for consumer in consumers:
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer.name}"
            self._stack.enter_context(self._connection.denials.publishing(subject, self._events.put_nowait))
            await self._connection.publish(subject, body, reply=inbox)

    async def next(self) -> None:
        """Wait for one event and take it in."""
        self._take(await self._events.get())

    def _take(self, msg: Msg | NotPermitted | None) -> None:
        if msg is None:
            self.open = 0  # the connection was interrupted: the server has forgotten these pulls
            return
        if isinstance(msg, NotPermitted):
            raise NotPermitted(f"pull from {self._queue}: {msg.message}", hint=msg.hint)
        status = status_of(msg)
        if status == 0:
            self.taken.append(_delivery(self._queue, msg))
            if self._batch == 1:  # the server says when a larger one ends early, and is silent when it is full
                self.open -= 1
        elif status in _ENDED:
            self.open -= 1
        elif status == _NOBODY:
            raise BrokerUnavailable(f"pull from {self._queue}: nobody answered; the queue has no leader, or is gone")
        elif status == _REFUSED:
            raise BrokerError(f"pull from {self._queue}: {header_of(msg, 'Description')}")

    async def drain(self) -> None:
        """Cancel what is open and take in what the server had already sent."""
        if self._sub is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError, RuntimeError):
                await self._sub.drain()  # type: ignore[no-untyped-call]  # untyped in nats-py
        while not self._events.empty():
            with contextlib.suppress(BrokerError):
                self._take(self._events.get_nowait())
        self._sub = None
        self.open = 0
        self._stack.close()

    def stop(self) -> None:
        """Leave at once, unless a clean-up still owns this round."""
        if self.kept:
            return
        sub, self._sub = self._sub, None
        self._stack.close()
        if sub is not None:
            # Local removal is what counts; the UNSUB goes out with the next flush.
            task = asyncio.get_running_loop().create_task(_unsubscribe(sub), name="end a pull")
            self._connection.in_background(task)


async def _unsubscribe(sub: Subscription) -> None:
    with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
        await sub.unsubscribe()


def _delivery(queue: str, msg: Msg) -> Delivery:
    metadata = msg.metadata
    _, consumer = subjects.parse_job_subject(msg.subject)
    message = Message(
        JobId(queue, metadata.sequence.stream), consumer, msg.data, _published_at(msg.reply), dict(msg.headers or {})
    )
    return Delivery(message, msg.reply, metadata.num_delivered)


def _published_at(reply: str) -> datetime:
    """When the message was stored, to the microsecond as `parse_time` has it: nats-py goes through a float."""
    parts = reply.split(".")
    nanoseconds = int(parts[_TIME_OF_SHORT if len(parts) == SHORT_TOKEN else _TIME_OF_LONG])
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
