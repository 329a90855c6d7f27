"""The engine's log stream: bytes in, frames out, however the bytes were cut on their way.

Pure. A stream of a container without a terminal is a sequence of frames (one byte source, three of padding, four of
length, then the text); one with a terminal is bare text. In both, each piece of text begins with its time. A piece is
a line with its line end; a line of more than 16 KiB comes in several pieces that share one time and of which only the
last has the line end.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Final

from agent.ports import LogFrame

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""The engine cuts lines at 16 KiB; a length beyond this means that the stream is not what it should be."""

SHOWN_FAULT_BYTES: Final = 500

_HEADER = struct.Struct(">BxxxL")
_SOURCES = {0: "stdout", 1: "stdout", 2: "stderr"}
_ENGINE_FAULT = 3
_NANOS = 1_000_000_000


class FrameParser:
    """Takes a stream apart incrementally.

    `error` is None until the stream turns out to be broken, or the engine itself reports a fault in it; frames from
    before that have been handed out, and nothing that follows is.
    """

    def __init__(self, *, tty: bool = False) -> None:
        self.error: str | None = None
        self._tty = tty
        self._rest = b""

    def feed(self, data: bytes) -> list[LogFrame]:
        """The frames that are complete now."""
        if self.error is not None:
            return []
        buffer = self._rest + data if self._rest else data
        return self._split_lines(buffer) if self._tty else self._split_frames(buffer)

    def end(self) -> list[LogFrame]:
        """The stream has ended: what is left of it. With a terminal that is the last line, if it has no line end."""
        rest, self._rest = self._rest, b""
        if not rest or self.error is not None:
            return []
        if self._tty:
            return self._timed("stdout", rest)
        self.error = "the log stream was cut in the middle of a frame"
        return []

    def _split_frames(self, buffer: bytes) -> list[LogFrame]:
        frames: list[LogFrame] = []
        unpack, sources = _HEADER.unpack_from, _SOURCES
        position, size = 0, len(buffer)
        while size - position >= _HEADER.size:
            kind, length = unpack(buffer, position)
            start = position + _HEADER.size
            stop = start + length
            if length > MAX_FRAME_BYTES:
                self.error = f"not a log stream: it has a frame of {length} bytes"
                return frames
            source = sources.get(kind)
            if source is None and kind != _ENGINE_FAULT:
                self.error = f"not a log stream: it has a frame of kind {kind}"
                return frames
            if stop > size:
                break
            if source is None:
                said = buffer[start : min(stop, start + SHOWN_FAULT_BYTES)].decode(errors="replace").strip()
                self.error = said or "the engine could not read the log"
                return frames
            space = buffer.find(b" ", start, stop)
            if space < 0:
                self.error = f"a log line without a time: {buffer[start:stop][:80]!r}"
                return frames
            frames.append(LogFrame(source, buffer[start:space].decode("ascii", "replace"), buffer[space + 1 : stop]))
            position = stop
        self._rest = buffer[position:]
        return frames

    def _split_lines(self, buffer: bytes) -> list[LogFrame]:
        frames: list[LogFrame] = []
        lines = buffer.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            frames += self._timed("stdout", line + b"\n")
        if len(self._rest) > MAX_FRAME_BYTES:
            self.error = f"a line of more than {MAX_FRAME_BYTES} bytes"
        return frames

    def _timed(self, source: str, text: bytes) -> list[LogFrame]:
        time, space, data = text.partition(b" ")
        if not space:
            self.error = f"a log line without a time: {text[:80]!r}"
            return []
        return [LogFrame(source, time.decode("ascii", "replace"), data)]


def nanoseconds(time: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with any number of decimals. Raises `ValueError`."""
    whole, zone = time[:19], time[19:]
    fraction = ""
    if zone.startswith("."):
        digits = len(zone) - len(zone[1:].lstrip("0123456789"))
        fraction, zone = zone[1:digits], zone[digits:]
    seconds = int(datetime.fromisoformat(whole + zone).timestamp())
    return seconds * _NANOS + int(f"{fraction:0<9.9}")


def timestamp(nanos: int) -> str:
    """The inverse of `nanoseconds`: RFC 3339 in UTC with nine decimals, as the engine writes it."""
    seconds, rest = divmod(nanos, _NANOS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def since_parameter(time: str) -> str:
    """How the engine wants to be asked for everything from `time` on (inclusive): seconds, a dot, nine decimals."""
    seconds, rest = divmod(nanoseconds(time), _NANOS)
    return f"{seconds}.{rest:09d}"
