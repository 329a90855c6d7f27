"""From the engine's frames to the broker's chunks: nothing doubled, nothing torn that need not be.

Pure, but stateful: one `Marks` and one `Chunker` for one attempt. `Marks` knows how far each source has been read, and
drops what a new connection repeats. `Chunker` joins what is left into chunks. Together they keep one invariant that
lets an agent take up a predecessor's stream exactly: the frames of one source that share one time begin a chunk, unless
they lie within one. So "from the first frame at a chunk's time, so many bytes" names a place in the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.core.frames import nanoseconds, timestamp
from agent.ports import LogFrame
from launch.ports import LogChunk

OVERLAP_NS = 1_000_000_000
"""How much earlier than the newest frame a new connection starts. The two sources are stamped before they are
written, so that one of them may still have to deliver a line that is older than the other's newest."""

INTERLEAVED_CHUNKS = 32
"""Up to so many pending chunks keep the order in which the two sources wrote; beyond, each source's are joined."""


@dataclass(slots=True)
class _Mark:
    """A place in one source: `size` bytes from the first frame at `time` on have been read.

    `spans`: those bytes may go on beyond that time (a stored chunk); else they all lie at it.
    `at` and `at_size` are the same measured on the way, while a new connection repeats what is before the place.
    """

    time: str
    size: int
    spans: bool = False
    repeating: bool = False
    left: int = 0
    at: str = ""
    at_size: int = 0


class Marks:
    """How far each source of a container's output has been read."""

    def __init__(self, since: str | None = None) -> None:
        """`since` bounds the first read, None for the beginning."""
        self._start = since
        self._marks: dict[str, _Mark] = {}

    def since(self) -> str | None:
        """Where the next connection has to start. From then on, `fresh` drops what it repeats."""
        for mark in self._marks.values():
            mark.repeating, mark.left, mark.at, mark.at_size = True, mark.size, "", 0
        if not self._marks:
            return self._start
        times = [nanoseconds(mark.time) for mark in self._marks.values()]
        start = max(times) - OVERLAP_NS
        if len(times) > 1:
            start = max(start, min(times))
        # A stored chunk's place can only be found from the chunk's beginning.
        start = min([start, *(nanoseconds(mark.time) for mark in self._marks.values() if mark.spans)])
        return timestamp(max(start, nanoseconds(self._start)) if self._start is not None else start)

    def fresh(self, frame: LogFrame) -> bytes:
        """What of the frame has not been read yet; counts it as read."""
        data = frame.data
        mark = self._marks.get(frame.source)
        if mark is None:
            self._marks[frame.source] = _Mark(frame.time, len(data))
        elif mark.repeating:
            return self._after_mark(mark, frame)
        elif mark.time == frame.time:
            mark.size += len(data)
        else:
            mark.time, mark.size, mark.spans = frame.time, len(data), False
        return data

    def restore(self, chunks: Iterable[LogChunk]) -> None:
        """Take over the places from what has been stored of the attempt, in order."""
        for chunk in chunks:
            mark = self._marks.get(chunk.source)
            if mark is not None and mark.time == chunk.time:
                mark.size += len(chunk.data)
            else:
                self._marks[chunk.source] = _Mark(chunk.time, len(chunk.data), spans=True)

    def _after_mark(self, mark: _Mark, frame: LogFrame) -> bytes:
        """The slow path: drop what lies before the mark; from the first byte after it on, go on as usual."""
        if frame.time != mark.time and _earlier(frame.time, mark.time):
            return b""
        data = frame.data
        beyond = frame.time != mark.time
        if beyond and (not mark.spans or not mark.at):
            # Every frame at the mark's time is behind, or the engine has thrown it away meanwhile.
            mark.left = 0
        mark.at_size = len(data) + (mark.at_size if mark.at == frame.time else 0)
        mark.at = frame.time
        dropped = min(mark.left, len(data))
        mark.left -= dropped
        if dropped < len(data):
            mark.time, mark.size, mark.spans, mark.repeating = mark.at, mark.at_size, False, False
        return data[dropped:]


