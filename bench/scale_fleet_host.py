"""One process with many agents: `python -m bench.scale_fleet_host KIND URL QUEUE FIRST COUNT`; see `bench.scale_fleet`.

`agents` are the real agent's code, each with its own connection, on a container engine in memory. `bare` does what no
agent could do without: as many connections of nats-py, each waiting for a message and acking it, and nothing else.
Says `ready`; to each line of its input it says what came since the last, as a line of JSON: `[sent, came]` of each job
in nanoseconds since the epoch. It stops when its input is closed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
import nats.errors
import structlog
import uvloop

from agent.main import Agent
from agent.settings import AgentSettings
from launch.adapters.clock import SystemClock
from launch.adapters.nats import connect
from launch.policy import AgentPolicy
from launch.subjects import PULL_GROUP, work_stream
from tests.fakes.engine import FakeEngine

IMAGE = "job"
TYPE = "t"
PRESENCE_S = 120.0
"""So long, that 1,000 agents' signs of life are no load of their own."""
PULL_S = 60.0

came: list[tuple[int, int]] = []


class NotingEngine(FakeEngine):
    """Its containers end as soon as they are started; it notes when each was asked for."""

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """The job's command says when it was published."""
        command = list(config.get("Cmd") or ())
        if len(command) == 2:
            came.append((int(command[1]), time.time_ns()))
        self.calls.clear()
        return await super().create(name, config)


async def _agent(
    url: str, queue: str, agent_id: str, folder: Path, starts: asyncio.Semaphore, stop: asyncio.Event
) -> None:
    async with starts:
        broker = await connect(url, name=agent_id, ack_wait_s=60.0, timeout_s=60.0)
    try:
        engine = NotingEngine(images=[IMAGE], clock=SystemClock())
        settings = AgentSettings(
            queue=queue,
            agent_id=agent_id,
            job_types=(TYPE,),
            data_dir=folder,
            cpu_milli=1000,
            memory_bytes=2**30,
            presence_ttl_s=PRESENCE_S,
            policy=AgentPolicy(network_pool=False),
            max_jobs=4,
        )
        spec, info = await broker.queues.get(queue), await engine.info()
        await Agent(broker, engine, SystemClock(), settings, spec, info, agent_id, ()).run(stop, stop)
    finally:
        await broker.close()


async def _bare(url: str, queue: str, starts: asyncio.Semaphore, stop: asyncio.Event) -> None:
    async with starts:
        client = await nats.connect(url, connect_timeout=60)
    inbox = client.new_inbox()
    sub = await client.subscribe(inbox)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{work_stream(queue)}.{TYPE}"
    request = json.dumps({"batch": 1, "expires": int(PULL_S * 1e9), "group": PULL_GROUP, "priority": 0}).encode()
    while not stop.is_set():
        await client.publish(subject, request, reply=inbox)
        try:
            msg = await sub.next_msg(timeout=2 * PULL_S)
        except (nats.errors.TimeoutError, nats.errors.ConnectionClosedError):
            continue
        if msg.reply:
            came.append((int(json.loads(msg.data)["command"][1]), time.time_ns()))
            await client.publish(msg.reply, b"+ACK")


async def host(kind: str, url: str, queue: str, first: int, count: int) -> None:
    """Run them until the input is closed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    starts, stop = asyncio.Semaphore(10), asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with TemporaryDirectory() as folder:
        lives = []
        for number in range(first, first + count):
            life = (
                _bare(url, queue, starts, stop)
                if kind == "bare"
                else _agent(url, queue, f"fleet-{number}", Path(folder) / str(number), starts, stop)
            )
            lives.append(asyncio.create_task(life, name=f"agent {number}"))
        print("ready", flush=True)
        while await reader.readline():
            answer = json.dumps(came)
            came.clear()
            gc.collect()
            gc.freeze()  # an agent's own heap is a five-hundredth of this one: nobody waits so long for its collection
            print(answer, flush=True)
        stop.set()
        for task in lives:
            task.cancel()
        await asyncio.gather(*lives, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(host(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
