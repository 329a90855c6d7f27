"""Line charts out of text: a series of numbers in bounded memory, drawn in braille dots (two by four a character)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from launch.points import Point

KEPT: Final = 8192
"""A series keeps at most so many places; then the extremes of every four stand for them."""

_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK: Final = 0x2800


@dataclass(slots=True)
class Series:
    """What one value has been: exact about the last, the least and the most; thinned out between."""

    name: str
    by_step: bool = False
    """Whether it goes along the job's own count of steps, or along time (seconds since 1970)."""
    count: int = 0
    last: float = math.nan
    least: float = math.inf
    most: float = -math.inf
    places: list[tuple[float, float]] = field(default_factory=list)

    def add(self, point: Point, value: float) -> None:
        """The value at this point."""
        if not self.count:
            self.by_step = point.step is not None
        if not self.by_step:
            x = point.time.timestamp()
        elif point.step is not None:
            x = point.step
        else:
            x = self.places[-1][0]
        self.count += 1
        self.last, self.least, self.most = value, min(self.least, value), max(self.most, value)
        self.places.append((x, value))
        if len(self.places) > KEPT:
            self.places = _thinned(self.places)


def draw(places: Sequence[tuple[float, float]], *, width: int, height: int) -> list[str]:
    """The places (x, y) in their order as `height` lines of `width` characters, scaled to fill them.

    Where x goes back (a later attempt starts anew), what is drawn later takes the place of what was there.
    """
    columns, rows = 2 * width, 4 * height
    grid = [[_BLANK] * width for _ in range(height)]
    if not places:
        return ["".join(map(chr, line)) for line in grid]
    left, right = min(x for x, _ in places), max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)

    def column(x: float) -> int:
        return round(_share(x, left, right) * (columns - 1))

    def row(y: float) -> int:
        return round((1 - _share(y, low, high)) * (rows - 1))

    for at, (first, last) in enumerate(_spans([(column(x), row(y)) for x, y in places], columns)):
        for dot in range(first, last + 1):
            grid[dot // 4][at // 2] |= _DOTS[dot % 4][at % 2]
    return ["".join(map(chr, line)) for line in grid]


def _spans(dots: Sequence[tuple[int, int]], columns: int) -> list[tuple[int, int]]:
    """For each column, from which row to which it is filled; `(0, -1)` where it is not."""
    spans: list[tuple[int, int]] = [(0, -1)] * columns
    before: tuple[int, int] | None = None
    for at, row in dots:
        if before is None or at < before[0]:
            spans[at] = (row, row)
        elif at == before[0]:
            first, last = spans[at]
            spans[at] = (min(first, row), max(last, row))
        else:
            # A line from the last place to this one, over the columns between.
            begin, level = before
            for between in range(begin + 1, at + 1):
                reached = level + round((row - before[1]) * (between - begin) / (at - begin))
                previous = level + round((row - before[1]) * (between - 1 - begin) / (at - begin))
                step = 1 if reached > previous else -1 if reached < previous else 0
                spans[between] = (min(previous + step, reached), max(previous + step, reached))
        before = (at, row)
    return spans


def _share(value: float, low: float, high: float) -> float:
    """Where between the two, 0 to 1; the middle if they are one. Halved first: their distance may be no float."""
    if high == low:
        return 0.5
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(1.0, max(0.0, share))


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    kept: list[tuple[float, float]] = []
    for at in range(0, len(places), 4):
        four = list(enumerate(places[at : at + 4]))
        low, high = min(four, key=lambda one: one[1][1]), max(four, key=lambda one: one[1][1])
        kept += [place for _, place in sorted({low, high})]
    return kept
