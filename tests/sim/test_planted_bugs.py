"""The simulation finds mistakes: each one that is planted is caught by some seed among the first two thousand."""

from __future__ import annotations

import sys

import pytest

from tests.sim.planted import PLANTED
from tests.sim.seeds import run_seeds

SEEDS = 2000


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_mistake_is_caught(plant: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_seeds(0, SEEDS, seconds=150.0, plant=plant, stop=True)
    caught = sorted(report.broken)
    with capsys.disabled():
        told = f"seed {caught[0]}: {report.broken[caught[0]][0][:150]}" if caught else "not caught"
        sys.stdout.write(f"\n{plant}: caught by {caught} after {report.seeds} runs; {told}\n")
    assert caught, f"{plant} was not caught by {report.seeds} seeds"
