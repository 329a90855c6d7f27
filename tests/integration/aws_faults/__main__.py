"""`python -m tests.integration.aws_faults [--seeds N] [--first N] [--at-once N]`: more seeds than the suite runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import structlog

from tests.integration.aws_faults.plants import PLANTS
from tests.integration.aws_faults.runs import REGIONS, run_seeds, table
from tests.support.moto import MotoServer


def main() -> int:
    """Run them, print the table; 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="aws_faults", description="Run the scaler on EC2 with faults, by seeds.")
    parser.add_argument("--seeds", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--at-once", type=int, default=4, choices=range(1, len(REGIONS) + 1), help="side by side")
    parser.add_argument("--verbose", action="store_true", help="print what the scaler says")
    parser.add_argument("--plant", choices=list(PLANTS), help="break the scaler like this: violations must be found")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    async def runs(folder: Path, url: str) -> int:
        seeds = range(given.first, given.first + given.seeds)
        found = []
        async for one in run_seeds(seeds, folder, url, at_once=given.at_once):
            found.append(one)
            print(f"seed {one.scenario.seed}: {one.took_s:.0f} s, {len(one.violations)} violations", flush=True)  # noqa: T201
            if given.verbose:
                print(*one.told, sep="\n")  # noqa: T201
        print(*table(found), sep="\n")  # noqa: T201
        return int(any(one.violations for one in found))

    moto = MotoServer().start()
    try:
        planted = PLANTS[given.plant]() if given.plant else nullcontext()
        with tempfile.TemporaryDirectory(prefix="af") as folder, planted:
            return asyncio.run(runs(Path(folder), moto.url))
    finally:
        moto.stop()


if __name__ == "__main__":
    sys.exit(main())
