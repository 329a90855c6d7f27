"""A container's output on its way to the broker: every byte once, in bounded memory.

The engine's own log file is the buffer: following it never blocks the container, and it can be read again from any
time on. So this reads no faster than the broker takes, and nothing is lost by a broken connection to either. Following
alone may miss the end, which is why `finish` reads once more what is behind the last frame seen. Trouble with logs
never decides what becomes of a job: what can't be stored is told in `LogCounts.error`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from agent.core.chunks import Chunker, Masking
from agent.core.marks import Marks
from agent.log_sender import FIRST_DELAY_S, MAX_DELAY_S, REFUSALS, LogSender
from agent.ports import Engine, EngineError, EngineUnavailable, LogFrame
from launch.core.quantity import show_memory
from launch.ports import LogChunk, Logs
from launch.subjects import JobId

CHUNK_BYTES: Final = 64 * 1024
HIGH_WATER_BYTES: Final = 8 * CHUNK_BYTES
"""The reader stops here until the sender has taken what there is; at most as much again is under way."""
EXIT_S: Final = 1.0
"""How long after the end of a container's output its exit is waited for, before the engine is asked for it."""
LINGER_S: Final = 0.02
"""How long the first line of a batch waits for company."""
TAIL_BYTES: Final = 2048
LAST_PIECES: Final = (256, 4096, 65536)
"""So much of the log's end is read after the exit, if that reaches back to what has been read already; the engine
finds a log's end at once, but any other place only by reading up to it."""
BEHIND_S: Final = 0.25
"""After the exit following goes on to its end, unless nothing comes for so long."""
PLACE_FRAMES: Final = 64
"""At most so many of the first frames of that tell whether it does."""

