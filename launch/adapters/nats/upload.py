"""The chunks of one object on their way into the broker: many in flight, stored in order, each exactly once.

The invariant: what is in flight is bounded in bytes, more tightly where answers are slow, and `settle` returns only if
exactly these chunks are stored, each behind the one before it. After a lost answer or connection, what is stored behind
the last chunk that was answered for is taken away, and everything from there is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from nats.aio.msg import Msg

from launch.adapters.nats.connection import Connection, status_of
from launch.adapters.nats.failures import MESSAGE_NOT_FOUND, ApiError
from launch.errors import BrokerUnavailable

FIRST_WINDOW_BYTES = 1024**2
IN_FLIGHT_BYTES = 8 * 1024**2
SLOW_S = 0.5
"""An answer that takes longer makes the window smaller: a thin line must keep room for whatever else goes over it,
such as word that a job is still being worked on."""

RESEND_S = 5.0
PATIENCE_S = 20.0
"""How long an upload bears with a broker that answers nothing; longer than a new leader takes."""


class Upload:
    """One object's chunks, on a subject that must never be used again."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._inbox = connection.client.new_inbox()
        self._stack = contextlib.AsyncExitStack()
        self._flight: dict[int, tuple[bytes, float]] = {}
        self._flying = 0
        self._window = FIRST_WINDOW_BYTES
        self._sent = 0
        self._last_seq = 0
        self._round = 0
        self._changed = asyncio.Event()
        self._again = False
        self._refused: ApiError | None = None
        self._heard_s = 0.0

    async def open(self) -> None:
        """Listen for answers; end it with `close`."""
        self._stack.enter_context(self._connection.on_reconnect(self._disturbed))
        await self._stack.enter_async_context(self._connection.subscription(f"{self._inbox}.*.*", self._answered))

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        await self._stack.aclose()

    @property
    def chunks(self) -> int:
        """How many were sent."""
        return self._sent

    async def send(self, data: bytes) -> None:
        """Send the next chunk; waits while too much is in flight. Raises `BrokerUnavailable` or `ApiError`."""
        await self._until(self._window - len(data))
        now_s = asyncio.get_running_loop().time()
        if not self._flight:
            self._heard_s = now_s
        self._flight[self._sent] = (data, now_s)
        self._flying += len(data)
        self._sent += 1
        if not self._again:
            await self._publish(self._sent - 1, data)

    async def settle(self) -> None:
        """Return once all are stored, in order. Raises `BrokerUnavailable` or `ApiError`."""
        await self._until(0)
        if self._sent:
            info = await self._connection.api(f"STREAM.INFO.{self._stream}", {"subjects_filter": self._subject})
            stored = (info["state"].get("subjects") or {}).get(self._subject, 0)
            if stored != self._sent:
                raise BrokerUnavailable(f"publish to {self._subject}: {stored} of {self._sent} chunks are stored")

    async def calm(self) -> None:
        """After a failure: return once nothing is on its way any more, as far as can be told in a short time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESEND_S):
                while self._flight and self._refused is None and not self._again:
                    self._changed.clear()
                    await self._changed.wait()

    async def _until(self, flying: int) -> None:
        """Wait until at most so many bytes are in flight, or nothing is."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if self._refused is not None:
                raise self._refused
            if self._again and self._connection.client.is_connected:
                await self._go_back()
            if not self._flight or (self._flying <= flying and not self._again):
                return
            try:
                async with asyncio.timeout(RESEND_S):
                    await self._changed.wait()
            except TimeoutError:
                self._again = True
            if loop.time() - self._heard_s > PATIENCE_S or self._connection.client.is_closed:
                raise BrokerUnavailable(f"publish to {self._subject}: NATS did not answer in time")

    async def _go_back(self) -> None:
        """Begin anew behind the last chunk that was answered for; the answers of before mean nothing any more."""
        self._round += 1
        try:
            await self._connection.settled()
            await self._take_away_rest()
            self._again = False
            for index, (data, _) in list(self._flight.items()):
                if self._again:
                    return
                await self._publish(index, data)
        except BrokerUnavailable:
            self._again = True

    async def _take_away_rest(self) -> None:
        """Delete what is stored behind the last chunk that was answered for: it may lack one before it."""
        while True:
            query = {"seq": self._last_seq + 1, "next_by_subj": self._subject}
            try:
                found = await self._connection.api(f"STREAM.MSG.GET.{self._stream}", query)
            except ApiError as error:
                if error.err_code == MESSAGE_NOT_FOUND:
                    return
                raise
            # The leader is asked: another server may be behind.
            seq = found["message"]["seq"]
            await self._connection.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": seq, "no_erase": True})

    async def _publish(self, index: int, data: bytes) -> None:
        if not self._connection.client.is_connected:
            self._again = True
            return
        try:
            await self._connection.publish(self._subject, data, reply=f"{self._inbox}.{self._round}.{index}")
        except BrokerUnavailable:
            self._again = True

    def _disturbed(self) -> None:
        self._again = True
        self._changed.set()

    def _answered(self, msg: Msg) -> None:
        round_, index = map(int, msg.subject.split(".")[-2:])
        if round_ != self._round or not self._flight or self._again:
            return
        answer = {} if status_of(msg) else json.loads(msg.data)
        error = answer.get("error")
        refused = (
            ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", "")) if error else None
        )
        if refused is not None and not refused.passing:
            self._refused = refused
        elif refused is not None or not answer or index != next(iter(self._flight)):
            # Nobody listened, or could store it, at that moment; or one before this one was lost.
            self._again = True
        else:
            data, sent_s = self._flight.pop(index)
            self._flying -= len(data)
            self._last_seq = int(answer["seq"])
            self._heard_s = asyncio.get_running_loop().time()
            slow = self._heard_s - sent_s > SLOW_S
            self._window = self._window // 2 if slow else min(IN_FLIGHT_BYTES, self._window + len(data))
        self._changed.set()
