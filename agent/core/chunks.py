"""From the engine's frames to the broker's chunks: nothing lost, nothing torn that need not be, no secret shown.

Pure, but stateful: one `Chunker` for one attempt. It keeps an invariant that lets an agent take up a predecessor's
stream exactly (`agent.core.marks`): the frames of one source that share one time begin a chunk, unless they lie within
one. So "from the first frame at a chunk's time, so many bytes" names a place in the output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from agent.ports import LogFrame
from launch.ports import LogChunk

INTERLEAVED_CHUNKS = 32
"""Up to so many pending chunks keep the order in which the two sources wrote; beyond, each source's are joined."""


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

    def add_all(self, frame: LogFrame) -> None:
        """Add several pieces at once: as if one by one, but only the last line's beginning is looked for."""
        times, sizes, data = frame.times, frame.sizes, frame.data
        at, end = len(times) - 1, len(data) - sizes[-1]
        while at and (times[at] == times[at - 1] or data[end - 1 : end] != b"\n"):
            at -= 1
            end -= sizes[at]
        if at:
            self.parts.append(data[:end])
            self.size += end
            self.last_time, self.ended = times[at - 1], True
        self.add(times[at], data[end:])
        self.last_time = times[-1]

    def cut(self, at: int) -> _Open:
        """Take what is behind `at` off, in the middle of a line, into a chunk of its own."""
        data = b"".join(self.parts)
        other = _Open(self.source, self.run_time, last_time=self.last_time, ended=False, run_time=self.run_time)
        self.parts, self.size = [data[:at]], at
        if at < len(data):
            other.parts, other.size = [data[at:]], len(data) - at
        return other

    def split_run(self) -> _Open:
        """Take the run off into a chunk of its own."""
        other = _Open(self.source, self.run_time)
        other.parts, self.parts = self.parts[self.run :], self.parts[: self.run]
        other.size, self.size = self.size - self.run_at, self.run_at
        other.last_time, other.ended, other.run_time = self.last_time, self.ended, self.run_time
        self.ended = True
        return other


class Masking(Protocol):
    """Replaces secrets in a piece of output by the same number of bytes; never finds one over a line's end."""

    @property
    def longest(self) -> int:
        """The size of the longest secret; 0 if there is none."""
        ...

    def __call__(self, data: bytes, /) -> bytes:
        """The same number of bytes, without the secrets."""
        ...


class Chunker:
    """Joins frames into chunks of at most `limit` bytes, each of one source.

    Each source's bytes keep their order and lose or gain nothing. A line that fits a chunk is not divided. With a
    `mask` chunks are masked; a line that has to be divided is not divided within a secret, and no nearer to its end as
    it is known than a secret is long: so nothing that a chunk shows depends on what comes before it or behind.
    """

    def __init__(self, attempt: int, limit: int, mask: Masking | None = None) -> None:
        self.pending_bytes = 0
        self._attempt = attempt
        self._limit = limit
        self._mask = mask if mask is not None and mask.longest else None
        self._slack = min(mask.longest, limit // 2) if mask is not None else 0
        self._chunks: list[_Open] = []
        self._latest: dict[str, _Open] = {}

    def add_frame(self, frame: LogFrame) -> None:
        """Add the next part of a source's output."""
        while frame.times:
            chunk = self._open(frame.source, frame.time)
            count = frame.fitting(self._limit - chunk.size)
            if count == len(frame.times):
                chunk.add_all(frame)
                self.pending_bytes += len(frame.data)
                return
            head, frame = frame.split(max(count, 1))
            if head.times:
                chunk.add_all(head)
                self.pending_bytes += len(head.data)
            else:
                self.add(head.source, head.time, head.data)
        self.add(frame.source, frame.time, frame.data)

    def add(self, source: str, time: str, data: bytes) -> None:
        """Add the next piece of a source's output."""
        self.pending_bytes += len(data)
        chunk = self._open(source, time)
        if chunk.size + len(data) <= self._limit:
            chunk.add(time, data)
        else:
            self._overflow(chunk, time, data)

    def add_apart(self, source: str, time: str, data: bytes) -> None:
        """Add what is no output, as a chunk of its own; it fits one."""
        self.pending_bytes += len(data)
        self._begin(source, time).add(time, data)

    def trim(self) -> int:
        """No more output comes, though more was written: leave out what may begin a secret. How many bytes that is."""
        before = self.pending_bytes
        for chunk in self._latest.values():
            if not chunk.ended and self._slack:
                line = chunk.split_run() if chunk.run else chunk
                line.cut(self._cut_at(line))
                if line is not chunk:
                    chunk.parts += line.parts
                    chunk.size += line.size
        self.pending_bytes = sum(chunk.size for chunk in self._chunks)
        return before - self.pending_bytes

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
                rest = chunk.cut(self._cut_at(chunk))
                if rest.size:
                    kept.append(rest)
            else:
                kept.append(chunk)
        self._chunks = kept
        self._latest = {chunk.source: chunk for chunk in kept}
        self.pending_bytes = sum(chunk.size for chunk in kept)
        return [self._closed(chunk) for chunk in ready if chunk.size]

    def _closed(self, chunk: _Open) -> LogChunk:
        data = b"".join(chunk.parts)
        return LogChunk(chunk.source, self._attempt, chunk.time, self._mask(data) if self._mask else data)

    def _open(self, source: str, time: str) -> _Open:
        """The chunk that the source's next piece goes to, if it has room for it."""
        chunk = self._latest.get(source)
        if chunk is None or not (
            chunk is self._chunks[-1] or not chunk.ended or len(self._chunks) >= INTERLEAVED_CHUNKS
        ):
            chunk = self._begin(source, time)
        return chunk

    def _begin(self, source: str, time: str) -> _Open:
        return self._append(_Open(source, time, run_time=time))

    def _append(self, chunk: _Open) -> _Open:
        self._chunks.append(chunk)
        self._latest[chunk.source] = chunk
        return chunk

    def _overflow(self, chunk: _Open, time: str, data: bytes) -> None:
        """Add a piece that does not fit: a line begins the next chunk, and only one that fills a chunk goes on."""
        if chunk.size and chunk.ended and time != chunk.last_time:
            chunk = self._begin(chunk.source, time)
        elif chunk.run:
            chunk = self._append(chunk.split_run())
        while chunk.size + len(data) > self._limit:
            room = self._limit - chunk.size
            if room:
                chunk.add(time, data[:room])
                data = data[room:]
            chunk = self._append(chunk.cut(self._cut_at(chunk)))
            chunk.ended, chunk.last_time = False, time
        if data:
            chunk.add(time, data)

    def _cut_at(self, chunk: _Open) -> int:
        """Where to divide a line that goes on: not within a secret, nor where one might begin whose end is to come."""
        if self._mask is None:
            return chunk.size
        data = b"".join(chunk.parts)
        last = max(0, len(data) - self._slack)
        masked = self._mask(data)
        for at in range(last, max(0, last - 2 * self._slack), -1):
            if self._mask(data[:at]) == masked[:at] and self._mask(data[at:]) == masked[at:]:
                return at
        return last
