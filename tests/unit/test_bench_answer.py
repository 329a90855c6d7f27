"""What the benchmark makes of a figure: met or not, and grossly lost only by a ratio."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from bench.answer import Figure, quantile, table


def figure(value: float, **given: Any) -> Figure:
    return Figure(**{"name": "f", "value": value, "unit": "ms", "target": 1.1, "runs": 5, "floor": 10.0, **given})


@pytest.mark.parametrize(
    ("value", "given", "met", "lost"),
    [
        (11.0, {}, True, False),
        (11.5, {}, False, False),
        (33.1, {}, False, True),
        (33.1, {"gross": inf}, False, False),
        (8.0, {"target": 0.8, "best": "high"}, True, False),
        (7.9, {"target": 0.8, "best": "high"}, False, False),
        (2.6, {"target": 0.8, "best": "high"}, False, True),
        (99.0, {"target": 3.0, "target_of": "value"}, False, False),
        (2.9, {"target": 3.0, "target_of": "value", "floor": 0.1, "gross": 20.0}, True, True),
        (99.0, {"target": 3.0, "target_of": "value", "floor": None}, False, False),
    ],
)
def test_a_figure_is_met_by_its_target_and_lost_by_its_ratio_only(
    value: float, given: dict[str, Any], met: bool, lost: bool
) -> None:
    one = figure(value, **given)
    assert (one.met, one.lost) == (met, lost)


def test_a_target_for_a_ratio_needs_a_floor() -> None:
    with pytest.raises(ValueError, match="needs a floor"):
        figure(1.0, floor=None)


def test_the_table_says_value_floor_ratio_and_verdict() -> None:
    head, row = table([("gap", figure(11.5))]).splitlines()
    assert head.split() == ["question", "figure", "value", "floor", "ratio", "target", "runs", "met"]
    assert row.split() == ["gap", "f", "11.5", "ms", "10", "ms", "1.15x", "<=", "1.1x", "5", "NO"]


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
