"""How long a three-node cluster takes to hand out jobs again after the leader of their consumer was killed."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from nats.aio.client import Client as NatsClient

from bench.soak_scene import SHORT
from launch.adapters.nats import NatsBroker, connect
from launch.errors import LaunchError
from launch.ports import Synced
from launch.queue import QueueSpec, StaticProvider
from launch.subjects import JobId, work_stream
from tests.integration.chaos.agents import AgentProcess
from tests.support import engine
from tests.support.cluster import Cluster, consumer_info

QUEUE = "soak-leader"
LIMIT_S = 120.0


async def measure(image: str, kills: int) -> list[float]:
    """Seconds from each kill to the claim of a job that was submitted as soon as a server would take it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        cluster = Cluster(folder)
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        broker = await connect(cluster.url, name="soak", replicas=3)
        stack.push_async_callback(broker.close)
        await broker.queues.apply(QueueSpec(queue_name=QUEUE, provider=StaticProvider()))
        engine.remove_containers(f"launch.queue={QUEUE}")
        stack.callback(engine.remove_containers, f"launch.queue={QUEUE}")
        raw = NatsClient()
        await raw.connect(cluster.url.split(","), error_cb=_expected)
        stack.push_async_callback(raw.close)
        agent = AgentProcess("soak-leader", QUEUE, cluster.url, folder, broker, (*SHORT, "--max-jobs", "4"))
        stack.push_async_callback(agent.kill)
        await agent.start()
        body = json.dumps({"image": image, "command": ["true"]}).encode()
        await _ended(broker, await _submitted(broker, body))
        found = []
        for _ in range(kills):
            leader = str((await consumer_info(raw, work_stream(QUEUE), "train"))["cluster"]["leader"])
            await cluster.kill(leader)
            since = time.time()
            found.append(await _ended(broker, await _submitted(broker, body)) - since)
            await cluster.start()
        return found


async def _expected(_: Exception) -> None:
    """Connections break: that is what is measured."""


async def _submitted(broker: NatsBroker, body: bytes) -> JobId:
    msg_id = f"soak-leader-{time.time_ns()}"
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return (await broker.jobs.publish(QUEUE, "train", body, msg_id=msg_id)).job
            except LaunchError:
                await asyncio.sleep(0.1)


async def _ended(broker: NatsBroker, job: JobId) -> float:
    """Wait until the job is over; when it was claimed, in seconds since the epoch."""
    async with asyncio.timeout(LIMIT_S), aclosing(broker.records.watch(job=job)) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.value is not None and change.value.state.terminal:
                assert change.value.claimed_at is not None
                return change.value.claimed_at.timestamp()
    raise AssertionError("the watch ended")
