"""Storing an attempt's log chunks at the broker: in order, each once, however often the broker is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from launch.errors import BrokerError, BrokerUnavailable
from launch.ports import LogChunk, Logs
from launch.subjects import JobId

FIRST_DELAY_S: Final = 0.05
MAX_DELAY_S: Final = 5.0
REFUSALS: Final = 10
"""So often in a row the engine or the broker may refuse (not: be away) before the rest of the output is given up."""
ANCHOR_BYTES: Final = 8 * 1024 * 1024
"""At most about this much is read back from the broker to learn whether an append without an answer was stored."""


class LogSender:
    """Stores chunks in order, each once, however often the broker is away.

    An append without an answer may or may not have been stored. Since nobody else writes this attempt's chunks, how
    many there are now after `_anchor` tells.
    """

    def __init__(self, logs: Logs, job: JobId, attempt: int, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.error: str | None = None
        self._logs = logs
        self._job = job
        self._attempt = attempt
        self._sleep = sleep
        self._outgoing: list[LogChunk] = []
        self._anchor: int | None = None
        self._confirmed = 0
        self._confirmed_bytes = 0
        self._doubtful = False

    async def stored(self) -> list[LogChunk]:
        """The attempt's chunks that the broker has already."""
        found: list[LogChunk] = []

        async def read() -> None:
            found[:] = await self._after(0)

        await self._persist(read)
        return found

    async def send(self, chunks: list[LogChunk]) -> None:
        """Store the chunks, after any that an earlier call left; returns when that is done, or given up."""
        self._outgoing += chunks
        if self._outgoing and self.error is None:
            await self._persist(self._append)
        if self.error is not None:
            self._outgoing.clear()

    async def _append(self) -> None:
        if self._anchor is None:
            self._anchor = await self._logs.last_seq(self._job)
        if self._doubtful:
            await self._settle(self._anchor)
        if not self._outgoing:
            return
        batch = tuple(self._outgoing)
        self._doubtful = True
        await self._logs.append(self._job, batch)
        self._doubtful = False
        del self._outgoing[: len(batch)]
        self._confirmed += len(batch)
        self._confirmed_bytes += sum(len(chunk.data) for chunk in batch)
        if self._confirmed_bytes > ANCHOR_BYTES:
            self._anchored(await self._logs.last_seq(self._job))

    async def _settle(self, anchor: int) -> None:
        """Forget those of the outgoing chunks that the broker has stored without saying so."""
        stored = await self._after(anchor)
        del self._outgoing[: max(0, len(stored) - self._confirmed)]
        self._doubtful = False
        self._anchored(stored[-1].seq if stored else anchor)

    def _anchored(self, seq: int) -> None:
        self._anchor, self._confirmed, self._confirmed_bytes = seq, 0, 0

    async def _after(self, seq: int) -> list[LogChunk]:
        async with aclosing(self._logs.read(self._job, after_seq=seq)) as chunks:
            return [chunk async for chunk in chunks if chunk.attempt == self._attempt]

    async def _persist(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do it, again and again while the broker is away, and `REFUSALS` times if it refuses."""
        delay_s, refusals = FIRST_DELAY_S, 0
        while True:
            try:
                return await action()
            except BrokerUnavailable:
                pass
            except BrokerError as error:
                refusals += 1
                if refusals >= REFUSALS:
                    self.error = f"the broker does not store the output: {error}"
                    return None
            await self._sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)
