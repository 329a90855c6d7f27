"""How fast output comes to the broker, beside reading the same log from the engine with no broker.

Throughput: containers that print as fast as they can are followed in turns by the agent's pump, up to the last byte
stored, and by one plain HTTP request with the same parameters, whose bytes are thrown away. Both run on the loop that
the agent runs on. Whole and lean: a job of a real agent prints random text, which must come back with the checksum that
the container itself took; the memory is the agent process's highest. Latency: a job prints the time, line by line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import statistics
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from agent.adapters.docker import DockerEngine
from agent.logs import LogPump
from bench.answer import Answer, Figure, quantile
from bench.engine import API, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.adapters.nats import NatsBroker
from launch.client import Client
from launch.job import JobSpec
from launch.lines import LineJoiner
from launch.ports import Logs
from launch.subjects import JobId
from tests.support.images import build

QUEUE = "bench-logs"
LINE = "step 000123 loss 0.4567 accuracy 0.8912 learning-rate 0.001 epoch 12 batch 33"
MB = 1_000_000
PYTHON = "nats-launch/python:local"
PRINTER = """
import sys, time
due = time.monotonic()
for _ in range(int(sys.argv[1])):
    sys.stdout.write(f"{time.time_ns()}\\n")
    sys.stdout.flush()
    due += 1 / int(sys.argv[2])
    time.sleep(max(0, due - time.monotonic()))
