"""Points in output and in a metrics file: which lines are one, and that no cut of the bytes changes them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.metric_lines import MAX_LINE_BYTES, MAX_VALUES, Budget, LineScanner
from launch.points import Point, PointSource

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def scanner(*, marked: bool = True, budget: Budget | None = None) -> LineScanner:
    source = PointSource.STDOUT if marked else PointSource.FILE
    return LineScanner(1, source, budget or Budget(), marked=marked)


def scan(pieces: Sequence[bytes], *, marked: bool = True, offset: int = 0) -> list[Point]:
    """All the points of these pieces."""
    found, points = scanner(marked=marked), []
    for piece in pieces:
        points += found.feed(piece, offset, lambda: NOW)
        offset += len(piece)
    return points + found.finish()


def only(line: bytes) -> Point | None:
    points = scan([line])
    assert len(points) <= 1
    return points[0] if points else None


def test_a_marked_line_is_a_point_where_it_begins() -> None:
    text = b'epoch 1\n@metrics {"loss": 0.5, "step": 3}\nmore\n@metrics {"acc": 1}\n'
    assert scan([text]) == [
        Point(NOW, PointSource.STDOUT, 1, 8, {"loss": 0.5}, 3.0),
        Point(NOW, PointSource.STDOUT, 1, text.rindex(b"@"), {"acc": 1.0}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        b'progress 10%\r@metrics {"a": 1}\rprogress 20%',
        b'\r\n@metrics {"a": 1}\r\n',
        b'@metrics {"a": 1}',
        b'@metrics   {"a": 1}  \n',
        b'x\n\n@metrics {"a": 1}\n\n',
    ],
)
def test_lines_end_as_terminals_and_windows_end_them_and_at_the_end(text: bytes) -> None:
    point = only(text)
    assert point is not None
    assert (point.position, point.values) == (text.index(b"@"), {"a": 1.0})


@pytest.mark.parametrize(
    "text",
    [
        b'say @metrics {"a": 1}\n',
        b'@metrics{"a": 1}\n',
        b'@metric {"a": 1}\n',
        b'@metrics {"a": 1\n',
        b'@metrics {"a": 1} and so on\n',
        b"@metrics [1]\n",
        b"@metrics 1\n",
        b"@metrics {}\n",
        b'@metrics {"step": 1}\n',
        b'@metrics {"a": "1"}\n',
        b"@metrics {\xff}\n",
        b'@metrics {"a": 1}' + b" " * MAX_LINE_BYTES + b"\n",
        b'@metrics {"a": ' + b"[" * 20_000 + b"}\n",
    ],
)
def test_anything_else_is_output(text: bytes) -> None:
    assert scan([text]) == []


def test_numbers_are_kept_and_nothing_else() -> None:
    line = (
        b'{"i": 3, "f": -1.5e3, "t": true, "n": null, "s": "x", "l": [1], "nan": NaN, "inf": -Infinity, "huge": 1e999,'
        b' "": 7, "train": {"loss": 2, "deep": {"no": 1}, "ok": false}, "big": ' + b"9" * 400 + b"}"
    )
    point = only(b"@metrics " + line)
    assert point is not None
    assert point.values == {"i": 3.0, "f": -1500.0, "train.loss": 2.0}


def test_a_point_has_a_bounded_number_of_values() -> None:
    point = only(b"@metrics " + json.dumps({f"n{n}": n for n in range(2000)}).encode())
    assert point is not None
    assert len(point.values) == MAX_VALUES


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1_772_366_400.5, datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-03-01T13:00:00+01:00", NOW),
        ("2026-03-01T12:00:00", NOW),
        ("soon", NOW),
        (1e300, NOW),
        (True, NOW),
    ],
)
def test_a_point_may_have_its_own_time(time: object, expected: datetime) -> None:
    point = only(b"@metrics " + json.dumps({"a": 1, "time": time, "step": "x"}).encode())
    assert point is not None
    assert (point.time, point.step, point.values) == (expected, None, {"a": 1.0})


TOKENS = [
    b'@metrics {"a": 1}', b'@metrics {"b": {"c": 2}, "step": 7}', b"@metrics ", b"@met", b"@", b"out", b"\n", b"\r",
    b"\r\n", b'{"d": 4}', b" ", "\u00e4".encode(), b'\n@metrics {"e": 5}\n', b'{"a": 1}\n', b'{"f":', b" 6}",
]  # fmt: skip
PIECES = st.lists(st.lists(st.sampled_from(TOKENS), max_size=4).map(b"".join), max_size=12)


@settings(max_examples=500)
@given(PIECES, st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_any_cut_gives_each_point_once(whole: list[bytes], cuts: list[int], marked: bool) -> None:
    text = b"".join(whole)
    places = sorted({0, len(text), *accumulate(map(len, whole)), *(cut for cut in cuts if cut < len(text))})
    points = scan([text[a:b] for a, b in pairwise(places)], marked=marked)
    expected, at = [], 0
    for line in text.replace(b"\r", b"\n").split(b"\n"):
        # By itself, and in one piece, each line is what the tests above say.
        expected += [(at, p.values, p.step) for p in scan([line], marked=marked)]
        at += len(line) + 1
    assert [(p.position, p.values, p.step) for p in points] == expected


def test_what_begins_elsewhere_than_expected_begins_with_a_line() -> None:
    found = scanner()
    assert found.feed(b"no end", 0, lambda: NOW) == []
    assert [p.position for p in found.feed(b'@metrics {"a": 1}\n', 100, lambda: NOW)] == [100]
    assert found.feed(b'@metrics {"a"', 200, lambda: NOW) == []
    assert found.feed(b": 1}\n", 300, lambda: NOW) == []


TEXTS = PIECES.map(b"".join)


@given(TEXTS, st.integers(0, 400), st.integers(0, 400))
def test_after_a_restart_the_same_points_have_the_same_positions(text: bytes, cut: int, again: int) -> None:
    whole = scan([text])
    breaks = [0] + [at + 1 for at, byte in enumerate(text) if byte in b"\r\n"]
    start = breaks[min(again, len(breaks) - 1)]
    rest = text[start:]
    repeated = scan([rest[:cut], rest[cut:]], offset=start)
    assert repeated == [point for point in whole if point.position >= start]


def test_too_many_points_are_thinned_out_and_the_last_one_stays() -> None:
    budget = Budget(rate=10, first=100, most=100)
    found = scanner(budget=budget)
    lines = [b'@metrics {"n": %d}\n' % n for n in range(1000)]
    points, at = [], 0
    for second in range(10):
        budget.grow(float(second))
        piece = b"".join(lines[second * 100 : (second + 1) * 100])
        points += found.feed(piece, at, lambda: NOW)
        at += len(piece)
    points += found.finish()
    assert len(points) == 100 + 9 * 10 + 1
    assert points[-1].values == {"n": 999.0}
    assert points[0].values == {"n": 0.0}
    assert budget.left_out == 1000 - len(points)
    assert scanner(budget=budget).finish() == []


def test_a_time_is_only_made_when_there_is_a_point() -> None:
    def never() -> datetime:
        raise AssertionError

    found = scanner()
    assert found.feed(b"much output\nand no mark\r" * 1000, 0, never) == []
