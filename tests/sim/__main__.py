"""`python -m tests.sim 4711` shows one run; `python -m tests.sim 0:1000` does many and says which broke the promise."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import Any

from tests.sim.planted import PLANTED
from tests.sim.run import run_seed


def main() -> int:
    """Do what the command line says; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seeds", help="one seed, or FIRST:END")
    parser.add_argument("--plant", choices=PLANTED, help="make this mistake on purpose")
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that breaks the promise")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after this long")
    options = parser.parse_args()
    first, _, end = options.seeds.partition(":")
    with PLANTED[options.plant]() if options.plant else contextlib.nullcontext():
        if not end:
            return show(int(first))
        return many(range(int(first), int(end)), stop=options.stop, seconds=options.seconds)


def show(seed: int) -> int:
    """One run, event by event."""
    result = run_seed(seed, trace=True)
    say(f"seed {seed}: {result.plan}")
    for fault in result.plan.faults:
        say(f"fault: {fault}")
    for line in result.trace:
        say(line)
    for text in result.broken:
        say(f"BROKEN {text}")
    say(f"seed {seed}: {'broken' if result.broken else 'kept'}")
    return 1 if result.broken else 0


def many(seeds: range, *, stop: bool, seconds: float) -> int:
    """Many runs; a line of JSON for each that broke the promise, and one at the end for all."""
    begun_s, done, bad = time.perf_counter(), 0, 0
    for seed in seeds:
        if time.perf_counter() - begun_s > seconds:
            break
        result = run_seed(seed)
        done += 1
        if result.broken:
            bad += 1
            say({"seed": seed, "broken": result.broken})
            if stop:
                break
    took_s = time.perf_counter() - begun_s
    say({"seeds": done, "bad": bad, "seconds": round(took_s, 2)})
    return 1 if bad else 0


def say(what: str | dict[str, Any]) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(f"{what if isinstance(what, str) else json.dumps(what)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
