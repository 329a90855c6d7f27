"""How long one slot stands empty between two queued jobs: from the exit of one container to the start of the next.

Both moments are the engine's own. Floor: a bare loop that hears of the exit, creates and starts the next container, and
removes the old one beside that. The jobs take half a second, so that neither side is still busy with the one before.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

from bench.answer import Answer, Figure, quantile
from bench.engine import Bare, Events, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.job import JobSpec
from launch.subjects import container_name

QUEUE = "bench-gap"
LASTS_S = 0.5
LIMIT_S = 600.0


async def measure(jobs: int, rounds: int) -> Answer:
    """Milliseconds between so many jobs, and as many bare containers, in turns of `jobs / rounds`."""
    spec = JobSpec(job_type="sleep", image=await busybox(), command=("sleep", str(LASTS_S)))
    body = spec.model_dump_json(exclude_unset=True).encode()
    ours: list[float] = []
    bare: list[float] = []
    with nats_server() as url:
        async with (
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, QUEUE, max_jobs=1),
            asyncio.timeout(LIMIT_S),
        ):
            engine = Bare(session, spec)
            for _ in range(rounds):
                bare += await _gaps(events, await _bare(engine, jobs // rounds))
                acks = [await link.jobs.publish(QUEUE, "sleep", body) for _ in range(jobs // rounds)]
                ours += await _gaps(events, [container_name(ack.job, 1) for ack in acks])
    floor = "a bare loop: create and start"
    return Answer(
        "exit of one container -> start of the next, one slot, several jobs queued",
        [
            Figure("gap, p50", quantile(ours, 0.5), "ms", 1.0, len(ours), quantile(bare, 0.5), floor),
            Figure("gap, p90", quantile(ours, 0.9), "ms", 1.1, len(ours), quantile(bare, 0.9), floor),
        ],
        {"agent_ms": ours, "engine_ms": bare},
    )


async def _gaps(events: Events, names: list[str]) -> list[float]:
    """Between these, in whichever order they ran; returns when all are gone."""
    for name in names:
        await events.of("destroy", name)
    lives = sorted([(await events.of("start", name), await events.of("die", name)) for name in names])
    return [(after[0] - before[1]) / 1e6 for before, after in pairwise(lives)]


async def _bare(engine: Bare, count: int) -> list[str]:
    names: list[str] = []
    async with asyncio.TaskGroup() as removals:
        for _ in range(count):
            name, container = await engine.create()
            names.append(name)
            await engine.start(container)
            await engine.wait(container)
            removals.create_task(engine.remove(container))
    return names
