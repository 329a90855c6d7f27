"""What it takes to look: the first page of `launch jobs` beside many finished jobs, and the start of a command."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.answer import Answer, Figure, quantile
from bench.parts import broker, nats_server
from launch.adapters.nats import NatsBroker
from launch.client import Client
from launch.core.states import State
from launch.job import JobSpec
from launch.queue import QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.subjects import JOBS_BUCKET, bucket_subject

QUEUE = "look"
STEPS = (State.PREPARING, State.RUNNING, State.SUCCEEDED)
AT_ONCE = 500
PYCACHE = Path("build/bench/pycache").absolute()
FEW = 100


async def listing(records: int, runs: int) -> Answer:
    """Milliseconds for the first page and for one job, with so many finished jobs, beside a hundred."""
    took: dict[str, list[float]] = {}
    with nats_server() as url, TemporaryDirectory() as home:
        async with broker(url) as link:
            client = Client(link)
            await client.apply_queue(QueueSpec(queue_name=QUEUE, provider=StaticProvider()))
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "page": lambda: client.listing(QUEUE, limit=100),
                "running": lambda: client.listing(QUEUE, State.RUNNING, limit=100),
                "show": client.job(f"{QUEUE}/{FEW}").record,
            }
            for count, begin in ((FEW, 1), (records, FEW + 1)):
                await _finish(link, begin, count)
                for _ in range(runs):
                    for name, call in calls.items():
                        since = time.perf_counter()
                        await call()
                        took.setdefault(f"{name} {count}", []).append(1000 * (time.perf_counter() - since))
                command = ("-m", "launch", "--server", url, "jobs", "-q", QUEUE)
                surroundings = {"LAUNCH_DATA_DIR": home}
                await _times([command], 1, surroundings)
                took[f"command {count}"] = await _times([command], runs, surroundings)
            since = time.perf_counter()
            everything = len(await client.jobs(QUEUE))
            all_ms = 1000 * (time.perf_counter() - since)
    assert everything == records, everything  # of which a hundred were there before
    p50 = {name: quantile(values, 0.5) for name, values in took.items()}

    def figure(label: str, name: str, gross: float = 10.0) -> Figure:
        value, floor = p50[f"{name} {records}"], p50[f"{name} {FEW}"]
        return Figure(label, value, "ms", 300.0, runs, floor, f"{FEW} jobs", "value", gross=gross)

    return Answer(
        f"`launch jobs` and `launch show` with {records:,} finished jobs",
        [
            figure("first page", "page"),
            figure("first page of those that run", "running", gross=50.0),  # it looks at five pages of the many
            figure("one job", "show"),
            figure("`launch jobs`, the whole command", "command"),
        ],
        took,
        {"all_ms": all_ms},
    )


async def _finish(link: NatsBroker, begin: int, upto: int) -> None:
    """Write the records of jobs that went through their life, the numbers `begin` to `upto`."""
    spec = JobSpec.model_validate({"image": "example/train:1", "command": ["python", "train.py"], "job_type": "train"})
    start = datetime.now(UTC) - timedelta(days=1)
    base = JobRecord(queue=QUEUE, seq=1, job_type="train", agent="a-1", attempt=1, submitted_at=start, updated_at=start)
    for first in range(begin, upto + 1, AT_ONCE):
        for state in STEPS:
            writes = []
            for seq in range(first, min(first + AT_ONCE, upto + 1)):
                now = start + timedelta(milliseconds=100 * seq)
                changes = {"seq": seq, "state": state, "spec": spec, "submitted_at": now, "updated_at": now}
                body = base.model_copy(update=changes).model_dump_json(exclude_none=True).encode()
                subject = bucket_subject(JOBS_BUCKET, f"{QUEUE}.{seq}")
                writes.append(link._connection.publish_stored(subject, body))  # noqa: SLF001  (no port writes blindly)
            await asyncio.gather(*writes)


async def commands(runs: int) -> Answer:
    """Milliseconds of whole processes, in turns."""
    with nats_server() as url, TemporaryDirectory() as home:
        async with broker(url) as link:
            await link.queues.apply(QueueSpec(queue_name=QUEUE, provider=StaticProvider()))
            submit = ("-m", "launch", "--server", url, "submit", "-q", QUEUE, "--image", "i", "--", "true")
            calls = [("-c", "pass"), ("-m", "launch", "--help"), submit]
            surroundings = {"LAUNCH_DATA_DIR": home}
            await _times(calls, 2, surroundings)
            used, flat = [], []
            for call in calls * runs:
                before = _used_ms()
                flat += await _times([call], 1, surroundings)
                used.append(_used_ms() - before)
    bare, help_, submit_ = (flat[place :: len(calls)] for place in range(len(calls)))
    bare_cpu, help_cpu, submit_cpu = (quantile(used[place :: len(calls)], 0.5) for place in range(len(calls)))
    floor = quantile(bare, 0.5)
    return Answer(
        "the start of a command, beyond that of Python",
        [
            Figure(name, quantile(of, 0.5) - floor, "ms", target, runs, floor, "python -c pass", "value")
            for name, of, target in (("launch --help", help_, 150.0), ("launch submit", submit_, 400.0))
        ],
        {"pass_ms": bare, "help_ms": help_, "submit_ms": submit_},
        {
            # On a busy machine a process waits for its turn: these say what it takes by itself.
            "quickest_ms": {"help": min(help_) - min(bare), "submit": min(submit_) - min(bare)},
            "cpu_ms": {"help": help_cpu - bare_cpu, "submit": submit_cpu - bare_cpu},
        },
    )


def _used_ms() -> float:
    """CPU of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (used.ru_utime + used.ru_stime)


async def _times(calls: Sequence[Sequence[str]], runs: int, extra: Mapping[str, str]) -> list[float]:
    """Milliseconds of each process, all of the calls in turns; as installed, with their bytecode at hand."""
    took = []
    around = {**os.environ, "PYTHONPYCACHEPREFIX": str(PYCACHE), **extra}
    around.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(runs):
        for call in calls:
            since = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *call,
                env=around,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert await process.wait() == 0, call
            took.append(1000 * (time.perf_counter() - since))
    return took
