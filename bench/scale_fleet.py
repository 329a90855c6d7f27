"""Many agents on one broker: how many jobs a second they take, and how long one waits until it is an agent's.

The agents are the real code with a container engine in memory, each with its own connection, in as many processes as
there are cores. A job's time is from its publish to the agent's request to create its container. Floor: as many bare
nats-py connections that wait for a message and ack it; that loop is a part of what an agent has to do, so on this
machine no agent in this language does better. Both are given jobs at a rate, which is raised until they fall far
behind. Kept up with is the highest at which every job was taken, and the wait's p99 was within its bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from bench.answer import Answer, Figure, quantile
from bench.parts import broker
from launch.adapters.nats import NatsBroker
from launch.ports import NewJob
from launch.queue import QueueSpec, StaticProvider
from launch.subjects import Priority, WorkConsumer
from tests.support.nats_server import NatsServer

TYPE = "t"
WANTED_RATE = 5000.0
RATES = (50.0, 100.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0, 1600.0, 2400.0, 3200.0, 5000.0)
WAIT_MS = 100.0
HOPELESS_MS = 2000.0
"""On a busy machine a low rate may just miss the bound, and a higher one keep it: no rate above one like this does."""
TICK_S = 0.02
READY_S = 300.0
DONE_S = 60.0


@dataclass(frozen=True, slots=True)
class Round:
    """What jobs at one rate came to: waits in milliseconds, how many were lost or came twice, CPU seconds a job."""

    rate: float
    jobs: int
    waits_ms: list[float]
    lost: int
    twice: int
    broker_s: float
    agents_s: float

    @property
    def kept_up(self) -> bool:
        """Whether it goes on like this."""
        return not self.lost and quantile(self.waits_ms, 0.99) <= WAIT_MS


async def measure(agents: int, rates: tuple[float, ...], seconds: float) -> Answer:
    """The highest of the rates at which so many agents keep up, and so many bare connections."""
    ours = await _highest("agents", agents, rates, seconds)
    bare = await _highest("bare", agents, rates, seconds)
    best, floor = _best(ours), _best(bare)
    p99, floor_p99 = (quantile(one.waits_ms, 0.99) for one in (best, floor))
    name = f"{agents:,} bare connections"
    return Answer(
        f"{agents:,} agents on one broker, jobs at a steady rate for {seconds:g} s",
        [
            Figure("kept up with", best.rate, "jobs/s", WANTED_RATE, len(ours), floor.rate, name, "value", best="high"),
            Figure("wait at that rate, p99", p99, "ms", WAIT_MS, best.jobs, floor_p99, name, "value"),
            Figure("lost", float(sum(one.lost for one in ours)), "jobs", 0.0, len(ours), target_of="value"),
        ],
        {"wait_ms": best.waits_ms, "bare_ms": floor.waits_ms},
        {f"{kind} {one.rate:.0f}/s": _told(one) for kind, found in (("agents", ours), ("bare", bare)) for one in found},
    )


def _best(rounds: list[Round]) -> Round:
    """The highest rate that was kept up with; where none was, the lowest that was tried."""
    return max((one for one in rounds if one.kept_up), key=lambda one: one.rate, default=rounds[0])


def _told(one: Round) -> dict[str, float]:
    return {
        "p50_ms": quantile(one.waits_ms, 0.5),
        "p99_ms": quantile(one.waits_ms, 0.99),
        "lost": one.lost,
        "twice": one.twice,
        "broker_cpu_ms_a_job": 1000 * one.broker_s / one.jobs,
        "agents_cpu_ms_a_job": 1000 * one.agents_s / one.jobs,
    }


async def _highest(kind: str, agents: int, rates: tuple[float, ...], seconds: float) -> list[Round]:
    """Rounds at rising rates, up to the first that was far too much."""
    rounds: list[Round] = []
    queue = "fleet"
    with TemporaryDirectory() as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            async with broker(server.url) as link:
                await link.queues.apply(QueueSpec(queue_name=queue, provider=StaticProvider()))
                types = link.work.consumers(queue, (TYPE,))
                await anext(types)
                async with _hosts(kind, server.url, queue, agents) as hosts:
                    for rate in rates:
                        await _all_wait(link, queue, agents)
                        rounds.append(await _round(link, server.pid, hosts, queue, rate, seconds))
                        print(f"  {agents} {kind} at {rate:.0f}/s: {_told(rounds[-1])}", flush=True)
                        if rounds[-1].lost or quantile(rounds[-1].waits_ms, 0.99) > HOPELESS_MS:
                            break
                await types.aclose()
        finally:
            server.stop()
    return rounds


async def _round(
    link: NatsBroker, server: int, hosts: list[asyncio.subprocess.Process], queue: str, rate: float, seconds: float
) -> Round:
    for one in hosts:
        await _asked(one)  # it tidies its memory up after that
    before = _cpu_s(server), sum(_cpu_s(one.pid) for one in hosts)
    sent = await _publish(link, queue, rate, seconds)
    await _drained(link, queue)
    after = _cpu_s(server), sum(_cpu_s(one.pid) for one in hosts)
    came = [found for one in hosts for found in await _asked(one)]
    counts = Counter(at for at, _ in came)
    waits_ms = [(got - at) / 1e6 for at, got in came] or [1000 * DONE_S]
    twice = sum(count - 1 for count in counts.values())
    lost = len(set(sent) - counts.keys())
    return Round(rate, len(sent), waits_ms, lost, twice, after[0] - before[0], after[1] - before[1])


@contextlib.asynccontextmanager
async def _hosts(kind: str, url: str, queue: str, agents: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """As many processes as cores, with the agents divided among them; killed at the end if they still run."""
    count = min(os.cpu_count() or 1, agents)
    hosts: list[asyncio.subprocess.Process] = []
    try:
        for place in range(count):
            share = range(agents)[place::count]
            command = ("-m", "bench.scale_fleet_host", kind, url, queue, str(place * agents), str(len(share)))
            pipe = asyncio.subprocess.PIPE
            hosts.append(
                await asyncio.create_subprocess_exec(sys.executable, *command, stdin=pipe, stdout=pipe, limit=2**28)
            )
        for one in hosts:
            assert one.stdout is not None
            assert await one.stdout.readline() == b"ready\n"
        yield hosts
    finally:
        for one in hosts:
            if one.returncode is None:
                one.kill()  # their jobs are in their own memory
            await one.wait()


async def _asked(host: asyncio.subprocess.Process) -> list[tuple[int, int]]:
    """What came there since it was asked last."""
    assert host.stdin is not None
    assert host.stdout is not None
    host.stdin.write(b"what came?\n")
    async with asyncio.timeout(READY_S):
        return [(at, got) for at, got in json.loads(await host.stdout.readline())]


async def _all_wait(link: NatsBroker, queue: str, agents: int) -> None:
    """Until every agent has a pull waiting."""
    async with asyncio.timeout(READY_S):
        # No event says so; a look costs the server nothing beside a thousand starts.
        while await _status(link, queue, "waiting") < agents:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def _drained(link: NatsBroker, queue: str) -> None:
    """Until nothing lies in the queue any more, or what is lost is lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DONE_S):
            while (await link.jobs.depth(queue, by_subject=False)).messages:  # noqa: ASYNC110  (no event says so)
                await asyncio.sleep(0.1)


async def _status(link: NatsBroker, queue: str, what: str) -> int:
    found = (await link.queues.status(queue)).consumers
    consumer = WorkConsumer(TYPE, Priority.MEDIUM)
    return sum(int(getattr(status, what)) for status in found if status.consumer == consumer)


async def _publish(link: NatsBroker, queue: str, rate: float, seconds: float) -> list[int]:
    """Jobs at a rate, a tick's worth at a time; the marks that they carry: when each was sent, none twice."""
    sent: list[int] = []
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        due = int(rate * passed) - len(sent)
        now = max(time.time_ns(), sent[-1] + 1 if sent else 0)
        marks = [now + number for number in range(min(due, 1000))]
        if marks:
            bodies = (json.dumps({"image": "job", "command": ["run", str(mark)]}).encode() for mark in marks)
            jobs = [NewJob(TYPE, Priority.MEDIUM, body) for body in bodies]
            await link.jobs.publish_batch(queue, jobs, msg_id=str(marks[0]))
            sent += marks
        await asyncio.sleep(TICK_S)
    return sent


def _cpu_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)