def _earlier(one: str, other: str) -> bool:
    # The engine's times all have the same width, and then order as text does.
    if len(one) == len(other):
        return one < other
    return nanoseconds(one) < nanoseconds(other)


@dataclass(slots=True)
class _Open:
    """A chunk in the making. `run` and `run_at` say where (in parts and bytes) the line that is written now begins.

    A run is frames that share one time, or are pieces of one line.
    """

    source: str
    time: str
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    last_time: str = ""
    ended: bool = True
    run: int = 0
    run_at: int = 0
    run_time: str = ""

    def add(self, time: str, data: bytes) -> None:
        if self.ended and time != self.last_time:
            self.run, self.run_at, self.run_time = len(self.parts), self.size, time
        self.parts.append(data)
        self.size += len(data)
        self.last_time = time
        self.ended = data.endswith(b"\n")

    def split_run(self) -> _Open:
        """Take the run off into a chunk of its own."""
        other = _Open(self.source, self.run_time)
        other.parts, self.parts = self.parts[self.run :], self.parts[: self.run]
        other.size, self.size = self.size - self.run_at, self.run_at
        other.last_time, other.ended, other.run_time = self.last_time, self.ended, self.run_time
        self.ended = True
        return other


class Chunker:
    """Joins frames into chunks of at most `limit` bytes, each of one source.

    Each source's bytes keep their order and lose or gain nothing. A line that fits a chunk is not divided.
    """

    def __init__(self, attempt: int, limit: int) -> None:
        self.pending_bytes = 0
        self._attempt = attempt
        self._limit = limit
        self._chunks: list[_Open] = []
        self._latest: dict[str, _Open] = {}

    def add(self, source: str, time: str, data: bytes) -> None:
        """Add the next piece of a source's output."""
        self.pending_bytes += len(data)
        chunk = self._latest.get(source)
        if chunk is None or not (
            chunk is self._chunks[-1] or not chunk.ended or len(self._chunks) >= INTERLEAVED_CHUNKS
        ):
            chunk = self._begin(source, time)
        if chunk.size + len(data) <= self._limit:
            chunk.add(time, data)
        else:
            self._overflow(chunk, time, data)

    def take(self, *, final: bool) -> list[LogChunk]:
        """What is ready to be sent; a line whose end has not come yet stays behind, unless this is the `final` call."""
        ready: list[_Open] = []
        kept: list[_Open] = []
        for chunk in self._chunks:
            if final or chunk.ended or chunk is not self._latest[chunk.source]:
                ready.append(chunk)
            elif chunk.run:
                kept.append(chunk.split_run())
                ready.append(chunk)
            elif chunk.size >= self._limit:
                ready.append(chunk)
            else:
                kept.append(chunk)
        self._chunks = kept
        self._latest = {chunk.source: chunk for chunk in kept}
        self.pending_bytes = sum(chunk.size for chunk in kept)
        return [LogChunk(chunk.source, self._attempt, chunk.time, b"".join(chunk.parts)) for chunk in ready]

    def _begin(self, source: str, time: str) -> _Open:
        chunk = _Open(source, time, run_time=time)
        self._chunks.append(chunk)
        self._latest[source] = chunk
        return chunk

    def _overflow(self, chunk: _Open, time: str, data: bytes) -> None:
        """Add a piece that does not fit: a line begins the next chunk, and only one that fills a chunk goes on."""
        if chunk.size and chunk.ended and time != chunk.last_time:
            chunk = self._begin(chunk.source, time)
        elif chunk.run:
            chunk = chunk.split_run()
            self._chunks.append(chunk)
            self._latest[chunk.source] = chunk
        while chunk.size + len(data) > self._limit:
            room = self._limit - chunk.size
            if room:
                chunk.add(time, data[:room])
                data = data[room:]
            chunk = self._begin(chunk.source, chunk.run_time or time)
            chunk.ended, chunk.last_time = False, time
        if data:
            chunk.add(time, data)
