"""What `launch metrics` prints for each kind of reader."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from launch.cli import chart
from launch.points import Point, PointSource
from launch.subjects import JobId

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
JOB = JobId("q", 7)


def point(n: int, values: dict[str, float], *, source: str = "stdout", attempt: int = 1, step: bool = True) -> Point:
    return Point(NOW + timedelta(seconds=n), PointSource(source), attempt, n, values, float(n) if step else None)


POINTS = [
    point(0, {"loss": 2.5, "acc": 0}),
    point(1, {"loss": 0.5}),
    point(2, {"cpu": 1.5, "memory_bytes": 3 * 2**30}, source="usage", step=False),
    point(0, {"loss": 9}, attempt=2),
]


def show(printer: chart.Printer, points: list[Point] = POINTS, **wanted: Any) -> chart.Wanted:
    asked = chart.Wanted(wanted.pop("names", ()), **{"usage": True, "attempt": None, **wanted})
    with printer:
        for one in points:
            if (kept := asked.part_of(one)) is not None:
                printer.show(kept)
    return asked


def test_json_is_one_array_and_lines_when_following(capsys: pytest.CaptureFixture[str]) -> None:
    show(chart.JsonArray())
    found = json.loads(capsys.readouterr().out)
    assert found[0] == {
        "time": "2026-03-01T12:00:00Z", "attempt": 1, "source": "stdout", "step": 0, "values": {"loss": 2.5, "acc": 0},
    }  # fmt: skip
    assert [one["source"] for one in found] == ["stdout", "stdout", "usage", "stdout"]
    show(chart.JsonLines())
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == found
    show(chart.JsonArray(), [])
    assert json.loads(capsys.readouterr().out) == []


def test_csv_is_a_line_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    show(chart.Csv(), [*POINTS[:1], point(3, {'odd, "name"\x1b[2J': 1e300}, step=False)])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        ["time", "attempt", "source", "step", "name", "value"],
        ["2026-03-01T12:00:00+00:00", "1", "stdout", "0", "loss", "2.5"],
        ["2026-03-01T12:00:00+00:00", "1", "stdout", "0", "acc", "0"],
        ["2026-03-01T12:00:03+00:00", "1", "stdout", "", 'odd, "name"\\x1b[2J', "1e+300"],
    ]


def test_without_a_terminal_it_is_a_table_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(chart.PlainTable())
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["NAME", "LAST", "MIN", "MAX", "POINTS", "STEP"],
        ["loss", "9", "0.5", "9", "3", "0"],
        ["acc", "0", "0", "0", "1", "0"],
        ["cpu", "1.5", "1.5", "1.5", "1", "-"],
        ["memory_bytes", "3Gi", "3Gi", "3Gi", "1", "-"],
    ]
    show(chart.PlainLines(), POINTS[:1])
    assert capsys.readouterr().out == "2026-03-01T12:00:00Z  step 0  loss=2.5  acc=0\n"


@pytest.mark.parametrize("width", [20, 80, 300])
def test_charts_fit_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: Any, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show(chart.Charts(live=False), [point(n, {"loss": 1 / (n + 1)}) for n in range(100)])
    lines = capsys.readouterr().out.splitlines()
    charts = [line for line in lines if any(0x2800 <= ord(c) < 0x2900 for c in line)]
    assert 3 <= len(charts) <= 8
    assert all(len(line) <= min(width, chart.CHART_COLUMNS) for line in charts)
    assert "loss" in lines[0]


def test_only_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def values(**wanted: Any) -> list[dict[str, float]]:
        show(chart.JsonLines(), **wanted)
        return [json.loads(line)["values"] for line in capsys.readouterr().out.splitlines()]

    assert values(names=("lo*", "cpu")) == [{"loss": 2.5}, {"loss": 0.5}, {"cpu": 1.5}, {"loss": 9}]
    assert values(usage=False, attempt=1) == [{"loss": 2.5, "acc": 0}, {"loss": 0.5}]
    assert values(attempt=2) == [{"loss": 9}]


def test_with_nothing_to_show_it_says_how_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    show(chart.PlainTable(), []).notes(JOB)
    said = capsys.readouterr()
    assert said.out == ""
    assert 'q/7 has reported nothing: print a line such as @metrics {"loss": 0.1, "step": 3}' in said.err
    assert "launch.run.log(loss=0.1, step=3)" in said.err
    show(chart.PlainTable(), names=("x*", "y")).notes(JOB)
    assert "q/7 has reported no value named x* or y" in capsys.readouterr().err
    show(chart.PlainTable(), attempt=5).notes(JOB)
    assert "q/7, attempt 5, has reported nothing" in capsys.readouterr().err


def test_what_was_left_out_is_said_and_is_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = point(9, {chart.POINTS_LEFT_OUT: 1234}, source="usage", step=False)
    show(chart.PlainTable(), [POINTS[0], left_out]).notes(JOB)
    said = capsys.readouterr()
    assert "1234 points are left out" in said.err
    assert "left_out" not in said.out


def test_names_are_bounded_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    table = chart.PlainTable()
    show(table, [point(n, {f"n{n}\x1b]0;title\x07": 1}) for n in range(chart.MAX_NAMES + 100)])
    assert len(table.series) == chart.MAX_NAMES
    assert "\x1b" not in capsys.readouterr().out
