"""Many seeds at once: as many processes as there are cores, none of them measured or instrumented by the tests'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Report:
    """How many seeds were run in how long, and what each of those that broke the promise broke."""

    seeds: int = 0
    seconds: float = 0.0
    broken: dict[int, list[str]] = field(default_factory=dict)


def run_seeds(first: int, count: int, *, seconds: float, workers: int | None = None, **flags: str | bool) -> Report:
    """Run seeds `first` to `first + count`, beginning none after `seconds`. `flags` are those of the command line."""
    workers = workers or os.cpu_count() or 1
    bounds = [first + count * number // workers for number in range(workers + 1)]
    report = Report()
    processes = [
        subprocess.Popen(_command(start, end, seconds, flags), cwd=ROOT, env=_environment(), stdout=subprocess.PIPE)
        for start, end in pairwise(bounds)
    ]
    try:
        for process in processes:
            out, _ = process.communicate()
            if process.returncode not in (0, 1):
                raise RuntimeError(f"a worker ended with {process.returncode}")
            for line in out.splitlines():
                said = json.loads(line)
                if "seed" in said:
                    report.broken[said["seed"]] = said["broken"]
                else:
                    report.seeds += said["seeds"]
                    report.seconds = max(report.seconds, said["seconds"])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return report


def show_seed(seed: int, *, plant: str | None = None) -> str:
    """The trace of one run."""
    flags: dict[str, str | bool] = {"plant": plant} if plant else {}
    command = [sys.executable, "-m", "tests.sim", str(seed), *_flags(flags)]
    return subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True, check=False).stdout


def _command(start: int, end: int, seconds: float, flags: dict[str, str | bool]) -> list[str]:
    return [sys.executable, "-m", "tests.sim", f"{start}:{end}", "--seconds", str(seconds), *_flags(flags)]


def _flags(flags: dict[str, str | bool]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", *([] if value is True else [str(value)]))]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}
