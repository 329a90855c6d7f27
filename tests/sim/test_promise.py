"""The promise holds in every run: no job lost, none run twice, nothing left behind, whatever goes wrong when.

`SIM_SEEDS` says how many seeds to run, `SIM_SEED` runs that one and shows it. The time is bounded, not the gate: a slow
machine runs fewer seeds, and says how many.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.sim.run import run_seed
from tests.sim.seeds import run_seeds, show_seed

SEEDS = 10_000
SECONDS = 110.0
SHOWN = 5

REGRESSIONS = {
    54: "an agent that left at once took its entry away, and its jobs were taken over before it was back",
    102: "a claim was judged by another machine's clock",
    171: "a container stayed because the engine was away when it was to be removed",
    911: "a fence was forgotten because another stop had been asked for before",
    1432: "a start that was cancelled took effect after the job's end was recorded",
    2238: "an outcome was given up because the engine was away after the exit",
    6194: "after a clock was set back nobody took over for an hour",
    7895: "a container that was left over stayed because the engine was away at the start",
}
"""Seeds that once broke the promise, and how. Plans may change, and with them what a seed does."""


def _explain(broken: dict[int, list[str]]) -> str:
    lines = [f"{len(broken)} seeds broke the promise:"]
    for seed, texts in list(broken.items())[:SHOWN]:
        lines += [f"seed {seed} (again: python -m tests.sim {seed}):", *(f"  {text}" for text in texts)]
    first = next(iter(broken))
    return "\n".join([*lines, f"the run of seed {first}:", show_seed(first)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_promise_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    one = os.environ.get("SIM_SEED")
    first, count = (int(one), 1) if one else (0, int(os.environ.get("SIM_SEEDS", SEEDS)))
    seconds = SECONDS if "SIM_SEEDS" not in os.environ else float("inf")
    report = run_seeds(first, count, seconds=seconds, workers=1 if one else None)
    with capsys.disabled():
        rate = report.seeds / max(report.seconds, 0.001)
        sys.stdout.write(f"\n{report.seeds} of {count} seeds in {report.seconds:.0f} s, {rate:.0f} a second\n")
        if one:
            sys.stdout.write(show_seed(first))
    assert report.seeds > 0
    assert not report.broken, _explain(report.broken)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_once_broke_the_promise_does_not_any_more(seed: int) -> None:
    assert run_seed(seed).broken == [], f"again: python -m tests.sim {seed}"


def test_a_seed_is_the_same_run_each_time() -> None:
    for seed in (3, 4):
        assert run_seed(seed, trace=True).trace == run_seed(seed, trace=True).trace
        # In another process, too: nothing hangs on addresses or on how strings are hashed.
        shown = show_seed(seed).splitlines()
        trace = run_seed(seed, trace=True).trace
        assert [line for line in shown if line in trace] == trace
