"""Points as they lie in the stream `metrics`, and which of them have been read before.

One message holds points of one attempt and source, both in its headers, as a JSON array:

    [{"time": "2026-03-01T12:00:00.123456Z", "position": 4711, "step": 3, "values": {"loss": 0.1}}, ...]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final, NamedTuple

from launch.points import Point, PointSource
from launch.subjects import HEADER_POINT_ATTEMPT, HEADER_POINT_SOURCE

MESSAGE_POINTS: Final = 1024
MESSAGE_BYTES: Final = 256 * 1024
"""A message holds at most so much, unless one point alone is larger."""
MARKS: Final = 4096
"""So many attempts and sources are told apart in one job; the ones seen first are forgotten beyond."""


class PointMessage(NamedTuple):
    """One message of the stream."""

    headers: dict[str, str]
    body: bytes


def to_messages(points: Iterable[Point], *, max_bytes: int = MESSAGE_BYTES) -> Iterator[PointMessage]:
    """The points in order, as many together as go."""
    for (attempt, source), group in groupby(points, key=lambda point: (point.attempt, point.source)):
        headers = {HEADER_POINT_SOURCE: str(source), HEADER_POINT_ATTEMPT: str(attempt)}
        parts: list[str] = []
        size = 0
        for part in map(_encoded, group):
            if parts and (len(parts) >= MESSAGE_POINTS or size + len(part) > max_bytes):
                yield PointMessage(headers, f"[{','.join(parts)}]".encode())
                parts, size = [], 0
            parts.append(part)
            size += len(part) + 1
        yield PointMessage(headers, f"[{','.join(parts)}]".encode())


def from_message(source: str, attempt: str, body: bytes) -> list[Point] | None:
    """The points of a message by its two headers and its body; None if it is not one of ours."""
    if source not in tuple(PointSource) or not (attempt.isascii() and attempt.isdecimal() and len(attempt) < 10):
        return None
    try:
        return [_decoded(PointSource(source), int(attempt), item) for item in json.loads(body)]
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None


class Seen:
    """What has been read of one job, in bounded memory."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, PointSource], int] = {}

    def is_new(self, point: Point) -> bool:
        """Whether the point has not been read yet; counts it as read."""
        mark = (point.attempt, point.source)
        last = self._last.get(mark)
        if last is not None and point.position <= last:
            return False
        self._last[mark] = point.position
        if last is None and len(self._last) > MARKS:
            del self._last[next(iter(self._last))]
        return True


def _encoded(point: Point) -> str:
    item: dict[str, Any] = {"time": _show_time(point.time), "position": point.position}
    if point.step is not None:
        item["step"] = point.step
    item["values"] = dict(point.values)
    return json.dumps(item, separators=(",", ":"), allow_nan=False)  # ASCII, so that its length is its size


def _decoded(source: PointSource, attempt: int, item: Any) -> Point:
    time, position, step = datetime.fromisoformat(item["time"]), item["position"], item.get("step")
    values = {str(name): float(value) for name, value in item["values"].items()}
    step = None if step is None else float(step)
    if type(position) is not int or time.tzinfo is None:
        raise ValueError(item)
    if not all(map(math.isfinite, values.values())) or (step is not None and not math.isfinite(step)):
        raise ValueError(item)
    return Point(time.astimezone(UTC), source, attempt, position, values, step)


def _show_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
