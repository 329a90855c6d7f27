"""Lives in network namespaces that are kept ready, beside the engine's own on its default bridge.

Both are plain requests on the engine's socket with the body that the agent sends, in turns. The one kind joins what the
agent's own pool has ready: a life ends with the removal, and the look at what it has left comes after that, beside the
next life; a block ends with the last look. Then an agent with `network_pool: true` runs jobs, in turns with the bare
loop on the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import psutil

from agent.adapters.docker import DockerEngine
from agent.core.netns import pool_size
from agent.netns import NetworkPool
from bench.answer import Answer, Figure, quantile
from bench.engine import API, Bare, Events, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from bench.throughput import Sum, of_agent, of_bare
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.ports import Synced
from launch.subjects import LABEL_AGENT, LABEL_KEEPER

AT_ONCE = 8
FILLED_S = 60.0
OTHER_NAMES = 1_000_000
FLOOR = "on the bridge"
_LOOK_S = 0.1


class _Timed(Bare):
    """Containers on the bridge; how long each life took."""

    def __init__(self, session: aiohttp.ClientSession, spec: JobSpec, *, after: int = 0) -> None:
        super().__init__(session, spec, after=after)
        self.took_ms: list[float] = []

    async def life(self) -> str:
        """All of it, one after the other; its name."""
        since = time.perf_counter()
        name = await super().life()
        self.took_ms.append(1000 * (time.perf_counter() - since))
        return name


class _Pooled(_Timed):
    """Containers that join a namespace which is ready, where there is one."""

    def __init__(
        self, session: aiohttp.ClientSession, spec: JobSpec, pool: NetworkPool, *, after: int = OTHER_NAMES
    ) -> None:
        super().__init__(session, spec, after=after)
        self._pool = pool
        self._parting: set[asyncio.Task[None]] = set()
        self.without = 0
        """How many found none ready."""

    def changed(self, name: str, body: dict[str, Any]) -> None:
        """As the agent's runner does it."""
        self._pool.join(name, body)
        self.without += body["HostConfig"]["NetworkMode"] == "bridge"

    async def life(self) -> str:
        """All of it; the namespace goes back while the next life begins, as in an agent."""
        name = await super().life()
        self._parting.add(asyncio.create_task(self._pool.part(name)))
        return name

    async def parted(self) -> None:
        """Wait until all have gone back."""
        await asyncio.gather(*self._parting)
        self._parting.clear()


async def measure(lives: int, jobs: int, blocks: int) -> Answer:
    """`lives` of each kind one at a time, then `jobs` of each kind `AT_ONCE` at a time, in so many blocks a side."""
    spec = JobSpec(job_type="true", image=await busybox(), command=("true",))
    async with engine_socket() as session, engine_events(session) as events:
        async with _pool(1) as pool:
            alone, pooled = _Timed(session, spec), _Pooled(session, spec, pool)
            for _ in range(lives + 1):
                await alone.life()
                await pooled.life()
                await pooled.parted()
        async with _pool(AT_ONCE) as pool:
            many, crowd = (
                _Timed(session, spec, after=2 * OTHER_NAMES),
                _Pooled(session, spec, pool, after=3 * OTHER_NAMES),
            )
            bare, kept = Sum(), Sum()
            for _ in range(blocks):
                since, (count, _, cpu_s) = time.monotonic(), await of_bare(crowd, events, jobs // blocks, AT_ONCE)
                await crowd.parted()
                kept.add(count, time.monotonic() - since, cpu_s)
                bare.add(*await of_bare(many, events, jobs // blocks, AT_ONCE))
        ours, beside = await _through_an_agent(session, events, many, spec, jobs, blocks)
    # The first of each warms caches on both sides.
    one, floor = pooled.took_ms[1:], alone.took_ms[1:]
    figures = [
        Figure("life of one, p50", quantile(one, 0.5), "ms", 0.6, lives, quantile(floor, 0.5), FLOOR),
        Figure("life of one, p90", quantile(one, 0.9), "ms", 0.6, lives, quantile(floor, 0.9), FLOOR, gross=inf),
        Figure(f"lives/s, {AT_ONCE} at once", kept.rate, "/s", 1.8, jobs, bare.rate, FLOOR, best="high"),
        Figure(f"jobs/s of an agent, capacity {AT_ONCE}", ours.rate, "/s", 1.8, jobs, beside.rate, FLOOR, best="high"),
    ]
    samples = {"one in a kept namespace": one, "one on the bridge": floor}
    detail = {
        "lives that found no namespace ready": {"one": pooled.without, f"{AT_ONCE} at once": crowd.without},
        "p50 ms of a life, so many at once": {
            "kept": quantile(crowd.took_ms, 0.5),
            "bridge": quantile(many.took_ms, 0.5),
        },
    }
    return Answer("a life of `true` in a network namespace that is kept ready", figures, samples, detail)


@contextlib.asynccontextmanager
async def _pool(slots: int) -> AsyncIterator[NetworkPool]:
    """The pool that an agent with so many slots has, full."""
    engine = DockerEngine()
    pool = NetworkPool(engine, "launch-bench-netns", size=pool_size(slots), machine=(await engine.info()).machine)
    running = asyncio.create_task(pool.run())
    try:
        await asyncio.wait_for(pool.settled(), FILLED_S)
        yield pool
    finally:
        running.cancel()
        await asyncio.wait({running})
        await pool.close()
        await engine.close()


async def _through_an_agent(
    session: aiohttp.ClientSession, events: Events, bare: Bare, spec: JobSpec, jobs: int, blocks: int
) -> tuple[Sum, Sum]:
    queue, ours, beside = "bench-netns", Sum(), Sum()
    with nats_server() as url, TemporaryDirectory() as folder:
        policy = Path(folder) / "agent.yaml"
        policy.write_text("network_pool: true\n")
        async with broker(url) as link, agent(link, url, queue, max_jobs=AT_ONCE, policy=policy) as pid:
            process = psutil.Process(pid)
            await _filled(session, await _agent_of(link, queue))
            await of_agent(link, events, process, queue, spec, AT_ONCE)
            for _ in range(blocks):
                ours.add(*await of_agent(link, events, process, queue, spec, jobs // blocks))
                beside.add(*await of_bare(bare, events, jobs // blocks, AT_ONCE))
    return ours, beside


async def _agent_of(link: NatsBroker, queue: str) -> str:
    async with contextlib.aclosing(link.agents.watch()) as present:
        async for entry in present:
            if not isinstance(entry, Synced) and entry.value is not None and entry.value.queue == queue:
                return entry.key
    raise AssertionError("a watch does not end")


async def _filled(session: aiohttp.ClientSession, agent_id: str) -> None:
    """Wait until the agent's pool is full, which it tells nobody."""
    labels = {"label": [f"{LABEL_AGENT}={agent_id}", LABEL_KEEPER], "status": ["running"]}
    async with asyncio.timeout(FILLED_S):
        while True:
            async with session.get(f"{API}/containers/json", params={"filters": json.dumps(labels)}) as answer:
                if len(await answer.json()) == pool_size(AT_ONCE):
                    return
            await asyncio.sleep(_LOOK_S)
