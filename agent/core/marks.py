"""How far each source of a container's output has been read: nothing is read twice, and nothing is skipped.

Pure, but stateful: one `Marks` for one attempt. It drops what a new connection repeats, and takes over from the chunks
that a predecessor has stored: of those, it relies on the invariant that `agent.core.chunks` keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.frames import nanoseconds, timestamp
from agent.ports import LogFrame, frame_of
from launch.ports import LogChunk

OVERLAP_NS = 1_000_000_000
"""How much earlier than the newest frame a new connection starts. The two sources are stamped before they are
written, so that one of them may still have to deliver a line that is older than the other's newest."""


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
        self._last = ""
        self._seeking = False

    def since(self) -> str | None:
        """Where the next connection has to start. From then on, `fresh` drops what it repeats."""
        self._seeking = False
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

    @property
    def placed(self) -> bool:
        """Whether what has been read ends at one place in the log, before which all has been read.

        A predecessor need not have stored both sources alike.
        """
        return self._last in self._marks and not any(mark.spans for mark in self._marks.values())

    def joins(self, frames: Iterable[LogFrame]) -> bool | None:
        """Whether these, the first frames of a later part of the log, lie before what has not been read.

        None: more of them are needed to tell. The engine hands on what it has in the order of its log file, so what
        lies before the last bytes read has been read, of either source. The part has those bytes, and all that share
        their time, if it has an earlier piece of their source.
        """
        if not self.placed:
            return False
        mark = self._marks[self._last]
        for frame in frames:
            if frame.source == self._last:
                return frame.time != mark.time and _earlier(frame.time, mark.time)
        return None

    def seek(self) -> None:
        """What comes next is such a part, from its beginning: `unread` drops all up to the last bytes read."""
        self.since()
        for source, mark in self._marks.items():
            mark.repeating = source == self._last
        self._seeking = True

    def unread(self, frame: LogFrame) -> LogFrame | None:
        """What of the frame has not been read yet, if anything; counts it as read."""
        if self._seeking:
            if frame.source != self._last:
                return None
            mark = self._marks[frame.source]
            new = self._unread(frame)
            self._seeking = mark.repeating and not (mark.left == 0 and mark.at == mark.time)
        else:
            new = self._unread(frame)
        if new is not None:
            self._last = new.source
        return new

    def _unread(self, frame: LogFrame) -> LogFrame | None:
        if not frame.times:
            data = self.fresh(frame)
            return LogFrame(frame.source, frame.time, data) if data else None
        mark = self._marks.get(frame.source)
        if mark is None or not mark.repeating:
            self._pass(mark, frame)
            return frame
        for index, piece in enumerate(frame.pieces()):
            if data := self._after_mark(mark, piece):
                if index + 1 < len(frame.times):
                    self._unread(frame.split(index + 1)[1])
                sizes = [len(data), *frame.sizes[index + 1 :]]
                return frame_of(frame.source, frame.times[index:], sizes, frame.data[-sum(sizes) :])
        return None

    def _pass(self, mark: _Mark | None, frame: LogFrame) -> None:
        """Count several pieces as read: only those at the last one's time matter."""
        time, size, at = frame.times[-1], 0, len(frame.times)
        while at and frame.times[at - 1] == time:
            at -= 1
            size += frame.sizes[at]
        if mark is None:
            self._marks[frame.source] = _Mark(time, size)
        elif at == 0 and mark.time == time:
            mark.size += size
        else:
            mark.time, mark.size, mark.spans = time, size, False

    def fresh(self, frame: LogFrame) -> bytes:
        """What of a frame of one piece has not been read yet; counts it as read."""
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
