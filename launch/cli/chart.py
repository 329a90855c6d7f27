"""How points are shown: charts on a terminal, a table where there is none, and CSV and JSON for programs.

A printer takes points one by one as they come, and is a context that opens and closes what it prints. None keeps
more than a bounded number of them.
"""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import replace
from fnmatch import fnmatchcase
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from launch.cli.output import as_json, note, plain_table, write
from launch.core.plot import Series, draw
from launch.core.shown import one_line
from launch.points import Point, PointSource
from launch.subjects import JobId

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

POINTS_LEFT_OUT: Final = "points_left_out"
MAX_NAMES: Final = 500
REDRAW_S: Final = 0.25
CHART_ROWS: Final = (3, 8)
"""A chart's height: at least, and at most."""
CHART_COLUMNS: Final = 100


class Wanted:
    """What of the points is asked for; keeps account of what else there is to say."""

    def __init__(self, names: tuple[str, ...], *, usage: bool, attempt: int | None) -> None:
        self._names = names
        self._usage = usage
        self._attempt = attempt
        self._found = 0
        self._reported = 0
        self._left_out = 0.0

    def part_of(self, point: Point) -> Point | None:
        """The point with the values that are asked for; None if there are none."""
        if self._attempt not in (None, point.attempt):
            return None
        if point.source is not PointSource.USAGE:
            self._reported += 1
        elif POINTS_LEFT_OUT in point.values:
            self._left_out += point.values[POINTS_LEFT_OUT]
            return None
        elif not self._usage:
            return None
        values = {name: value for name, value in point.values.items() if self._matches(name)}
        self._found += bool(values)
        return replace(point, values=values) if values else None

    def notes(self, job: JobId) -> None:
        """What people should know beside the points, on stderr."""
        if self._left_out:
            note(f"{self._left_out:.0f} points are left out: the job reported more than 100 a second")
        if self._found:
            return
        of = f"{job}, attempt {self._attempt}," if self._attempt is not None else str(job)
        if self._names and self._reported:
            note(f"{of} has reported no value named {' or '.join(self._names)}")
        else:
            note(f'{of} has reported nothing: print a line such as @metrics {{"loss": 0.1, "step": 3}}')
            note("from Python: launch.run.log(loss=0.1, step=3)")

    def _matches(self, name: str) -> bool:
        return not self._names or any(fnmatchcase(name, pattern) for pattern in self._names)


class Printer:
    """Shows points as they come."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        del kind, error, trace

    def show(self, point: Point) -> None:
        """One more point."""
        raise NotImplementedError


class JsonLines(Printer):
    """One object a line, at once."""

    def show(self, point: Point) -> None:
        """One more point."""
        write(_as_json(point))


class JsonArray(Printer):
    """One array, an element a line."""

    def __init__(self) -> None:
        self._count = 0

    def show(self, point: Point) -> None:
        """One more point."""
        sys.stdout.write(f"{',' if self._count else '['}\n  {_as_json(point)}")
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            write("\n]" if self._count else "[]")


class Csv(Printer):
    """One line a value: what any spreadsheet and data frame takes."""

    def __enter__(self) -> Self:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._writer.writerow(["time", "attempt", "source", "step", "name", "value"])
        return self

    def show(self, point: Point) -> None:
        """One more point."""
        step = "" if point.step is None else _plain(point.step)
        for name, value in point.values.items():
            self._writer.writerow(
                [point.time.isoformat(), point.attempt, str(point.source), step, one_line(name), _plain(value)]
            )
        sys.stdout.flush()


class PlainLines(Printer):
    """Following without a terminal: one line a point, at once."""

    def show(self, point: Point) -> None:
        """One more point."""
        step = "" if point.step is None else f"  step {_plain(point.step)}"
        values = "  ".join(f"{one_line(name)}={shown(name, value)}" for name, value in point.values.items())
        write(f"{point.time:%Y-%m-%dT%H:%M:%SZ}{step}  {values}")


class _Gathered(Printer):
    """Keeps a series for each name."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def show(self, point: Point) -> None:
        """One more point."""
        for name, value in point.values.items():
            if name not in self.series:
                if len(self.series) >= MAX_NAMES:
                    continue
                self.series[name] = Series(name)
            self.series[name].add(point, value)


