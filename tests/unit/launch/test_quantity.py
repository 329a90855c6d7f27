"""Amounts as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core import quantity as q


@given(st.integers(1, q.MAX_MEMORY_BYTES))
def test_memory_survives_formatting(amount: int) -> None:
    assert q.parse_memory(q.format_memory(amount)) == amount


@given(st.integers(0, int(q.MAX_DURATION_S * 1000)))
def test_durations_survive_formatting(millis: int) -> None:
    seconds = millis / 1000
    assert q.parse_duration(q.format_duration(seconds)) == seconds


@given(st.from_regex(q.DURATION_PATTERN, fullmatch=True).filter(lambda text: len(text) < 60 and text.isascii()))
def test_what_was_parsed_as_a_duration_survives_formatting_and_json(text: str) -> None:
    try:
        seconds = q.parse_duration(text)
    except ValueError:
        return
    assert q.parse_duration(q.format_duration(seconds)) == seconds
    assert q.parse_duration(seconds) == seconds


@given(st.integers(1, q.MAX_CPU_MILLI))
def test_cpus_survive_being_a_number(milli: int) -> None:
    assert q.parse_cpu(milli / 1000) == milli
    assert q.parse_cpu(str(milli / 1000)) == milli


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("8Gi", 8 * 2**30),
        ("512M", 512_000_000),
        ("1.5G", 1_500_000_000),
        ("1.5Gi", 3 * 2**29),
        ("8GiB", 8 * 2**30),
        (" 2 k ", 2000),
        ("1Ki", 1024),
        ("3T", 3 * 10**12),
        ("17", 17),
        (17, 17),
    ],
)
def test_memory(text: object, amount: int) -> None:
    assert q.parse_memory(text) == amount


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (90, 90),
        ("0", 0),
        ("0.01ms", 0.001),
    ],
)
def test_duration(text: object, seconds: float) -> None:
    assert q.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "8Gb/s", "-1", "lots", "1e3", "0", "0.1", "\u0668Gi", "2000000Ti", True, None, []]
)
def test_what_is_no_memory_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"found .*; allowed: "):
        q.parse_memory(value)


@pytest.mark.parametrize("value", ["", "soon", "-1s", "1h 30m", "1w", "4000d", "1.2.3", float("nan"), True, None, {}])
def test_what_is_no_duration_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"found .*; allowed: "):
        q.parse_duration(value)


@pytest.mark.parametrize("value", ["", "two", "0", "0.0001", "-1", "20000", "inf", False, None])
def test_what_is_no_cpu_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"found .*; allowed: "):
        q.parse_cpu(value)


@pytest.mark.parametrize("parse", [q.parse_memory, q.parse_duration, q.parse_cpu])
@given(value=st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_anything_is_a_quantity_or_a_clear_error(parse: Callable[[object], float], value: object) -> None:
    refusal = ""
    try:
        assert parse(value) >= 0
    except ValueError as error:
        refusal = str(error)
    assert not refusal or re.fullmatch(r"found .*; allowed: .*", refusal, re.DOTALL)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.41, "0.4s"), (-1, "0.0s"), (41, "41s"), (61, "1m01s"), (3900, "1h05m"), (90_000, "1d01h"), (9.99, "10.0s")],
)
def test_durations_as_people_read_them(seconds: float, shown: str) -> None:
    assert q.show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "0B"), (1023, "1023B"), (8 * 2**30, "8Gi"), (8_160_000_000, "7.6Gi")]
)
def test_memory_as_people_read_it(amount: int, shown: str) -> None:
    assert q.show_memory(amount) == shown


@pytest.mark.parametrize(("milli", "shown"), [(2000, "2"), (500, "0.5"), (1, "0.001"), (10_000_000, "10000")])
def test_cpus_as_people_read_them(milli: int, shown: str) -> None:
    assert q.show_cpu(milli) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(5400, "1h30m"), (90, "1m30s"), (1.5, "1s500ms"), (0, "0s"), (0.1 + 0.2, "300ms")]
)
def test_durations_in_whole_units(seconds: float, text: str) -> None:
    assert q.format_duration(seconds) == text
