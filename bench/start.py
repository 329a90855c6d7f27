"""How long from publish to a running process on an idle agent, beside the engine's own create and start.

The two are taken in turns within one run. Both end at the engine's own `start` event; the floor begins at a raw
`create` request with the very body that the agent sends, the agent's figure at the publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import aiohttp

from agent.core.container import ContainerPolicy, container_config
from bench.answer import Answer, Figure, quantile
from bench.parts import API, agent, broker, busybox, engine_socket, nats_server
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.ports import Synced
from launch.subjects import JobId, container_name

QUEUE = "bench-start"
STARTED_S = 30.0


class StartTimes:
    """When the engine started each container, by name: nanoseconds since the epoch, from its own events."""

    def __init__(self) -> None:
        self._times: dict[str, asyncio.Future[int]] = {}

    def of(self, name: str) -> asyncio.Future[int]:
        """The moment, once it has come."""
        return self._times.setdefault(name, asyncio.get_running_loop().create_future())

    async def follow(self, session: aiohttp.ClientSession, ready: asyncio.Event) -> None:
        """Take in the engine's events until cancelled."""
        filters = json.dumps({"type": ["container"], "event": ["start"]})
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(f"{API}/events", params={"filters": filters}, timeout=timeout) as events:
            ready.set()
            async for line in events.content:
                event = json.loads(line)
                self.of(event["Actor"]["Attributes"]["name"]).set_result(int(event["timeNano"]))


@contextlib.asynccontextmanager
async def start_times(session: aiohttp.ClientSession) -> AsyncIterator[StartTimes]:
    """Engine start events within this block."""
    times = StartTimes()
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(times.follow(session, ready), name="engine events")
        await ready.wait()
        try:
            yield times
        finally:
            following.cancel()


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
            start_times(session) as times,
            agent(link, url, QUEUE, max_jobs=1),
        ):
            for number in range(jobs + 1):
                bare.append(await _bare(session, times, spec, number))
                through_agent.append(await _published(link, times, spec))
    # The first of each warms caches on both sides.
    del bare[0], through_agent[0]
    return Answer(
        "publish -> process running, idle agent, one job of `true` at a time",
        [_figure(through_agent, bare, 0.5, 1.05), _figure(through_agent, bare, 0.99, 1.5)],
        {"agent_ms": through_agent, "engine_ms": bare},
    )


def _figure(through_agent: list[float], bare: list[float], share: float, target: float) -> Figure:
    name = f"publish to running, p{share * 100:.0f}"
    floor = quantile(bare, share)
    return Figure(name, quantile(through_agent, share), "ms", target, len(bare), floor, "the engine's create and start")


async def _bare(session: aiohttp.ClientSession, times: StartTimes, spec: JobSpec, number: int) -> float:
    name = f"launch-bench-bare-{number}"
    body = container_config(spec, JobId("bench-bare", number + 1), 1, "bench", "", ContainerPolicy(), (), env={})
    since = time.time_ns()
    async with session.post(f"{API}/containers/create", params={"name": name}, json=body) as answer:
        container = (await answer.json())["Id"]
    async with session.post(f"{API}/containers/{container}/start") as answer:
        answer.raise_for_status()
    took_ms = (await times.of(name) - since) / 1e6
    async with session.post(f"{API}/containers/{container}/wait") as answer:
        await answer.read()
    async with session.delete(f"{API}/containers/{container}", params={"force": "1"}) as answer:
        await answer.read()
    return took_ms


async def _published(link: NatsBroker, times: StartTimes, spec: JobSpec) -> float:
    body = spec.model_dump_json(exclude_unset=True).encode()
    since = time.time_ns()
    job = (await link.jobs.publish(QUEUE, "true", body)).job
    async with asyncio.timeout(STARTED_S):
        took_ms = (await times.of(container_name(job, 1)) - since) / 1e6
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
