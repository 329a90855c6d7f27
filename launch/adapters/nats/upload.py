"""The chunks of one object on their way into the broker: many in flight, stored in order, each exactly once.

The invariant: what is in flight is bounded in bytes, more tightly where answers are slow, and `settle` returns only if
every chunk is stored behind the one before it. A lost answer or connection leads to sending again; the message ids keep
the server from storing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from nats.aio.msg import Msg

from launch.adapters.nats.connection import Connection, status_of
from launch.adapters.nats.failures import ApiError
from launch.errors import BrokerUnavailable
from launch.subjects import HEADER_MSG_ID

FIRST_WINDOW_BYTES = 1024**2
IN_FLIGHT_BYTES = 8 * 1024**2
SLOW_S = 0.5
"""An answer that takes longer makes the window smaller: a thin line must keep room for whatever else goes over it,
such as word that a job is still being worked on."""

RESEND_S = 5.0
PATIENCE_S = 20.0
"""How long an upload bears with a broker that answers nothing; longer than a new leader takes."""


class Upload:
    """One object's chunks; `chunk_id` makes their message ids and must never be used again."""

    def __init__(self, connection: Connection, subject: str, chunk_id: str) -> None:
        self._connection = connection
        self._subject = subject
        self._chunk_id = chunk_id
        self._inbox = connection.client.new_inbox()
        self._stack = contextlib.AsyncExitStack()
        self._flight: dict[int, tuple[bytes, float]] = {}
        self._window = FIRST_WINDOW_BYTES
        self._flying = 0
        self._seqs: list[int] = []
        self._changed = asyncio.Event()
        self._again = False
        self._refused: ApiError | None = None
        self._heard_s = 0.0

    async def open(self) -> None:
        """Listen for answers; end it with `close`."""
        self._stack.enter_context(self._connection.on_reconnect(self._reconnected))
        await self._stack.enter_async_context(self._connection.subscription(f"{self._inbox}.*", self._answered))

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        await self._stack.aclose()

    @property
    def chunks(self) -> int:
        """How many were sent."""
        return len(self._seqs)

    async def send(self, data: bytes) -> None:
        """Send the next chunk; waits while too much is in flight. Raises `BrokerUnavailable` or `ApiError`."""
        await self._until(self._window - len(data))
        now_s = asyncio.get_running_loop().time()
        if not self._flight:
            self._heard_s = now_s
        index = len(self._seqs)
        self._seqs.append(0)
        self._flight[index] = (data, now_s)
        self._flying += len(data)
        with contextlib.suppress(BrokerUnavailable):  # it is sent again after the reconnect
            await self._publish(index, data)

    async def settle(self) -> None:
        """Return once all are stored, in order. Raises `BrokerUnavailable` or `ApiError`."""
        await self._until(0)
        if any(later <= earlier for earlier, later in zip(self._seqs, self._seqs[1:], strict=False)):
            raise BrokerUnavailable(f"publish to {self._subject}: the broker lost a chunk and stored later ones")

    async def calm(self) -> None:
        """After a failure: return once nothing is on its way any more, as far as can be told in a short time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESEND_S):
                while self._flight and self._refused is None:
                    self._changed.clear()
                    await self._changed.wait()

    async def _until(self, flying: int) -> None:
        """Wait until at most so many bytes are in flight, or nothing is."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if self._refused is not None:
                raise self._refused
            if not self._flight or self._flying <= flying:
                return
            if self._again:
                self._again = False
                await self._send_again()
            try:
                async with asyncio.timeout(RESEND_S):
                    await self._changed.wait()
            except TimeoutError:
                self._again = True
            if loop.time() - self._heard_s > PATIENCE_S or self._connection.client.is_closed:
                raise BrokerUnavailable(f"publish to {self._subject}: NATS did not answer in time")

    async def _send_again(self) -> None:
        with contextlib.suppress(BrokerUnavailable):
            for index, (data, _) in list(self._flight.items()):
                if index in self._flight:
                    await self._publish(index, data)

    async def _publish(self, index: int, data: bytes) -> None:
        await self._connection.publish(
            self._subject,
            data,
            reply=f"{self._inbox}.{index}",
            headers={HEADER_MSG_ID: f"{self._chunk_id}.{index}"},
        )

    def _reconnected(self) -> None:
        self._again = True
        self._changed.set()

    def _answered(self, msg: Msg) -> None:
        if status_of(msg):
            return  # nobody listens at this moment: a new leader will
        index = int(msg.subject.rpartition(".")[2])
        answer = json.loads(msg.data)
        error = answer.get("error")
        if error:
            self._refused = ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        elif index in self._flight:
            data, sent_s = self._flight.pop(index)
            self._flying -= len(data)
            self._seqs[index] = int(answer["seq"])
            self._heard_s = asyncio.get_running_loop().time()
            slow = self._heard_s - sent_s > SLOW_S
            self._window = self._window // 2 if slow else min(IN_FLIGHT_BYTES, self._window + len(data))
        self._changed.set()
