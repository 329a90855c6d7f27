"""A few seeds, as part of the suite; `python -m tests.integration.aws_faults --seeds 200` runs more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.aws_faults.runs import run_seeds, table
from tests.support.moto import MotoServer

pytestmark = [
    pytest.mark.nats,
    pytest.mark.slow,
    pytest.mark.timeout(200),
    # Connections whose server is killed under them are left to the garbage collector by the vendor's client.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"),
]
SEEDS = (2, 3, 5, 6, 9, 11, 13, 26)


async def test_nothing_is_violated_whatever_happens(moto_server: MotoServer, tmp_path: Path) -> None:
    found = [verdict async for verdict in run_seeds(SEEDS, tmp_path, moto_server.url, at_once=4)]
    sys.stdout.write("\n" + "\n".join(table(found)) + "\n")
    violations = {verdict.scenario.seed: verdict.violations for verdict in found if verdict.violations}
    assert violations == {}
    assert len(found) == len(SEEDS)
    assert sum((verdict.outcomes["lost reply"] for verdict in found), 0) > 0
