"""How long from a publish to RunInstances on the wire, with a queue at zero and everything at rest.

The scaler is the real command in a process of its own, EC2 is moto behind the proxy that takes the time. Each publish
finds its queue without instances; the instance that comes runs the job, is drained and leaves, and the next publish to
that queue waits for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from bench.answer import Answer, Figure, quantile
from bench.parts import broker, nats_server
from launch.adapters.nats import NatsBroker
from launch.aws import AwsProvider, NatsAccess
from launch.ports import Synced
from launch.queue import QueueSpec
from tests.support.aws_proxy import AwsProxy
from tests.support.docker_run import DockerRun
from tests.support.ec2_faults import Ec2Instance
from tests.support.fleet_agent import AgentCall
from tests.support.moto import REGION, MotoServer
from tests.support.quick_agents import IMAGE, QuickAgents, command
from tests.support.scaler_process import environment, scaler_process

QUEUES = 8
APART_S = 0.7
"""The scaler keeps to EC2's own limit, two launches a second in the long run: faster ones would measure that."""
LIMIT_S = 30.0
TAG = "nats-launch:queue"


class Machines:
    """An agent for each instance, in this process; the instance ends when the agent has left."""

    def __init__(self, proxy: AwsProxy, url: str, folder: Path) -> None:
        self._proxy = proxy
        self._url = url
        self._folder = folder
        self._agents = QuickAgents(presence_ttl_s=10.0, ack_wait_s=30.0)
        self._lives: set[asyncio.Task[None]] = set()
        proxy.on_launch = self._launched

    def _launched(self, instance: Ec2Instance, _user_data: str) -> None:
        life = asyncio.get_running_loop().create_task(self._live(instance))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _live(self, instance: Ec2Instance) -> None:
        words = ("agent", "--queue", instance.tags[TAG], "--server", self._url, "--agent-id", instance.id)
        agent = await self._agents.start(AgentCall(words, {}, self._folder, DockerRun()))
        await agent.wait()
        await self._proxy.shut_down(instance.id)


async def measure(publishes: int) -> Answer:
    """Milliseconds for so many publishes, one at a time, over several queues."""
    # The agents here are in this process, and what they say is not what is asked.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    took_ms: list[float] = []
    moto = await asyncio.to_thread(MotoServer().start)
    with TemporaryDirectory() as text, contextlib.ExitStack() as ends, nats_server() as url:
        ends.callback(moto.stop)
        folder = Path(text)
        async with AsyncExitStack() as stack:
            link = await stack.enter_async_context(broker(url))
            proxy = await stack.enter_async_context(AwsProxy(moto.url))
            Machines(proxy, url, folder)
            names = [f"bench-{number}" for number in range(QUEUES)]
            for name in names:
                await link.queues.apply(_spec(name, url))
            await stack.enter_async_context(scaler_process(folder, environment(folder, url, proxy.url), *names))
            await proxy.until(lambda: len(proxy.calls("DescribeInstances")) >= QUEUES, LIMIT_S)
            for number in range(publishes + QUEUES):
                took_ms.append(await _published(link, proxy, names[number % QUEUES]))
                await asyncio.sleep(APART_S)
    # The first of each queue warms what is kept.
    del took_ms[:QUEUES]
    return Answer(
        "publish -> RunInstances on the wire, queue at zero, one publish at a time",
        [Figure("publish to RunInstances, p99", quantile(took_ms, 0.99), "ms", 150, publishes, target_of="value")],
        {"launch_ms": took_ms},
        {"p50_ms": quantile(took_ms, 0.5), "max_ms": max(took_ms)},
    )


def _spec(name: str, url: str) -> QueueSpec:
    return QueueSpec(
        queue_name=name,
        provider=AwsProvider(region=REGION, instance_type="m5.large", nats=NatsAccess(url=url)),
        agent_image="example/agent:1",
        max_instances=3,  # One that has ended counts until the scaler has looked at EC2 again.
        idle_timeout=0.2,
    )


async def _published(link: NatsBroker, proxy: AwsProxy, queue: str) -> float:
    """Once the queue's last instance is gone, and its agent."""

    def launches() -> list[float]:
        return [call.at for call in proxy.calls("RunInstances") if call.tags.get(TAG) == queue]

    await proxy.until(lambda: not any(one.tags[TAG] == queue for one in proxy.live()), LIMIT_S)
    await _absent(link, queue)
    before = len(launches())
    body = json.dumps({"image": IMAGE, "command": command(0.01), "resources": {"cpu": 1}}).encode()
    at = time.time()
    await link.jobs.publish(queue, "t", body)
    await proxy.until(lambda: len(launches()) > before, LIMIT_S)
    return (launches()[before] - at) * 1000


async def _absent(link: NatsBroker, queue: str) -> None:
    """Wait until no agent of the queue is there."""
    present: set[str] = set()
    synced = False
    async with asyncio.timeout(LIMIT_S), aclosing(link.agents.watch()) as changes:
        async for change in changes:
            if isinstance(change, Synced):
                synced = True
            elif change.value is None:
                present.discard(change.key)
            elif change.value.queue == queue:
                present.add(change.key)
            if synced and not present:
                return
