"""From stored chunks of output back to lines, for each attempt and source.

Invariant: joining the texts of one source's lines, with a line end after each that is not `partial`, gives back what
the job wrote, but for bytes that are no UTF-8 (replaced) and carriage returns before a line end (kept in the text).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from launch.ports import LogChunk

MAX_LINE_BYTES = 1024 * 1024
"""A longer line is handed out in partial pieces, so that memory stays bounded whatever a job prints."""


CHUNK_SPAN = timedelta(seconds=1)
"""Chunks have the time of their first line: one that begins so much too early may hold lines that are wanted."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's output, without its line end.

    `source` is stdout or stderr; `time` (RFC 3339) is when the piece of output that it began in was written.
    `partial`: no line end follows, since the output ended there, or the line is longer than `MAX_LINE_BYTES`.
    """

    text: str
    source: str
    attempt: int
    time: str
    partial: bool = False


class LineJoiner:
    """Cuts chunks into lines; holds back what has no line end yet. `flush` when no more can come."""

    def __init__(self) -> None:
        self._rest: dict[tuple[int, str], tuple[bytearray, str]] = {}

    def feed(self, chunk: LogChunk) -> Iterator[LogLine]:
        """The lines that are complete with this chunk, after what earlier attempts left unfinished."""
        yield from self._flush(before=chunk.attempt)
        key = (chunk.attempt, chunk.source)
        held, time = self._rest.pop(key, (bytearray(), chunk.time))
        *whole, rest = (bytes(held) + chunk.data).split(b"\n")
        for index, line in enumerate(whole):
            yield self._line(line, key, time if index == 0 else chunk.time)
        time = chunk.time if whole else time
        while len(rest) > MAX_LINE_BYTES:
            cut = _character_start(rest, MAX_LINE_BYTES)
            yield self._line(rest[:cut], key, time, partial=True)
            rest = rest[cut:]
        if rest:
            self._rest[key] = (bytearray(rest), time)

    @property
    def pending(self) -> int:
        """How many lines `flush` would give."""
        return len(self._rest)

    def flush(self) -> Iterator[LogLine]:
        """What is left without a line end."""
        yield from self._flush(before=None)

    def _flush(self, before: int | None) -> Iterator[LogLine]:
        for key in [key for key in self._rest if before is None or key[0] < before]:
            rest, time = self._rest.pop(key)
            yield self._line(bytes(rest), key, time, partial=True)

    @staticmethod
    def _line(data: bytes, key: tuple[int, str], time: str, *, partial: bool = False) -> LogLine:
        return LogLine(data.decode(errors="replace"), source=key[1], attempt=key[0], time=time, partial=partial)


class Wanted:
    """Which chunks are asked for."""

    def __init__(self, attempt: int | None, since: datetime | None) -> None:
        self._attempt = attempt
        self._from = since - CHUNK_SPAN if since is not None else None

    def __contains__(self, chunk: LogChunk) -> bool:
        return (self._attempt is None or chunk.attempt == self._attempt) and not self._early(chunk)

    def starts_within(self, chunks: Sequence[LogChunk]) -> bool:
        """Whether nothing before these can be wanted."""
        return bool(chunks) and (
            self._early(chunks[0]) or (self._attempt is not None and chunks[0].attempt < self._attempt)
        )

    def _early(self, chunk: LogChunk) -> bool:
        return self._from is not None and datetime.fromisoformat(chunk.time) < self._from


def _character_start(data: bytes, index: int) -> int:
    """The last index of at most `index` where a UTF-8 character starts."""
    for back in range(4):
        if data[index - back] & 0xC0 != 0x80:
            return index - back
    return index
