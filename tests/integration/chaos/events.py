"""What containers did, by the engine's own events: the proof of what ran, and when, that owes nothing to our records.

The stream is opened before the first job is submitted, so every start and end is in it, with the engine's own time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from launch.subjects import JobId

API = "http://docker/v1.41"
LIMIT_S = 60.0


@dataclass
class Run:
    """One container of a job: its attempt, and when it ran (nanoseconds of the engine's clock; 0: not yet)."""

    job: JobId
    attempt: int
    container: str
    agent: str
    starts: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    exit_code: int | None = None
    signals: list[tuple[int, int]] = field(default_factory=list)
    """Signals that the engine was asked to send: number and time."""


class Runs:
    """Every container of one queue's jobs that was ever started, in the order of starts."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._runs: dict[str, Run] = {}
        self._changed = asyncio.Event()
        self.events = 0

    def all(self) -> list[Run]:
        """Every run."""
        return list(self._runs.values())

    def of(self, job: JobId) -> list[Run]:
        """The runs of one job."""
        return [run for run in self._runs.values() if run.job == job]

    def running(self) -> list[Run]:
        """What runs now."""
        return [run for run in self._runs.values() if run.started_ns and not run.ended_ns]

    def doubled(self) -> list[tuple[Run, Run]]:
        """Pairs of runs of one job that ran at the same time, and runs that were started twice."""
        runs = self.all()
        found = [(run, run) for run in runs if run.starts > 1]
        for number, one in enumerate(runs):
            for other in runs[number + 1 :]:
                if one.job != other.job:
                    continue
                apart = (one.ended_ns and one.ended_ns <= other.started_ns) or (
                    other.ended_ns and other.ended_ns <= one.started_ns
                )
                if not apart or one.attempt == other.attempt:
                    found.append((one, other))
        return found

    async def until(self, wanted: Callable[[Runs], bool], *, limit_s: float = LIMIT_S) -> None:
        """Wait until it is as wanted; looks after every event."""
        async with asyncio.timeout(limit_s):
            while not wanted(self):
                self._changed.clear()
                await self._changed.wait()

    async def started(self, job: JobId, attempt: int = 1) -> Run:
        """Wait until the engine has started this attempt."""
        await self.until(lambda runs: any(run.attempt == attempt for run in runs.of(job)))
        return next(run for run in self.of(job) if run.attempt == attempt)

    async def ended(self, job: JobId, attempt: int = 1) -> Run:
        """Wait until this attempt's container does not run any more."""
        run = await self.started(job, attempt)
        await self.until(lambda _: run.ended_ns > 0)
        return run

    async def follow(self, session: aiohttp.ClientSession, ready: asyncio.Event) -> None:
        """Take in the engine's events until cancelled."""
        wanted = {"type": ["container"], "event": ["start", "die", "kill"], "label": [f"launch.queue={self._queue}"]}
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(f"{API}/events", params={"filters": json.dumps(wanted)}, timeout=timeout) as events:
            events.raise_for_status()
            ready.set()
            async for line in events.content:
                self._take(json.loads(line))
        raise AssertionError("the engine's events ended")

    def _take(self, event: dict[str, object]) -> None:
        actor = event["Actor"]
        assert isinstance(actor, dict)
        labels, container, at_ns = actor["Attributes"], str(actor["ID"]), int(str(event["timeNano"]))
        run = self._runs.get(container)
        if run is None:
            job = JobId(labels["launch.queue"], int(labels["launch.seq"]))
            run = Run(job, int(labels["launch.attempt"]), container, labels["launch.agent"])
            self._runs[container] = run
        match event["Action"]:
            case "start":
                run.started_ns = at_ns
                run.starts += 1
            case "die":
                run.ended_ns, run.exit_code = at_ns, int(labels["exitCode"])
            case "kill":
                run.signals.append((int(labels["signal"]), at_ns))
        self.events += 1
        self._changed.set()


@asynccontextmanager
async def watched(queue: str, host: str | None = None) -> AsyncIterator[Runs]:
    """The runs of a queue's jobs within this block."""
    path = (host or os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")).removeprefix("unix://")
    runs, ready = Runs(queue), asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(runs.follow(session, ready), name="engine events")
        await ready.wait()
        try:
            yield runs
        finally:
            following.cancel()