_ALIVE = frozenset({"created", "running", "paused", "restarting"})
_GONE = frozenset({404, 409})
"""What the engine answers for the log of a container that is not there, or is being removed."""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What became of an attempt's output.

    `size_bytes` of it were stored (a predecessor's share included), `cut` says that it had more than it may have,
    `tail` is the end of what was read, and `error` why some of it could not be read or stored, if that is so.
    """

    size_bytes: int
    cut: bool
    tail: bytes
    error: str | None


class LogPump:
    """Follows one container. The only writer of its attempt's chunks.

        pump = LogPump(engine, broker.logs, job, attempt, container, max_bytes=...)
        following = group.create_task(pump.run())      # from when the container has been started
        await engine.wait(container)
        counts = await pump.finish()                   # ends `run`, too

    For a container that a predecessor followed, `await pump.resume()` first.
    """

    def __init__(
        self,
        engine: Engine,
        logs: Logs,
        job: JobId,
        attempt: int,
        container: str,
        *,
        max_bytes: int,
        since: str | None = None,
        mask: Masking | None = None,
        heard: Callable[[LogChunk, int], Awaitable[None]] | None = None,
        linger_s: float = LINGER_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`mask` is applied to all that is stored or told.

        `heard` is awaited for each chunk of output before it is stored, with the offset of its first byte in its
        source's output of the attempt. After a crash it may hear the same bytes again, cut in another way. It must
        not raise.
        """
        self._engine = engine
        self._container = container
        self._max_bytes = max_bytes
        self._linger_s = linger_s
        self._sleep = sleep
        self._sender = LogSender(logs, job, attempt, sleep)
        self._marks = Marks(since)
        self._chunker = Chunker(attempt, min(CHUNK_BYTES, logs.max_chunk_bytes), mask)
        self._heard = heard
        self._taken: list[LogChunk] = []
        self._unheard: list[tuple[LogChunk, int]] = []
        self._offsets: dict[str, int] = {}
        self._cut_line = f"[log cut at {show_memory(max_bytes)}: max_log_bytes]\n".encode()
        self._size_bytes = 0
        self._cut = False
        self._tail = b""
        self._error: str | None = None
        self._pending = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._finishing = asyncio.Event()
        self._not_running = asyncio.Event()
        self._not_running.set()

    async def resume(self) -> None:
        """Go on where a predecessor left off, as the broker has it. Waits until the broker answers."""
        stored = await self._sender.stored()
        output = [chunk for chunk in stored if chunk.data != self._cut_line]
        self._cut = len(output) < len(stored)
        self._marks.restore(output)
        for chunk in output:
            self._count(chunk)
        self._size_bytes = sum(self._offsets.values())
        self._tail = b"".join(chunk.data for chunk in output[-2:])[-TAIL_BYTES:]

    async def run(self) -> None:
        """Follow until the container stops, its output is cut, or `finish` is called; it may also be cancelled."""
        if self._finishing.is_set():
            return
        self._not_running.clear()
        try:
            async with self._sending() as group:
                self._follower = group.create_task(self._follow(), name=f"follow {self._container[:12]}")
                await asyncio.wait([self._follower])
        finally:
            self._follower = None
            self._not_running.set()

    async def finish(self) -> LogCounts:
        """Call once the container has exited: stop following, read and store the rest. Idempotent.

        Waits for as long as the engine or the broker is away; cancel it to give up.
        """
        self._finishing.set()
        # What following is still behind with comes faster this way than by looking for the place again.
        while (follower := self._follower) is not None and not follower.done():
            before = self._size_bytes
            await asyncio.wait([follower], timeout=BEHIND_S)
            if self._size_bytes == before:
                follower.cancel()
                break
        await self._not_running.wait()
        async with self._sending():
            await self._read_rest()
        await self._send(final=True)
        return LogCounts(self._size_bytes, self._cut, self._tail, self._error or self._sender.error)

    async def _follow(self) -> None:
        """Read while the container lives, over as many connections as that takes."""
        delay_s = FIRST_DELAY_S
        while not self._done():
            before = self._size_bytes
            try:
                await self._read(follow=True)
                # Mostly it has exited, and `finish` says so tens of milliseconds later: then there is nothing to ask.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EXIT_S):
                        await self._finishing.wait()
                        return
                found = await self._engine.inspect(self._container)
                if found is None or found.state not in _ALIVE:
                    return
            except EngineUnavailable:
                pass
            except EngineError as error:
                if error.status in _GONE:
                    return
            delay_s = FIRST_DELAY_S if self._size_bytes > before else min(delay_s * 2, MAX_DELAY_S)
            if not self._done():
                await self._sleep(delay_s)

    async def _read_rest(self) -> None:
        """Read what there is after the last frame seen, to the end."""
        delay_s, refusals = FIRST_DELAY_S, 0
        while not self._done():
            try:
                if not await self._read_end():
                    await self._read(follow=False)
                return
            except EngineUnavailable:
                pass
            except EngineError as error:
                refusals += 1
                if error.status in _GONE or refusals >= REFUSALS:
                    self._error = f"the rest of the output could not be read: {error.reply}"
                    return
            await self._sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _read(self, *, follow: bool) -> None:
        """Read one connection's frames, no faster than they are sent."""
        since = self._marks.since()
        async with aclosing(self._engine.logs(self._container, since=since, follow=follow)) as frames:
            await self._take_in(frames)

    async def _read_end(self) -> bool:
        """Read the log's end, from what has been read on; False, and nothing read, if that can't be found from there.

        After hours of output, looking for that place from the log's beginning would take many seconds.
        """
        for pieces in LAST_PIECES if self._marks.placed else ():
            end = self._engine.logs(self._container, since=None, follow=False, tail=pieces)
            async with aclosing(end) as frames:
                first: list[LogFrame] = []
                joins = None
                while joins is None and len(first) < PLACE_FRAMES and (frame := await anext(frames, None)):
                    first.append(frame)
                    joins = self._marks.joins(first)
                if joins:
                    self._marks.seek()
                    await self._take_in(_chained(first, frames))
                    return True
        return False

    async def _take_in(self, frames: AsyncIterator[LogFrame]) -> None:
        """Take over what is new of the frames, and stop at the limit."""
        unread, add, chunker, pending = self._marks.unread, self._chunker.add_frame, self._chunker, self._pending
        async for frame in frames:
            new = unread(frame)
            if new is None:
                continue
            if self._size_bytes + len(new.data) > self._max_bytes:
                self._cut_off(new)
                return
            self._size_bytes += len(new.data)
            add(new)
            pending.set()
            if chunker.pending_bytes >= HIGH_WATER_BYTES:
                self._full.set()
                self._room.clear()
                await self._room.wait()
                if self._sender.error is not None:
                    return

    def _cut_off(self, frame: LogFrame) -> None:
        """Take as many of the frame's pieces as there is room for, and say that this is not all."""
        count = frame.fitting(self._max_bytes - self._size_bytes)
        if count:
            head, _ = frame.split(count)
            self._size_bytes += len(head.data)
            self._chunker.add_frame(head)
        self._size_bytes -= self._chunker.trim()
        self._cut = True
        self._chunker.add_apart("stderr", frame.time, self._cut_line)
        self._pending.set()

    def _done(self) -> bool:
        """Whether nothing that could still be read would be stored."""
        return self._cut or self._sender.error is not None

    @asynccontextmanager
    async def _sending(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Send, beside the body, what the body reads; leaves with everything sent but an unfinished line."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_until(ended), name=f"send logs of {self._container[:12]}")
            yield group
            ended.set()
            self._pending.set()
            self._full.set()

    async def _send_until(self, ended: asyncio.Event) -> None:
        while True:
            await self._pending.wait()
            if not ended.is_set() and not self._full.is_set() and self._linger_s > 0:
                try:
                    async with asyncio.timeout(self._linger_s):
                        await self._full.wait()
                except TimeoutError:
                    pass
            last = ended.is_set()
            await self._send(final=False)
            if last:
                return

    async def _send(self, *, final: bool) -> None:
        self._pending.clear()
        self._full.clear()
        chunks = self._chunker.take(final=final)
        self._room.set()
        output = [chunk for chunk in chunks if chunk.data != self._cut_line]
        if output:
            ends = b"".join(chunk.data[-TAIL_BYTES:] for chunk in output[-2:])
            self._tail = (self._tail + ends)[-TAIL_BYTES:]
        # This may be cancelled while it waits; the next call goes on with what is left here, or with the sender.
        self._taken += chunks
        self._unheard += [(chunk, self._count(chunk)) for chunk in output]
        while self._unheard:
            if self._heard is not None:
                await self._heard(*self._unheard[0])
            del self._unheard[0]
        taken, self._taken = self._taken, []
        await self._sender.send(taken)

    def _count(self, chunk: LogChunk) -> int:
        """Where in its source's output the chunk begins."""
        offset = self._offsets.get(chunk.source, 0)
        self._offsets[chunk.source] = offset + len(chunk.data)
        return offset


async def _chained(first: list[LogFrame], rest: AsyncIterator[LogFrame]) -> AsyncIterator[LogFrame]:
    for frame in first:
        yield frame
    async for frame in rest:
        yield frame
