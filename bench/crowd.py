"""What an agent costs that looks after many running containers: resident memory, and CPU over some seconds."""

from __future__ import annotations

import asyncio

import psutil

from bench.answer import Answer, Figure
from bench.engine import engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.client import Client
from launch.job import JobSpec
from launch.subjects import container_name

QUEUE = "bench-crowd"
LIMIT_S = 300.0
SETTLED_S = 5.0


async def measure(containers: int, seconds: float) -> Answer:
    """Let so many run, and watch their agent for `seconds`."""
    spec = JobSpec(job_type="sleep", image=await busybox(), command=("sleep", "3600"))
    with nats_server() as url:
        async with (
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, QUEUE, max_jobs=containers) as pid,
        ):
            client = Client(link)
            jobs = [await client.submit(QUEUE, spec) for _ in range(containers)]
            try:
                async with asyncio.timeout(LIMIT_S):
                    for job in jobs:
                        await events.of("start", container_name(job.id, 1))
                await asyncio.sleep(SETTLED_S)
                process = psutil.Process(pid)
                before = process.cpu_times()
                await asyncio.sleep(seconds)
                after = process.cpu_times()
                memory = process.memory_info().rss
            finally:
                for job in jobs:
                    await client.cancel(job.id)
                async with asyncio.timeout(LIMIT_S):
                    for job in jobs:
                        await job.wait()
    used_s = after.user + after.system - before.user - before.system
    name = f"{containers} containers"
    return Answer(
        f"what an agent costs while {containers} containers run",
        [
            Figure(f"resident memory, {name}", memory / 1e6, "MB", 120, 1, target_of="value"),
            Figure(f"share of a core, {name}", 100 * used_s / seconds, "%", 3.0, 1, target_of="value"),
        ],
        detail={"seconds": seconds},
    )
