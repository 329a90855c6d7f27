"""The account of a soak: what became of every job, what ran when, and how long it took to recover."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import aclosing
from typing import Any

from bench.answer import quantile
from bench.soak_scene import LEASE_S, NS, Scene
from launch.core.states import State
from launch.record import JobRecord
from launch.subjects import JobId
from tests.integration.chaos.events import Run
from tests.support import engine

RETURN_S = 8.0
"""How long an agent that was cut off may take, once it is back, to stop what another has taken over meanwhile."""


class Account:
    """Reads a scene after everything has come to rest."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def take(self) -> dict[str, Any]:
        """Every job accounted for."""
        scene = self._scene
        lost = [job for job in scene.jobs if not await self._whole(job)]
        doubled, apart = self._doubles()
        ended = [scene.records[job] for job in scene.jobs if job in scene.records]
        return {
            "jobs": len(scene.jobs),
            "ended": dict(Counter(str(record.state) for record in ended)),
            "lost": [str(job) for job in lost],
            "doubled": [f"{one.job} attempts {one.attempt} and {other.attempt}" for one, other in doubled],
            "side_by_side_while_cut_off": apart,
            "containers": len(scene.runs.all()),
            "attempts": dict(sorted(Counter(str(record.attempt) for record in ended).items())),
            "taken_over": len(scene.taken_over),
            "left_in_queue": (await scene.broker.jobs.depth(scene.queue)).messages,
            "containers_left": len(engine.containers(f"launch.queue={scene.queue}")),
            "faults": dict(sorted(scene.faults.items())),
            "recovery_s": {
                "agent restarted -> its jobs adopted": summary(scene.adopted_s),
                "agent dead -> job taken over": summary(self._taken_s(dead=True, restarted=False)),
                "agent frozen or cut off -> job taken over": summary(self._taken_s(dead=False, restarted=False)),
                "either, the server restarted meanwhile": summary(
                    self._taken_s(dead=True, restarted=True) + self._taken_s(dead=False, restarted=True)
                ),
                "server restarted -> first claim": summary(self._claimed_s()),
            },
        }

    def _taken_s(self, *, dead: bool, restarted: bool) -> list[float]:
        found = [self._since_lost(one, dead=dead, restarted=restarted) for one in self._scene.taken_over]
        return [one for one in found if one is not None]

    def _claimed_s(self) -> list[float]:
        """From each start of the server to the first claim after it."""
        found = []
        for up in self._scene.server_up:
            after = [claim for claim in self._scene.claims if claim > up]
            if after:
                found.append((min(after) - up) / NS)
        return found

    async def _whole(self, job: JobId) -> bool:
        """Whether the job has come to one end, and that is the right one with all of its output."""
        history = await self._scene.broker.records.history(job)
        ends = [record for record in history if record.state.terminal]
        if len(ends) != 1 or history[-1] is not ends[0]:
            return False
        if ends[0].state is State.CANCELLED:
            return job in self._scene.cancelled
        async with aclosing(self._scene.broker.logs.read(job)) as chunks:
            data = b"".join([chunk.data async for chunk in chunks if chunk.attempt == ends[0].attempt])
        wanted = [f"start {ends[0].attempt}", *map(str, range(1, self._scene.jobs[job] + 1)), "end"]
        return ends[0].state is State.SUCCEEDED and data.decode().splitlines() == wanted

    def _doubles(self) -> tuple[list[tuple[Run, Run]], int]:
        """Runs of one job that overlap, or that begin after its end; those of an agent that was cut off are counted."""
        found: list[tuple[Run, Run]] = list(self._scene.runs.doubled())
        for run in self._scene.runs.all():
            record = self._scene.records.get(run.job)
            if record and record.finished_at and record.state.terminal:
                over_ns = int(record.finished_at.timestamp() * NS)
                if run.started_ns > over_ns or (run.ended_ns or time.time_ns()) > over_ns + RETURN_S * NS:
                    found.append((run, run))
        real = [pair for pair in found if not any(self._excused(run, pair) for run in pair)]
        return real, len(found) - len(real)

    def _excused(self, run: Run, pair: tuple[Run, Run]) -> bool:
        """Whether this run's agent could not know better for as long as the two went on."""
        worker = next(one for one in self._scene.workers if one.agent.agent_id == run.agent)
        begin = max(one.started_ns for one in pair)
        end = min(one.ended_ns or time.time_ns() for one in pair)
        for since, until, _ in worker.away:
            # An entry that was renewed just before the fault lasts a lease; an old one two thirds of it.
            known = max([until, *(up for up in self._scene.server_up if since <= up <= until + RETURN_S * NS)])
            if until - since > LEASE_S * NS * 2 / 3 and begin >= since and end <= known + RETURN_S * NS:
                return True
        return False

    def _since_lost(self, taken: tuple[int, str, JobRecord], *, dead: bool, restarted: bool) -> float | None:
        """Seconds from the fault that took the old owner away to the take-over; None if there was no such fault.

        After a restart of the server nobody takes over for a lease: such take-overs are told apart by `restarted`.
        """
        at_ns, old, _ = taken
        worker = next(one for one in self._scene.workers if one.agent.agent_id == old)
        lost = max((one for one in worker.away if one.since <= at_ns <= one.until + RETURN_S * NS), default=None)
        if lost is None or lost.dead is not dead:
            return None
        if any(lost.since - LEASE_S * NS <= up <= at_ns for up in self._scene.server_up) is not restarted:
            return None
        return (at_ns - lost.since) / NS


def summary(values: list[float]) -> dict[str, float]:
    """Count, median, 99th percentile and maximum, in seconds."""
    if not values:
        return {"count": 0}
    return {"count": len(values), "p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "max": max(values)}
