"""How long one decision of the scaler takes: many pending jobs of mixed shapes, many instances; no IO at all.

Floor: adding up as many whole numbers as there are workers and running jobs, what a plan must at least look at.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.answer import Answer, Figure
from launch.core.capacity import Amount
from launch.presence import AgentPresence
from scaler.core.backlog import Backlog
from scaler.core.durations import Durations
from scaler.core.forecast import Arrivals
from scaler.core.instance import Instance, InstanceState
from scaler.core.plan import plan
from scaler.core.snapshot import AWS, Past, Pending, PendingJob, Policy, Running, Snapshot, Worker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1024**3
WHOLE = Amount(cpu_milli=48_000, memory_bytes=192 * GIB, gpus=4, slots=48)
TYPES = tuple(f"type-{number}" for number in range(8))


async def measure(repeats: int) -> Answer:
    """The median and the worst of so many plans, in milliseconds, for a small fleet and for a large one."""
    small, large = _measured(200, 100_000, repeats), _measured(10_000, 1_000_000, repeats)
    median_ms, floor_ms = small["plan that launches"]["median_ms"], small["floor"]["median_ms"]
    return Answer(
        "one plan of the scaler, no IO: 200 instances, 100,000 jobs pending",
        [Figure("plan", median_ms, "ms", 50, repeats, floor_ms, "adding up as many numbers", target_of="value")],
        detail={"200 instances, 100,000 jobs": small, "10,000 instances, 1,000,000 jobs": large},
    )


def _measured(instances: int, jobs: int, repeats: int) -> dict[str, Any]:
    chance = random.Random(instances)  # noqa: S311 - a measurement has to repeat
    backlog, started = Backlog(), time.perf_counter()
    for number in range(jobs):
        backlog.add(_job(chance, number))
    filled_s = time.perf_counter() - started
    world = _snapshot(chance, instances, backlog.view())
    gc.collect()
    gc.freeze()  # As the scaler itself does not, at a million jobs: its collections are not the plan's.
    idle = replace(world, pending=Pending())
    growing, full = Policy(0, 2 * instances, tuning=AWS), Policy(0, instances, tuning=AWS)
    numbers = [chance.randrange(1_000_000) for _ in range(4 * instances)]
    return {
        "jobs added a second": round(jobs / filled_s),
        "view after a change": _times(lambda: _changed(backlog), repeats),
        "plan that launches": _times(lambda: plan(world, growing, NOW), repeats),
        "plan at the maximum": _times(lambda: plan(world, full, NOW), repeats),
        "plan with nothing pending": _times(lambda: plan(idle, full, NOW), repeats),
        "floor": _times(lambda: sum(numbers), repeats),
    }


def _changed(backlog: Backlog) -> Pending:
    first = backlog.view().groups[0].ids[0]
    backlog.remove([first])
    backlog.add(PendingJob(first, TYPES[0], Amount(cpu_milli=1000, slots=1), NOW))
    return backlog.view()


def _times(work: Callable[[], object], repeats: int) -> dict[str, float]:
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - before))
    return {"median_ms": statistics.median(times), "worst_ms": max(times)}


def _job(chance: random.Random, number: int) -> PendingJob:
    """One of 40 shapes."""
    amount = Amount(
        cpu_milli=chance.choice((1000, 2000, 4000, 8000, 12_000)),
        memory_bytes=chance.choice((GIB, 8 * GIB)),
        gpus=chance.choice((0, 0, 1, 2)),
        slots=1,
    )
    return PendingJob(f"q/{number}", chance.choice(TYPES), amount, NOW - timedelta(seconds=600 - 600 * number / 1e6))


def _snapshot(chance: random.Random, instances: int, pending: Pending) -> Snapshot:
    durations, arrivals = Durations(), Arrivals(AWS.tau_s)
    for job_type in TYPES:
        for _ in range(200):
            durations.add(job_type, chance.lognormvariate(5.0, 1.5))
    for group in pending.groups:
        arrivals.add(group.job_type, group.amount, NOW, group.count)
    workers = tuple(_worker(chance, number) for number in range(instances))
    past = Past(durations.view(), tuple(sorted(chance.gauss(70, 10) for _ in range(200))), arrivals.view())
    return Snapshot("q", pending, workers, WHOLE, past=past)


def _worker(chance: random.Random, number: int) -> Worker:
    """One of ten boots; the others hold what fits: where a job waits, no worker has room for it."""
    name = f"i-{number:05d}"
    launched_at = NOW - timedelta(seconds=chance.uniform(1, 60))
    if number % 10 == 0:
        return Worker(Instance(name, name, launched_at, InstanceState.STARTING, WHOLE), None, absent_since=launched_at)
    launched_at -= timedelta(seconds=3600)
    free, running = WHOLE, list[Running]()
    while free.cpu_milli >= 1000:
        job = _job(chance, number)
        if job.amount.fits_in(free):
            free -= job.amount
            started_at = NOW - timedelta(seconds=chance.expovariate(1 / 300))
            running.append(Running(f"{name}/{len(running)}", job.job_type, job.amount, started_at))
    presence = AgentPresence(
        agent_id=name, queue="q", capacity=WHOLE, free=free, holds=tuple(job.id for job in running), version="1",
        host=name, started_at=launched_at,
    )  # fmt: skip
    return Worker(Instance(name, name, launched_at, InstanceState.RUNNING, WHOLE), presence, running=tuple(running))
