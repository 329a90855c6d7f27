"""How long from publish to a running process on an idle agent, beside the engine's own create and start.

The two are taken in turns within one run. Both end at the engine's own `start` event; the floor begins at a raw
`create` request with the very body that the agent sends, the agent's figure at the publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import inf

from bench.answer import Answer, Figure, quantile
from bench.engine import Bare, Events, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.ports import Synced
from launch.subjects import JobId, container_name

QUEUE = "bench-start"
STARTED_S = 30.0


async def measure(jobs: int) -> Answer:
    """Milliseconds for `jobs` jobs of `true`, one at a time, and as many bare containers in between."""
    image = await busybox()
    spec = JobSpec(job_type="true", image=image, command=("true",))
    through_agent: list[float] = []
    bare: list[float] = []
    with nats_server() as url:
        async with (
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, QUEUE, max_jobs=1),
        ):
            engine = Bare(session, spec)
            for _ in range(jobs + 1):
                bare.append(await _bare(engine, events))
                through_agent.append(await _published(link, events, spec))
    # The first of each warms caches on both sides.
    del bare[0], through_agent[0]
    return Answer(
        "publish -> process running, idle agent, one job of `true` at a time",
        [_figure(through_agent, bare, 0.5, 1.05, None), _figure(through_agent, bare, 0.99, 1.5, inf)],
        {"agent_ms": through_agent, "engine_ms": bare},
    )


def _figure(through_agent: list[float], bare: list[float], share: float, target: float, gross: float | None) -> Figure:
    name, value, floor = (
        f"publish to running, p{share * 100:.0f}",
        quantile(through_agent, share),
        quantile(bare, share),
    )
    return Figure(name, value, "ms", target, len(bare), floor, "the engine's create and start", gross=gross)


async def _bare(engine: Bare, events: Events) -> float:
    since = time.time_ns()
    name, container = await engine.create()
    await engine.start(container)
    took_ms = (await events.of("start", name) - since) / 1e6
    await engine.wait(container)
    await engine.remove(container)
    return took_ms


async def _published(link: NatsBroker, events: Events, spec: JobSpec) -> float:
    body = spec.model_dump_json(exclude_unset=True).encode()
    since = time.time_ns()
    job = (await link.jobs.publish(QUEUE, "true", body)).job
    async with asyncio.timeout(STARTED_S):
        took_ms = (await events.of("start", container_name(job, 1)) - since) / 1e6
        await _ended(link, job)
    return took_ms


async def _ended(link: NatsBroker, job: JobId) -> None:
    """Wait until the job is over and its agent holds nothing any more."""
    async with contextlib.aclosing(link.records.watch(job=job)) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.value is not None and change.value.state.terminal:
                break
    async with contextlib.aclosing(link.agents.watch()) as present:
        async for entry in present:
            if not isinstance(entry, Synced) and entry.value is not None and not entry.value.holds:
                return
