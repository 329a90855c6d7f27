"""How long one slot stands empty between two queued jobs: from the exit of one container to the start of the next.

Both moments are the engine's own. Floor: a bare loop that hears of the exit, creates and starts the next container, and
removes the old one beside that. In turns with it: an agent, one with `--container-ahead`, one whose policy has
`network_pool`, and the bare loop again with the next container created while the last one runs, which says how much
that could bring. The jobs take half a second, so that no side is still busy with the one before.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.answer import Answer, Figure, quantile
from bench.engine import Bare, Events, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.subjects import container_name

LASTS_S = 0.5
LIMIT_S = 900.0
PLAIN, AHEAD, POOLED = "bench-gap", "bench-gap-ahead", "bench-gap-pooled"


async def measure(jobs: int, rounds: int) -> Answer:
    """Milliseconds between so many jobs, and as many bare containers, in turns of `jobs / rounds`."""
    spec = JobSpec(job_type="sleep", image=await busybox(), command=("sleep", str(LASTS_S)))
    each = jobs // rounds
    sides = ("engine_ms", "agent_ms", "agent_ahead_ms", "engine_created_ahead_ms", "agent_pooled_ms")
    gaps = {side: list[float]() for side in sides}
    with nats_server() as url, TemporaryDirectory() as folder:
        policy = Path(folder) / "agent.yaml"
        policy.write_text("network_pool: true\n")
        async with (
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, PLAIN, max_jobs=1),
            agent(link, url, AHEAD, max_jobs=1, more=["--container-ahead"]),
            agent(link, url, POOLED, max_jobs=1, policy=policy),
            asyncio.timeout(LIMIT_S),
        ):
            engine = Bare(session, spec)
            for _ in range(rounds):
                gaps["engine_ms"] += await _gaps(events, await _bare(engine, each, ahead=False))
                gaps["agent_ms"] += await _gaps(events, await _queued(link, PLAIN, spec, each))
                gaps["agent_ahead_ms"] += await _gaps(events, await _queued(link, AHEAD, spec, each))
                gaps["engine_created_ahead_ms"] += await _gaps(events, await _bare(engine, each, ahead=True))
                gaps["agent_pooled_ms"] += await _gaps(events, await _queued(link, POOLED, spec, each))
    floor = quantile(gaps["engine_ms"], 0.5)

    def figure(name: str, side: str, target: float) -> Figure:
        value = quantile(gaps[side], 0.5)
        return Figure(name, value, "ms", target, len(gaps[side]), floor, "a bare loop: create and start")

    return Answer(
        "exit of one container -> start of the next, one slot, several jobs queued",
        [
            figure("gap, p50", "agent_ms", 1.1),
            figure("gap with the next container made ahead, p50", "agent_ahead_ms", 1.0),
            figure("gap with kept network namespaces, p50", "agent_pooled_ms", 1.0),
        ],
        gaps,
        {"bare loop, next created ahead: ratio of p50": quantile(gaps["engine_created_ahead_ms"], 0.5) / floor},
    )


async def _gaps(events: Events, names: list[str]) -> list[float]:
    """Between these, in whichever order they ran; returns when all are gone."""
    for name in names:
        await events.of("destroy", name)
    lives = sorted([(await events.of("start", name), await events.of("die", name)) for name in names])
    return [(after[0] - before[1]) / 1e6 for before, after in pairwise(lives)]


async def _queued(link: NatsBroker, queue: str, spec: JobSpec, count: int) -> list[str]:
    body = spec.model_dump_json(exclude_unset=True).encode()
    return [container_name((await link.jobs.publish(queue, "sleep", body)).job, 1) for _ in range(count)]


async def _bare(engine: Bare, count: int, *, ahead: bool) -> list[str]:
    names: list[str] = []
    ready: tuple[str, str] | None = None
    async with asyncio.TaskGroup() as removals:
        for number in range(count):
            name, container = ready or await engine.create()
            names.append(name)
            await engine.start(container)
            ready = await engine.create() if ahead and number + 1 < count else None
            await engine.wait(container)
            removals.create_task(engine.remove(container))
    return names
