"""Many seeds side by side in one process, and the table of what they came to."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import scaler.observe
from scaler.adapters.aws import errors, shortages
from scaler.core.snapshot import AWS
from tests.integration.aws_faults.scenario import make
from tests.integration.aws_faults.world import Verdict, World
from tests.support.aws_proxy import Regions

REGIONS = ("eu-central-1", "eu-west-1", "eu-west-2", "eu-north-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
           "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1")  # fmt: skip
"""Each seed at work has one to itself: it is what this process's clients are told apart by."""

LIMIT_S = 150.0


@contextmanager
def hurried(url: str) -> Iterator[None]:
    """Clients find `url`, and what takes minutes with AWS takes seconds."""
    env = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    tuning = replace(AWS, boot_prior_s=1.0, boot_deadline_s=6.0, idle_least_s=0.3, billed_least_s=0.0, tau_s=5.0)
    with (
        mock.patch.dict(os.environ, env),
        mock.patch.object(scaler.observe, "AWS", tuning),
        mock.patch.object(shortages, "REMEMBERED_S", 3.0),
        mock.patch.object(shortages, "AGAIN_FIRST_S", 0.5),
        mock.patch.object(errors, "QUOTA_RETRY_S", 2.0),
        mock.patch.object(errors, "AUTH_RETRY_S", 2.0),
        mock.patch.object(errors, "THROTTLE_RETRY_S", 0.5),
    ):
        yield


async def run_seeds(seeds: Iterable[int], folder: Path, moto_url: str, *, at_once: int = 4) -> AsyncIterator[Verdict]:
    """Verdicts as they come."""
    free: asyncio.Queue[str] = asyncio.Queue()
    for region in REGIONS[:at_once]:
        free.put_nowait(region)
    done: asyncio.Queue[Verdict] = asyncio.Queue()

    async def one(seed: int, regions: Regions) -> None:
        region = await free.get()
        try:
            async with asyncio.timeout(LIMIT_S):
                world = World(make(seed), folder / f"s{seed}", regions, region, moto_url)
                done.put_nowait(await world.run())
        finally:
            free.put_nowait(region)

    wanted = list(seeds)
    async with Regions() as regions:
        with hurried(regions.url):
            async with asyncio.TaskGroup() as tasks:
                for seed in wanted:
                    tasks.create_task(one(seed, regions), name=f"seed {seed}")
                for _ in wanted:
                    yield await done.get()


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """Lines for people: each seed, and all of them."""
    found = sorted(verdicts, key=lambda verdict: verdict.scenario.seed)
    lines = ["seed jobs max peak launches instances    s  faults and happenings"]
    for one in found:
        met = one.outcomes + one.happened
        what = ", ".join(f"{count} {name}" for name, count in sorted(met.items())) or "none"
        lines.append(
            f"{one.scenario.seed:4} {one.scenario.jobs:4} {one.scenario.max_instances:3} {one.peak:4} "
            f"{one.launches:8} {one.instances:9} {one.took_s:4.0f}  {what}"
        )
        lines += [f"     VIOLATION {violation}" for violation in one.violations]
    total: Counter[str] = Counter()
    for one in found:
        total += one.outcomes + one.happened
    lines.append(f"{len(found)} seeds, {sum(one.scenario.jobs for one in found)} jobs, "
                 f"{sum(one.instances for one in found)} instances; "
                 + ", ".join(f"{count} {name}" for name, count in total.most_common()))  # fmt: skip
    lines.append(f"{sum(len(one.violations) for one in found)} violations")
    return lines
