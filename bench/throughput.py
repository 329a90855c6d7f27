"""How many jobs of `true` an agent runs a second, beside a bare loop on the engine's socket; and what a job costs it.

The bare loop keeps as many lives under way as the agent has slots, with the same options for each container. The two
take turns, in blocks; a block ends with the engine's word that its last container is gone. The cost is the CPU time of
the agent's process in its blocks, less that of this process in the bare loop's.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import psutil

from bench.answer import Answer, Figure
from bench.engine import Bare, Events, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.subjects import container_name

LIMIT_S = 300.0


@dataclass(slots=True)
class Sum:
    """Of one side's blocks."""

    jobs: int = 0
    took_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, jobs: int, took_s: float, cpu_s: float) -> None:
        """Another block."""
        self.jobs += jobs
        self.took_s += took_s
        self.cpu_s += cpu_s

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.took_s

    @property
    def cost_ms(self) -> float:
        """CPU time a job."""
        return 1000 * self.cpu_s / self.jobs


async def measure(jobs: int, capacities: tuple[int, ...], blocks: int) -> Answer:
    """Jobs a second for `jobs` jobs at each capacity, in so many blocks a side."""
    figures: list[Figure] = []
    for capacity in capacities:
        ours, bare = await _at(capacity, jobs, blocks)
        name = f"capacity {capacity}"
        floor_name = "a bare loop"
        figures += [
            Figure(f"jobs/s, {name}", ours.rate, "/s", 0.95, jobs, bare.rate, floor_name, best="high"),
            Figure(
                f"agent CPU a job beyond the loop, {name}",
                ours.cost_ms - bare.cost_ms,
                "ms",
                8.0,
                jobs,
                bare.cost_ms,
                floor_name,
                target_of="value",
            ),
        ]
    return Answer(f"{jobs} jobs of `true`, agent and bare loop in turns of {jobs // blocks}", figures)


async def _at(capacity: int, jobs: int, blocks: int) -> tuple[Sum, Sum]:
    spec = JobSpec(job_type="true", image=await busybox(), command=("true",))
    queue, ours, bare = f"bench-throughput-{capacity}", Sum(), Sum()
    with nats_server() as url:
        async with (
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, queue, max_jobs=capacity) as pid,
        ):
            engine = Bare(session, spec)
            process = psutil.Process(pid)
            await of_agent(link, events, process, queue, spec, capacity)  # warms both sides
            await of_bare(engine, events, capacity, capacity)
            for _ in range(blocks):
                ours.add(*await of_agent(link, events, process, queue, spec, jobs // blocks))
                bare.add(*await of_bare(engine, events, jobs // blocks, capacity))
    return ours, bare


async def of_agent(
    link: NatsBroker, events: Events, process: psutil.Process, queue: str, spec: JobSpec, count: int
) -> tuple[int, float, float]:
    """One block: how many jobs, the seconds that they took, the agent's CPU seconds."""
    body = spec.model_dump_json(exclude_unset=True).encode()
    before, since = process.cpu_times(), time.monotonic()
    async with asyncio.timeout(LIMIT_S):
        acks = await asyncio.gather(*(link.jobs.publish(queue, "true", body) for _ in range(count)))
        for ack in acks:
            await events.of("destroy", container_name(ack.job, 1))
    took_s, after = time.monotonic() - since, process.cpu_times()
    return count, took_s, after.user + after.system - before.user - before.system


async def of_bare(engine: Bare, events: Events, count: int, capacity: int) -> tuple[int, float, float]:
    """One block: how many lives, the seconds that they took, this process's CPU seconds."""
    left, names = count, list[str]()

    async def worker() -> None:
        nonlocal left
        while left:
            left -= 1
            names.append(await engine.life())

    cpu_s, since = time.process_time(), time.monotonic()
    async with asyncio.TaskGroup() as workers:
        for _ in range(capacity):
            workers.create_task(worker())
    for name in names:
        await events.of("destroy", name)
    return count, time.monotonic() - since, time.process_time() - cpu_s
