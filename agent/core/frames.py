"""The engine's log stream: bytes in, frames out, however the bytes were cut on their way.

Pure. A stream of a container without a terminal is a sequence of frames (one byte source, three of padding, four of
length, then the text); one with a terminal is bare text. In both, each piece of text begins with its time. A piece is
a line with its line end; a line of more than 16 KiB comes in several pieces that share one time and of which only the
last has the line end. (A character that lies across such a cut is no longer in the engine's own log file: it has
U+FFFD there.)
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Final

from agent.ports import LogFrame, frame_of

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""The engine cuts lines at 16 KiB; a length beyond this means that the stream is not what it should be."""

SHOWN_FAULT_BYTES: Final = 500
MAX_TIME_BYTES: Final = 64

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
        return self._split_terminal(buffer) if self._tty else self._split_frames(buffer)

    def end(self) -> list[LogFrame]:
        """The stream has ended: what is left of it. With a terminal that is the last line, if it has no line end."""
        rest, self._rest = self._rest, b""
        if not rest or self.error is not None:
            return []
        if self._tty:
            if (space := rest.find(b" ", 0, MAX_TIME_BYTES)) > 0:
                return [_terminal(rest, space)]
            self.error = f"a log line without a time: {rest[:80]!r}"
            return []
        self.error = "the log stream was cut in the middle of a frame"
        return []

    def _split_frames(self, buffer: bytes) -> list[LogFrame]:
        """The loop that every line of output goes through: what follows each other is handed on together."""
        frames: list[LogFrame] = []
        unpack, head, text = _HEADER.unpack_from, _HEADER.size, buffer.decode("latin-1")
        times: list[str] = []
        parts: list[bytes] = []
        position, size, last, current = 0, len(buffer), len(buffer) - _HEADER.size, -1
        while position <= last:
            kind, length = unpack(buffer, position)
            start = position + head
            stop = start + length
            if kind != current or length > MAX_FRAME_BYTES:
                if parts:
                    frames.append(_joined(_SOURCES[current], times, parts))
                    times, parts = [], []
                if not self._understood(
                    kind, length, buffer[start : start + min(length, SHOWN_FAULT_BYTES)], stop > size
                ):
                    return frames
                current = kind
            if stop > size:
                break
            space = text.find(" ", start, stop)
            if space < 0:
                self.error = f"a log line without a time: {buffer[start:stop][:80]!r}"
                break
            times.append(text[start:space])
            parts.append(buffer[space + 1 : stop])
            position = stop
        if parts:
            frames.append(_joined(_SOURCES[current], times, parts))
        self._rest = buffer[position:]
        return frames

    def _understood(self, kind: int, length: int, beginning: bytes, unfinished: bool) -> bool:
        """Whether a frame with this header is output; if it can't be, `error` says so."""
        if length > MAX_FRAME_BYTES:
            self.error = f"not a log stream: it has a frame of {length} bytes"
        elif kind == _ENGINE_FAULT:
            if not unfinished:
                said = beginning.decode(errors="replace").strip()
                self.error = said or "the engine could not read the log"
        elif kind not in _SOURCES:
            self.error = f"not a log stream: it has a frame of kind {kind}"
        return self.error is None

    def _split_terminal(self, buffer: bytes) -> list[LogFrame]:
        """Lines, and the pieces of long ones: each of those begins with the time that the whole line has.

        A progress bar is such a line, and may go on for as long as the job does.
        """
        frames: list[LogFrame] = []
        position = 0
        while True:
            space = buffer.find(b" ", position, position + MAX_TIME_BYTES)
            end = buffer.find(b"\n", position) + 1
            if space < 0 or 0 < end <= space:
                if end or len(buffer) - position >= MAX_TIME_BYTES:
                    line = buffer[position : end or len(buffer)][:MAX_TIME_BYTES]  # not what came along by chance
                    self.error = f"a log line without a time: {line!r}"
                break
            # The time is from when the engine read the line: the job can't know it, and won't write it by chance.
            again = buffer.find(buffer[position : space + 1], space + 1, end or len(buffer))
            stop = again if again > 0 else end
            if stop <= 0:
                if len(buffer) - position > MAX_FRAME_BYTES:
                    self.error = f"a line of more than {MAX_FRAME_BYTES} bytes in one piece"
                break
            frames.append(_terminal(buffer[position:stop], space - position))
            position = stop
        self._rest = buffer[position:]
        return frames


def _joined(source: str, times: list[str], parts: list[bytes]) -> LogFrame:
    return frame_of(source, times, [len(part) for part in parts], b"".join(parts))


def _terminal(text: bytes, space: int) -> LogFrame:
    return LogFrame("stdout", text[:space].decode("latin-1"), text[space + 1 :])


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
