"""Reads a stream in order and goes on where it was, whatever happens to the connection.

An ephemeral pull consumer without acks, asked for a bounded number of messages at a time: a slow reader slows the
server down instead of filling memory. Every gap, lost consumer, missed heartbeat and reconnect leads to a new consumer
that starts after the last message handed on, so nothing is skipped and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

from nats.aio.msg import Msg

from launch.adapters.nats.connection import RECONNECT_WAIT_S, REQUEST_TIMEOUT_S, Connection, status_of
from launch.adapters.nats.failures import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError
from launch.errors import BrokerUnavailable
from launch.ports import SYNCED, Synced

BATCH = 128
"""Messages asked for ahead; with log chunks of at most 64 KiB that is 8 MiB."""
EXPIRES_S = 60.0
HEARTBEAT_S = 20.0
INACTIVE_S = 90.0
MAX_BACKOFF_S = 5.0

_IDLE_HEARTBEAT = 100
_EXPIRED = 408


class _LostError(Exception):
    """The server-side consumer is gone or can't be trusted: make another."""


async def read_stream(
    connection: Connection, stream: str, subject: str, *, after_seq: int | None, follow: bool, batch: int = BATCH
) -> AsyncGenerator[Msg | Synced]:
    """Messages on `subject` in order, with `SYNCED` once all that existed at the start have been yielded.

    `after_seq` None starts with the last message of each subject (a bucket's present state), a number with the first
    message after it. Without `follow` it ends at `SYNCED`, and raises `BrokerUnavailable` when nothing
    comes any more. A stream that does not exist reads as empty, and with `follow` is waited for. `batch` is how many
    messages are asked for ahead.
    """
    patience = _Patience(connection, stream)
    position = after_seq
    synced = False
    backoff_s = RECONNECT_WAIT_S
    events: asyncio.Queue[Msg | None] = asyncio.Queue()
    with connection.on_reconnect(lambda: events.put_nowait(None)):
        while True:
            try:
                async with _Pull(connection, stream, subject, position, events, batch) as pull:
                    async for item in pull.items(synced, 2.5 * HEARTBEAT_S if follow else REQUEST_TIMEOUT_S):
                        if isinstance(item, Synced):
                            synced = True
                        else:
                            position = item.metadata.sequence.stream
                            backoff_s = RECONNECT_WAIT_S
                        yield item
                        patience.renew()
                        if synced and not follow:
                            return
            except (_LostError, BrokerUnavailable) as error:
                if not follow:
                    patience.check(error)
            except ApiError as error:
                if error.err_code not in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
                    raise
                if not synced:
                    yield SYNCED
                synced = True
                if not follow:
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await _reconnected(events)
            backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)


class _Patience:
    """How long a read that wants only what is there bears with a connection over which nothing comes."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._since_s = asyncio.get_running_loop().time()

    def check(self, error: Exception) -> None:
        """Raises `BrokerUnavailable` if it is over."""
        waited_s = asyncio.get_running_loop().time() - self._since_s
        over = waited_s >= REQUEST_TIMEOUT_S or self._connection.client.is_closed
        if isinstance(error, BrokerUnavailable):
            if over or self._connection.connected_since is not None:
                raise error
        elif over:
            raise BrokerUnavailable(f"read {self._stream}: NATS did not answer in time") from error


async def _reconnected(events: asyncio.Queue[Msg | None]) -> None:
    while await events.get() is not None:
        pass


class _Pull:
    """One ephemeral consumer and its running request."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subject: str,
        after_seq: int | None,
        events: asyncio.Queue[Msg | None],
        batch: int,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._after_seq = after_seq
        self._events = events
        self._batch = batch
        self._inbox = connection.client.new_inbox()
        self._stack = contextlib.AsyncExitStack()
        self._name = ""
        self.pending = 0

    async def __aenter__(self) -> _Pull:
        while not self._events.empty():
            self._events.get_nowait()
        name = f"read-{secrets.token_hex(16)}"
        config: dict[str, Any] = {
            "name": name,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * 1e9),
        }
        if self._after_seq is None:
            config["deliver_policy"] = "last_per_subject"
        elif self._after_seq == 0:
            config["deliver_policy"] = "all"
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after_seq + 1}
        await self._stack.enter_async_context(self._connection.subscription(self._inbox, self._events.put_nowait))
        try:
            # Under its filter's subject: permissions tell by it whose messages are read. The name is known to us alone.
            answer = await self._connection.api(
                f"CONSUMER.CREATE.{self._stream}.{name}.{self._subject}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self._stack.aclose()
            raise
        self._name = answer["name"]
        self.pending = answer["num_pending"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        with contextlib.suppress(BrokerUnavailable):
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")

    async def items(self, synced: bool, patience_s: float) -> AsyncGenerator[Msg | Synced]:
        """Messages until the consumer is lost (raises `_LostError`); unless `synced`, also the end of what existed.

        It is lost, too, when nothing has come for `patience_s`.
        """
        if not synced and self.pending == 0:
            synced = True
            yield SYNCED
        expected = 1
        wanted = 0
        while True:
            if wanted <= self._batch // 2:
                await self._ask(self._batch - wanted)
                wanted = self._batch
            try:
                async with asyncio.timeout(patience_s):
                    msg = await self._events.get()
            except TimeoutError:
                raise _LostError from None
            if msg is None:
                raise _LostError
            status = status_of(msg)
            if status == 0:
                if msg.metadata.sequence.consumer != expected:
                    raise _LostError
                expected += 1
                wanted -= 1
                yield msg
                if not synced and msg.metadata.num_pending == 0:
                    synced = True
                    yield SYNCED
            elif status == _EXPIRED:
                wanted -= int((msg.headers or {}).get("Nats-Pending-Messages", wanted) or 0)
                wanted = max(wanted, 0)
            elif status != _IDLE_HEARTBEAT:
                raise _LostError

    async def _ask(self, batch: int) -> None:
        request = {
            "batch": batch,
            "expires": int(EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        await self._connection.publish(subject, json.dumps(request).encode(), reply=self._inbox)
