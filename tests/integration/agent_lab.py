"""One queue on a real nats-server, agents on a real Docker Engine, and a plain NATS client beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from agent.adapters.docker import DockerEngine
from agent.main import run
from agent.settings import AgentSettings
from launch.adapters.nats import NatsBroker, connect
from launch.core.states import State
from launch.ports import Synced
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.record import JobRecord
from launch.subjects import JobId, container_name, work_stream
from tests.support import engine

ACK_WAIT_S = 1.0
TTL_S = 2.0
LIMIT_S = 90.0

HOLD = ["sh", "-c", "trap 'exit 0' USR1; echo ready; sleep 86400 & wait"]
"""Runs until it gets SIGUSR1."""


@dataclass
class Worker:
    """One agent in this process."""

    task: asyncio.Task[None]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    abort: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Lab:
    """What a test works with; `raw` is a NATS client that knows nothing of this project."""

    url: str
    queue: str
    image: str
    folder: Path
    client: NatsBroker
    raw: NatsClient
    engine: DockerEngine
    ack_wait_s: float = ACK_WAIT_S
    """Of the agents that are begun from now on; long where nothing may be redelivered however slow the machine."""

    @asynccontextmanager
    async def agent(self, name: str = "a", **settings: Any) -> AsyncIterator[Worker]:
        """An agent that works until the end of the block; then it drains (after an error: leaves at once)."""
        wanted = {"max_jobs": 4, "presence_ttl_s": TTL_S, "data_dir": self.folder, **settings}
        broker = await connect(self.url, name=f"agent {name}", ack_wait_s=self.ack_wait_s)
        stop, abort = asyncio.Event(), asyncio.Event()
        given = AgentSettings(queue=self.queue, agent_id=self.agent_id(name), **wanted)
        task = asyncio.create_task(run(broker, given, stop=stop, abort=abort), name=f"agent {name}")
        try:
            await self.presence(lambda entry: entry is not None, name, task)
            yield Worker(task, stop, abort)
            stop.set()
            await asyncio.wait_for(task, LIMIT_S)
        finally:
            abort.set()
            try:
                await asyncio.wait_for(task, LIMIT_S)
            finally:
                await broker.close()

    def agent_id(self, name: str = "a") -> str:
        """The id of an agent of this lab."""
        return f"{self.queue}-{name}"

    # -- jobs -------------------------------------------------------------------------------------------------------

    async def publish(self, body: bytes, kind: str = "train") -> JobId:
        """What any NATS client does; `kind` is a type, or a type and a priority."""
        answer = await self.raw.request(f"queue.{self.queue}.{kind}", body, timeout=5)
        return JobId(self.queue, json.loads(answer.data)["seq"])

    async def submit(self, kind: str = "train", **spec: Any) -> JobId:
        """Publish a job."""
        return await self.publish(json.dumps({"image": self.image, **spec}).encode(), kind)

    async def until(self, job: JobId, wanted: State | Callable[[JobRecord], bool]) -> JobRecord:
        """Wait until the job's record is in this state (or as wanted)."""
        async with asyncio.timeout(LIMIT_S), aclosing(self.client.records.watch(job=job)) as changes:
            async for change in changes:
                if isinstance(change, Synced) or change.value is None:
                    continue
                if wanted(change.value) if callable(wanted) else change.value.state is wanted:
                    return change.value
        raise AssertionError("the watch ended")

    async def ended(self, job: JobId) -> JobRecord:
        """Wait until the job has a terminal record."""
        return await self.until(job, lambda record: record.state.terminal)

    async def presence(
        self,
        wanted: Callable[[AgentPresence | None], bool],
        name: str = "a",
        agent: asyncio.Task[None] | None = None,
    ) -> AgentPresence | None:
        """Wait until an agent's entry is as wanted; if `agent` ends before, raise what it raised."""
        look = asyncio.create_task(self._presence(wanted, self.agent_id(name)))
        await asyncio.wait({look, agent} if agent else {look}, return_when=asyncio.FIRST_COMPLETED)
        if agent is not None and agent.done() and not look.done():
            look.cancel()
            await agent
        return await look

    async def _presence(self, wanted: Callable[[AgentPresence | None], bool], agent_id: str) -> AgentPresence | None:
        async with asyncio.timeout(LIMIT_S), aclosing(self.client.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    entry = await self.client.agents.get(agent_id)
                elif change.key == agent_id:
                    entry = change.value
                else:
                    continue
                if wanted(entry):
                    return entry
        raise AssertionError("the watch ended")

    async def output(self, job: JobId, source: str | None = None) -> bytes:
        """What the job wrote (to one of the two)."""
        async with aclosing(self.client.logs.read(job)) as chunks:
            return b"".join([chunk.data async for chunk in chunks if source in (None, chunk.source)])

    async def said(self, job: JobId, words: bytes) -> None:
        """Wait until the job has written these words."""
        output = b""
        async with asyncio.timeout(LIMIT_S), aclosing(self.client.logs.read(job, follow=True)) as chunks:
            async for chunk in chunks:
                output += chunk.data
                if words in output:
                    return

    async def release(self, job: JobId, attempt: int = 1) -> None:
        """Let a job of `HOLD` end with code 0; it must have begun."""
        await self.said(job, b"ready")
        await self.engine.signal(container_name(job, attempt), "SIGUSR1")

    # -- the broker and the engine, from outside ----------------------------------------------------------------------

    @asynccontextmanager
    async def answers(self) -> AsyncIterator[asyncio.Queue[tuple[int, int, bytes]]]:
        """What agents answer to deliveries: sequence, count of deliveries, and the word (`+WPI`, `+ACK`, `-NAK`)."""
        heard: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()

        async def note(msg: Msg) -> None:
            # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
            parts = msg.subject.split(".")
            heard.put_nowait((int(parts[5]), int(parts[4]), msg.data))

        subscription = await self.raw.subscribe(f"$JS.ACK.{work_stream(self.queue)}.>", cb=note)
        await self.raw.flush()
        yield heard
        await subscription.unsubscribe()

    async def left(self) -> int:
        """How many messages lie in the queue."""
        return (await self.client.jobs.depth(self.queue)).messages

    def containers(self) -> list[dict[str, Any]]:
        """The containers of this queue's jobs, running or not."""
        return engine.containers(f"launch.queue={self.queue}")


@asynccontextmanager
async def open_lab(url: str, queue: str, image: str, folder: Path, **spec: Any) -> AsyncIterator[Lab]:
    """A lab with one queue, deleted at the end."""
    client = await connect(url, name="test", ack_wait_s=ACK_WAIT_S)
    raw = NatsClient()
    await raw.connect(url)
    docker = DockerEngine()
    given = {"queue_name": queue, "provider": {"type": "local"}, **spec}
    await client.queues.apply(QueueSpec.model_validate(given))
    try:
        yield Lab(url, queue, image, folder, client, raw, docker)
    finally:
        await client.queues.delete(queue)
        await raw.close()
        await client.close()
        await docker.close()