"""


async def measure(rounds: int, size_mb: int, whole_mb: int, seconds: int) -> Answer:
    """Medians over `rounds` of MB/s and of their ratio; then `whole_mb` through an agent; then latencies in ms."""
    flow = await _on_uvloop(_throughput(rounds, size_mb))
    whole = await _on_uvloop(_through_an_agent(whole_mb, seconds))
    latency_ms, lines = whole["latency_p99_ms"], whole["lines"]
    return Answer(
        "output to the broker, beside reading the same log from the engine with no broker",
        [
            # The median of neighbours' ratios, as a rate: what else the machine does changes from round to round.
            Figure(
                "output stored",
                flow["ratio"] * flow["engine_mb_s"],
                "MB/s",
                0.8,
                rounds,
                flow["engine_mb_s"],
                "reading it from the engine",
                best="high",
            ),
            Figure(f"memory for {whole_mb} MB", whole["agent_peak_mb"], "MB", 150, 1, target_of="value"),
            Figure("printed to subscriber, p99", latency_ms, "ms", 100, lines, target_of="value"),
        ],
        detail={**flow, **whole},
    )


async def _on_uvloop(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    def run() -> dict[str, Any]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    return await asyncio.to_thread(run)


# -- throughput -----------------------------------------------------------------------------------------------------


async def _throughput(rounds: int, size_mb: int) -> dict[str, Any]:
    image = await busybox()
    command = ["sh", "-c", f"yes '{LINE}' | head -c {size_mb * MB}"]
    engine = DockerEngine()
    rates: dict[str, list[float]] = {"engine": [], "broker": []}
    with nats_server() as url:
        async with broker(url) as link, engine_socket() as session:
            for number in range(2 * rounds):
                # Either is first in every other round.
                kind = ("engine", "broker")[(number + number // 2) % 2]
                config = {"Image": image, "Cmd": command, "HostConfig": {"NetworkMode": "none"}}
                container = await engine.create(f"{QUEUE}-{number}", config)
                try:
                    began = time.perf_counter()
                    await engine.start(container)
                    if kind == "engine":
                        size = await _plain(session, container)
                        assert size > size_mb * MB
                    else:
                        size = await _pumped(engine, link.logs, number, container)
                        assert size == size_mb * MB
                    rates[kind].append(size_mb / (time.perf_counter() - began))
                finally:
                    await engine.remove(container)
    await engine.close()
    ratios = [ours / floor for ours, floor in zip(rates["broker"], rates["engine"], strict=True)]
    return {
        "rounds": rounds,
        "size_mb": size_mb,
        "engine_mb_s": statistics.median(rates["engine"]),
        "broker_mb_s": statistics.median(rates["broker"]),
        # Of neighbours: what else the machine does changes from round to round.
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


async def _plain(session: aiohttp.ClientSession, container: str) -> int:
    parameters = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1"}
    size = 0
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(f"{API}/containers/{container}/logs", params=parameters, timeout=timeout) as answer:
        async for data in answer.content.iter_any():
            size += len(data)
    return size


async def _pumped(engine: DockerEngine, logs: Logs, number: int, container: str) -> int:
    pump = LogPump(engine, logs, JobId(QUEUE, number + 1), 1, container, max_bytes=2**40)
    async with asyncio.TaskGroup() as group:
        group.create_task(pump.run(), name="pump")
        await engine.wait(container)
        counts = await pump.finish()
    assert counts.error is None
    return counts.size_bytes


# -- through an agent -----------------------------------------------------------------------------------------------


async def _through_an_agent(whole_mb: int, seconds: int) -> dict[str, Any]:
    await asyncio.to_thread(build, "python", PYTHON)
    with nats_server() as url:
        async with broker(url) as link, agent(link, url, QUEUE, max_jobs=1) as pid:
            client = Client(link)
            result = await _whole(client, link, whole_mb)
            result["agent_peak_mb"] = _peak_mb(pid)
            result |= await _latency(client, seconds, 1000)
            return result


async def _whole(client: Client, link: NatsBroker, size_mb: int) -> dict[str, Any]:
    # Of 76 characters and a line end come 57 bytes.
    script = f"head -c {size_mb * MB * 57 // 77} /dev/urandom | base64 -w 76 | tee /tmp/out; sha256sum /tmp/out >&2"
    spec = JobSpec(job_type="t", image=await busybox(), command=["sh", "-c", script], max_log_bytes="1Gi")
    began = time.perf_counter()
    job = await client.submit(QUEUE, spec)
    record = await job.wait()
    took_s = time.perf_counter() - began
    taken, said, size = hashlib.sha256(), b"", 0
    async with aclosing(link.logs.read(job.id)) as chunks:
        async for chunk in chunks:
            if chunk.source == "stdout":
                taken.update(chunk.data)
                size += len(chunk.data)
            else:
                said += chunk.data
    return {
        "whole_state": str(record.state),
        "whole_mb": size / MB,
        "whole_s": took_s,
        "whole_equal": said.split()[:1] == [taken.hexdigest().encode()],
    }


async def _latency(client: Client, seconds: int, rate: int) -> dict[str, Any]:
    """From the job's own clock before a line is printed to a subscriber that has it as a line."""
    command = ["python3", "-c", PRINTER, str(seconds * rate), str(rate)]
    job = await client.submit(QUEUE, JobSpec(job_type="t", image=PYTHON, command=command))
    waits_ms: list[float] = []
    async for text, seen_ns in _lines(client, job.id):
        waits_ms.append((seen_ns - int(text)) / 1e6)
        if len(waits_ms) == seconds * rate:
            break
    await job.wait()
    return {
        "lines": len(waits_ms),
        "lines_s": rate,
        "latency_p50_ms": quantile(waits_ms, 0.5),
        "latency_p99_ms": quantile(waits_ms, 0.99),
        "latency_max_ms": max(waits_ms),
    }


async def _lines(client: Client, job: JobId) -> AsyncIterator[tuple[str, int]]:
    joiner = LineJoiner()
    async with aclosing(client.broker.logs.read(job, follow=True)) as chunks:
        async for chunk in chunks:
            seen_ns = time.time_ns()
            for line in joiner.feed(chunk):
                yield line.text, seen_ns


def _peak_mb(pid: int) -> float:
    """The most memory that the process has held at any time."""
    with contextlib.suppress(StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / MB
    return float("nan")
