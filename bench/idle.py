"""What an agent costs that has nothing to do: resident memory, and CPU over some seconds."""

from __future__ import annotations

import asyncio

import psutil

from bench.answer import Answer, Figure
from bench.parts import agent, broker, nats_server

QUEUE = "bench-idle"


async def measure(seconds: float) -> Answer:
    """Watch one idle agent for `seconds`."""
    with nats_server() as url:
        async with broker(url) as link, agent(link, url, QUEUE, max_jobs=2) as pid:
            process = psutil.Process(pid)
            await asyncio.sleep(1.0)  # its first second is still start-up
            before = process.cpu_times()
            await asyncio.sleep(seconds)
            after = process.cpu_times()
            memory = process.memory_info().rss
    used_s = round(after.user + after.system - before.user - before.system, 3)  # the kernel counts in hundredths
    return Answer(
        "what an idle agent costs",
        [
            Figure("resident memory", memory / 1e6, "MB", 70, 1, target_of="value"),
            Figure("share of a core", 100 * used_s / seconds, "%", 0.2, 1, target_of="value"),
        ],
        detail={"seconds": seconds},
    )
