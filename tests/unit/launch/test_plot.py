"""Charts: shapes that people recognise, numbers that are exact, memory that is bounded."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from launch.core.plot import KEPT, Series, draw
from launch.points import Point, PointSource

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Column and row (from above) of every dot."""
    order = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
    return {
        (2 * x + dx, 4 * y + dy)
        for y, line in enumerate(lines)
        for x, character in enumerate(line)
        for bit, (dx, dy) in enumerate(order)
        if ord(character) - 0x2800 & 1 << bit
    }


def test_a_straight_line_is_one() -> None:
    found = dots(draw([(0, 0), (7, 7)], width=4, height=2))
    assert found == {(n, 7 - n) for n in range(8)}


def test_one_value_is_a_dot_and_equal_ones_a_level_line() -> None:
    assert len(dots(draw([(5, 5)], width=10, height=3))) == 1
    found = dots(draw([(n, 5) for n in range(20)], width=10, height=3))
    assert {x for x, _ in found} == set(range(20))
    assert len({y for _, y in found}) == 1


def test_a_spike_between_many_values_is_seen() -> None:
    places = [(float(n), 1000.0 if n == 777 else 0.0) for n in range(5000)]
    found = dots(draw(places, width=20, height=4))
    assert any(y == 0 for _, y in found)
    assert max(y for _, y in found) == 15


def test_a_later_attempt_takes_the_place_of_an_earlier_one() -> None:
    first = [(float(n), 10.0) for n in range(10)]
    second = [(float(n), 0.0) for n in range(5)]
    found = dots(draw(first + second, width=5, height=1))
    assert {x for x, y in found if y == 0} == {5, 6, 7, 8, 9}
    assert {x for x, y in found if y == 3} == {0, 1, 2, 3, 4}


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FINITE, FINITE), max_size=60), st.integers(1, 30), st.integers(1, 6))
def test_any_numbers_fit(places: list[tuple[float, float]], width: int, height: int) -> None:
    lines = draw(places, width=width, height=height)
    assert [len(line) for line in lines] == [width] * height
    assert bool(dots(lines)) == bool(places)


def point(number: int, step: float | None) -> Point:
    return Point(NOW + timedelta(seconds=number), PointSource.STDOUT, 1, number, {}, step)


def test_a_series_is_bounded_and_exact_where_it_matters() -> None:
    series = Series("loss")
    for n in range(100_000):
        series.add(point(n, float(n)), -5.0 if n == 4321 else 99.0 if n == 50_000 else 1.0)
    assert (series.count, series.last, series.least, series.most) == (100_000, 1.0, -5.0, 99.0)
    assert len(series.places) <= KEPT
    assert (4321.0, -5.0) in series.places
    assert (50_000.0, 99.0) in series.places
    xs = [x for x, _ in series.places]
    assert xs == sorted(xs)


def test_a_series_goes_along_steps_where_there_are_any() -> None:
    series = Series("loss")
    for number, step in ((1, 10.0), (2, None), (3, 30.0)):
        series.add(point(number, step), 0.0)
    assert [x for x, _ in series.places] == [10.0, 10.0, 30.0]
    timed = Series("cpu")
    timed.add(point(1, None), 0.0)
    timed.add(point(2, 5.0), 0.0)
    assert timed.places[1][0] - timed.places[0][0] == 1
