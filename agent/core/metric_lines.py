r"""Points in what a job prints, or appends to `$LAUNCH_METRICS`: found in bytes, however they are cut.

Pure, but stateful: a `LineScanner` for each source, a `Budget` for all sources of one attempt. In output a point is a
line `@metrics {JSON object}`, which begins where the source does, or after `\n` or `\r`; in the file every line is a
JSON object (the mark before it may be there). What is none is only output, and nobody's error.

Of the object, numbers become values by their names. `true`, `null`, texts, lists, and numbers that are not finite
are left out; an object within gives its numbers as `name.inner`, one level deep. `step` (a number) and `time` (Unix
seconds, or ISO 8601 text with an offset) are the point's own, not values; without a usable `time` it has the output's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from launch.points import Point, PointSource
from launch.subjects import METRIC_MARK

MAX_LINE_BYTES: Final = 32 * 1024
"""A longer line is no point."""
MAX_VALUES: Final = 512
MAX_NAME: Final = 200
"""Of one point: so many values, with names of so many characters; more are left out."""

POINTS_A_S: Final = 100
BURST_POINTS: Final = 10_000
"""What an attempt may report: this many points a second, after this many at once. The rest is thinned out."""

_MARK: Final = METRIC_MARK.encode()
# Whole lines: from the beginning, or after a break, up to one.
_MARKED: Final = re.compile(rb"(?<![^\r\n])" + re.escape(_MARK) + rb"[^\r\n]*(?=[\r\n])")
_ANY: Final = re.compile(rb"(?<![^\r\n])[^\r\n]+(?=[\r\n])")


class Budget:
    """How many points an attempt may still report: `first`, and `rate` a second more, but never over `most`."""

    def __init__(self, *, rate: float = POINTS_A_S, first: float = BURST_POINTS, most: float = BURST_POINTS) -> None:
        self.left_out = 0
        self._rate = rate
        self._room = first
        self._most = most
        self._at_s: float | None = None

    def grow(self, now_s: float) -> None:
        """It is now so late."""
        if self._at_s is not None:
            self._room = min(self._most, self._room + (now_s - self._at_s) * self._rate)
        self._at_s = now_s

    def take(self) -> bool:
        """Whether one more point may be reported."""
        if self._room < 1:
            self.left_out += 1
            return False
        self._room -= 1
        return True


@dataclass(slots=True)
class _Line:
    """A line that was found: where it begins, what is behind the mark, and when it was printed."""

    position: int
    body: bytes
    time: datetime


class LineScanner:
    """Finds the points in one source's bytes. Its pieces come in order; each says where in the source it begins.

    A piece that does not begin where the last one ended begins with a line: so it is after a restart.
    """

    def __init__(self, attempt: int, source: PointSource, budget: Budget, *, marked: bool = True) -> None:
        self._attempt = attempt
        self._source = source
        self._budget = budget
        self._marked = marked
        self._kept = b""
        self._kept_time: datetime | None = None
        self._at = 0
        self._in_line = False
        self._passed_over: _Line | None = None

    def feed(self, data: bytes, offset: int, time: Callable[[], datetime]) -> list[Point]:
        """The points whose lines end in this piece. `time` is when it was printed; asked for only if needed."""
        if not data:
            return []
        if offset != self._at:
            self._kept, self._in_line = b"", False
        self._at = offset + len(data)
        began = None
        if self._kept:
            data, offset, began = self._kept + data, offset - len(self._kept), self._kept_time
            self._kept = b""
        # Nearly all output has no mark in it: then this is all that is done.
        points = [] if self._marked and _MARK not in data else self._found(data, offset, time, began)
        start = _last_break(data) + 1
        if start or not self._in_line:
            rest = data[start:]
            may_be = len(rest) <= MAX_LINE_BYTES and (not self._marked or _MARK.startswith(rest[: len(_MARK)]))
            if rest and may_be:
                self._kept, self._kept_time = rest, (began if start == 0 else None) or time()
            self._in_line = bool(rest) and not may_be
        return points

    def finish(self) -> list[Point]:
        """Call at the end: a last line without its end counts, too, and so does the last point, however many."""
        kept, self._kept = self._kept, b""
        last = self._line(kept, self._at - len(kept), self._kept_time) if kept and self._kept_time else None
        if last is None and self._passed_over is not None:
            last = self._passed_over
            self._budget.left_out -= 1
        self._passed_over = None
        point = self._point(last) if last else None
        return [] if point is None else [point]

    def _found(self, data: bytes, offset: int, time: Callable[[], datetime], began: datetime | None) -> list[Point]:
        points: list[Point] = []
        start = _first_break(data) if self._in_line else 0
        if start < 0:
            return points
        now = time()
        pattern = _MARKED if self._marked else _ANY
        for match in pattern.finditer(data, start):
            at = match.start()
            line = self._line(match[0], offset + at, began if at == 0 and began else now)
            if line is None:
                continue
            if self._budget.take():
                self._passed_over = None
                if (point := self._point(line)) is not None:
                    points.append(point)
            else:
                self._passed_over = line
                if self._marked:
                    self._pass_over_rest(data, match.end(), offset, now)
                    break
        return points

    def _pass_over_rest(self, data: bytes, at: int, offset: int, now: datetime) -> None:
        """Count the marked lines from the break at `at` on, all of them, and keep the last."""
        end = _last_break(data)  # what is behind is not whole yet
        breaks = (b"\n" + _MARK, b"\r" + _MARK)
        self._budget.left_out += sum(data.count(each, at, end) for each in breaks)
        last = max(data.rfind(each, at, end) for each in breaks) + 1
        if last > 0:
            line = self._line(data[last : last + _first_break(data[last:])], offset + last, now)
            self._passed_over = line or self._passed_over

    def _line(self, text: bytes, position: int, time: datetime) -> _Line | None:
        if len(text) > MAX_LINE_BYTES:
            return None
        if text.startswith(_MARK):
            body = text[len(_MARK) :].strip()
        elif not self._marked:
            body = text.strip()
        else:
            return None
        return _Line(position, body, time) if body.startswith(b"{") and body.endswith(b"}") else None

    def _point(self, line: _Line) -> Point | None:
        try:
            item: Any = json.loads(line.body)
        except (ValueError, RecursionError):
            return None
        values = _values(item)
        if not values:
            return None
        time = _time(item.get("time")) or line.time
        return Point(time, self._source, self._attempt, line.position, values, _number(item.get("step")))


def _first_break(data: bytes) -> int:
    found = [at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0]
    return min(found, default=-1)


def _last_break(data: bytes) -> int:
    newline = data.rfind(b"\n")
    return max(newline, data.rfind(b"\r", newline + 1))


def _values(item: dict[str, Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, value in item.items():
        if name in ("step", "time"):
            continue
        if isinstance(value, dict):
            inner = [(f"{name}.{key}", number) for key, number in value.items()]
        else:
            inner = [(name, value)]
        for key, raw in inner:
            number = _number(raw)
            if number is not None and 0 < len(key) <= MAX_NAME and len(values) < MAX_VALUES:
                values[key] = number
    return values


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _time(value: Any) -> datetime | None:
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else None
        number = _number(value)
        return None if number is None else datetime.fromtimestamp(number, UTC)
    except (ValueError, OverflowError, OSError):
        return None
