"""A queue, agents as processes, and the engine's own account of what ran.

Times are shorter than the real ones by about a factor of four, and long enough for a machine with other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from agent.adapters.docker import DockerEngine
from launch.adapters.nats import NatsBroker, connect
from launch.client import Client
from launch.core.states import State
from launch.ports import Synced
from launch.queue import QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.subjects import JobId
from tests.integration.agent_lab import Lab
from tests.integration.chaos.agents import AgentProcess
from tests.integration.chaos.events import Runs, watched
from tests.support import engine
from tests.support.cluster import consumer_info

LEASE_S = 4
ACK_WAIT_S = 3
SHORT = ("--presence-ttl", f"{LEASE_S}s", "--ack-wait", f"{ACK_WAIT_S}s")
TAKEN_OVER_S = LEASE_S + ACK_WAIT_S
"""What is promised for the take-over of a lost agent's job, but for what the machine takes to do it."""
SLACK_S = 10.0
"""What a machine with other work may take to do it."""

COUNT = "echo start $LAUNCH_ATTEMPT; i=0; trap 'echo end $i; exit 0' USR1; while :; do i=$((i+1)); echo $i; done"


def counting(pause_s: float = 0.02) -> list[str]:
    """A job that counts, a line each, until SIGUSR1: then it says how far it came."""
    return ["sh", "-c", COUNT.replace("echo $i; done", f"echo $i; sleep {pause_s}; done")]


def exact(output: bytes, attempt: int = 1) -> bool:
    """Whether this is the whole output of a job that counted: no line lost, none doubled, in order."""
    lines = output.decode().splitlines()
    count = int(lines[-1].removeprefix("end ")) if lines and lines[-1].startswith("end ") else -1
    return lines == [f"start {attempt}", *map(str, range(1, count + 1)), f"end {count}"]


@dataclass
class Chaos(Lab):
    """A lab whose agents are processes; `runs` is what the engine says of their containers."""

    runs: Runs = field(kw_only=True)
    stack: AsyncExitStack = field(kw_only=True)

    def process(self, name: str, *options: str, url: str | None = None, **env: str) -> AgentProcess:
        """An agent that is not started yet; ended with the lab."""
        agent = AgentProcess(
            self.agent_id(name), self.queue, url or self.url, self.folder, self.client, (*SHORT, *options), dict(env)
        )
        self.stack.push_async_callback(agent.kill)
        return agent

    async def started(self, name: str, *options: str, url: str | None = None, **env: str) -> AgentProcess:
        """An agent that is present."""
        agent = self.process(name, *options, url=url, **env)
        await agent.start()
        return agent

    @property
    def api(self) -> Client:
        """What a program would use."""
        return Client(self.client)

    async def running(self, job: JobId, attempt: int = 1) -> JobRecord:
        """Wait until this attempt is recorded as running."""
        return await self.until(job, lambda record: (record.state, record.attempt) == (State.RUNNING, attempt))

    async def told(self, job: JobId, attempt: int = 1, number: str = "USR1") -> None:
        """Send a job's container a signal, past its agent."""
        run = await self.runs.started(job, attempt)  # the record may say so before the engine's events do
        await asyncio.to_thread(engine.call, "POST", f"/containers/{run.container}/kill", {"signal": number})

    async def nothing_left(self) -> None:
        """Wait until no message and no container of this queue is left."""
        async with asyncio.timeout(30):
            async with aclosing(self.client.agents.watch()) as changes:
                async for _ in changes:
                    held = [agent.holds for agent in await self.client.agents.list(self.queue)]
                    if not any(held) and not self.containers():
                        break
        assert await self.left() == 0

    async def until_said(self, agent: AgentProcess, words: str) -> None:
        """Wait until the agent has said these words."""
        async with asyncio.timeout(30):
            while words not in agent.said():  # noqa: ASYNC110  (a file tells nobody that it has grown)
                await asyncio.sleep(0.05)

    async def copies(self, stream: str) -> int:
        """How many servers keep a stream."""
        answer = await self.raw.request(f"$JS.API.STREAM.INFO.{stream}", timeout=5)
        return int(json.loads(answer.data)["config"]["num_replicas"])

    async def redelivered(self, stream: str, count: int) -> None:
        """Wait until the consumer `train` has handed out so many messages once more."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(NatsError, KeyError):
                    if (await consumer_info(self.raw, stream, "train"))["num_redelivered"] >= count:
                        return
                await asyncio.sleep(0.1)  # a server tells nobody what it has redelivered

    async def renewed(self, agent: AgentProcess) -> None:
        """Wait until the agent renews its presence."""
        async with asyncio.timeout(30), aclosing(self.client.agents.watch()) as changes:
            fresh = False
            async for change in changes:
                if isinstance(change, Synced):
                    fresh = True
                elif fresh and change.key == agent.agent_id:
                    return

    async def absent(self, agent: AgentProcess) -> None:
        """Wait until the agent's presence has expired."""
        async with asyncio.timeout(30), aclosing(self.client.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    if await self.client.agents.get(agent.agent_id) is None:
                        return
                elif change.key == agent.agent_id and change.value is None:
                    return


@asynccontextmanager
async def open_chaos(
    url: str, queue: str, image: str, folder: Path, *, replicas: int = 1, docker_host: str | None = None
) -> AsyncIterator[Chaos]:
    """A queue of one's own; agents are ended and containers removed at the end."""
    async with AsyncExitStack() as stack:
        client: NatsBroker = await connect(url, name="test", replicas=replicas, timeout_s=20)
        stack.push_async_callback(client.close)
        await client.queues.apply(QueueSpec(queue_name=queue, provider=StaticProvider()))
        raw = NatsClient()
        await raw.connect(url.split(","))
        stack.push_async_callback(raw.close)
        docker = DockerEngine(docker_host)
        stack.push_async_callback(docker.close)
        runs = await stack.enter_async_context(watched(queue, docker_host))
        yield Chaos(url, queue, image, folder, client, raw, docker, runs=runs, stack=stack)