class PlainTable(_Gathered):
    """Without a terminal: where every value stands."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None and self.series:
            rows = []
            for one in self.series.values():
                values = [shown(one.name, value) for value in (one.last, one.least, one.most)]
                step = _plain(one.places[-1][0]) if one.by_step else ""
                rows.append([one_line(one.name), *values, str(one.count), step])
            for line in plain_table(["name", "last", "min", "max", "points", "step"], rows):
                write(line)


class Charts(_Gathered):
    """On a terminal: a chart a value; drawn anew as points come if it is `live`."""

    def __init__(self, *, live: bool) -> None:
        super().__init__()
        self._is_live = live
        self._live: Live | None = None
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        if self._is_live:
            from rich.live import Live

            self._live = Live(auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def show(self, point: Point) -> None:
        """One more point."""
        super().show(point)
        if self._live is not None and time.monotonic() - self._drawn_s >= REDRAW_S:
            self._live.update(self._drawing(), refresh=True)
            self._drawn_s = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.vertical_overflow = "visible"
            self._live.update(self._drawing(), refresh=True)
            self._live.stop()
        elif kind is None and self.series:
            from rich.console import Console

            Console().print(self._drawing())

    def _drawing(self) -> RenderableType:
        from rich.console import Console
        from rich.text import Text

        screen = Console()
        drawing = Text()
        width = max(10, min(CHART_COLUMNS, screen.width - 1))
        least, most = CHART_ROWS
        height = min(most, max(least, (screen.height - 1) // max(1, len(self.series)) - 2))
        for one in self.series.values():
            facts = "  ".join(
                f"{word} {shown(one.name, value)}"
                for word, value in (("last", one.last), ("min", one.least), ("max", one.most))
            )
            along = f"steps {_plain(one.places[0][0])} to {_plain(one.places[-1][0])}" if one.by_step else _span(one)
            drawing.append(one_line(one.name), style="bold")
            drawing.append(f"  {facts}  {along}\n", style="dim")
            for line in draw(one.places, width=width, height=height):
                drawing.append(f"{line}\n", style="cyan")
        drawing.rstrip()
        return drawing


def live_or_plain(*, follow: bool) -> Printer:
    """Charts on a terminal, else lines or a table."""
    if sys.stdout.isatty():
        return Charts(live=follow)
    return PlainLines() if follow else PlainTable()


def shown(name: str, value: float) -> str:
    """A value for people; bytes with their unit."""
    if "_bytes" in name and abs(value) >= 1024:
        for unit in ("Ki", "Mi", "Gi", "Ti"):
            value /= 1024
            if abs(value) < 1024 or unit == "Ti":
                return f"{value:.4g}{unit}"
    return f"{value:.5g}"


def _span(series: Series) -> str:
    from launch.core.quantity import show_duration

    return f"over {show_duration(abs(series.places[-1][0] - series.places[0][0]))}"


def _plain(number: float) -> str:
    """As people and programs write it: 3, not 3.0."""
    return str(int(number)) if abs(number) < 2**53 and number == int(number) else repr(number)


def _as_json(point: Point) -> str:
    item: dict[str, Any] = {
        "time": point.time.isoformat().replace("+00:00", "Z"),
        "attempt": point.attempt,
        "source": str(point.source),
        "step": _number(point.step),
        "values": {name: _number(value) for name, value in point.values.items()},
    }
    return as_json(item)


def _number(number: float | None) -> float | None:
    return int(number) if number is not None and abs(number) < 2**53 and number == int(number) else number
