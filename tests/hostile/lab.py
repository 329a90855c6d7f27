"""The real agent code on a real nats-server and a fake engine, and a publisher that says any bytes it likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from agent.main import Agent
from agent.settings import AgentSettings
from launch.adapters.clock import SystemClock
from launch.adapters.nats import NatsBroker, connect
from launch.queue import QueueSpec
from tests.fakes.engine import FakeEngine

IMAGE = "busybox:1"
GOOD = json.dumps({"image": IMAGE}).encode()


class Wire:
    """A publisher at the level of the protocol: headers are bytes, well-formed or not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to a server without authentication."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**20)
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        return cls(reader, writer)

    async def publish(self, subject: str, body: bytes, headers: bytes = b"") -> None:
        """`headers` is the whole block, its first line included."""
        if headers:
            self._writer.write(b"HPUB %b %d %d\r\n" % (subject.encode(), len(headers), len(headers) + len(body)))
        else:
            self._writer.write(b"PUB %b %d\r\n" % (subject.encode(), len(body)))
        self._writer.write(headers + body + b"\r\n")
        await self._writer.drain()

    async def settled(self) -> None:
        """Return once the server has taken in everything; raises what it said if it refused something."""
        self._writer.write(b"PING\r\n")
        async with asyncio.timeout(10):
            while (line := await self._reader.readline()) != b"PONG\r\n":
                if not line or line.startswith(b"-ERR"):
                    raise ConnectionError(line.decode(errors="replace"))

    async def close(self) -> None:
        """Leave."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@dataclass
class Hostile:
    """One queue with one agent at work, a plain client, and a hostile publisher."""

    queue: str
    broker: NatsBroker
    wire: Wire
    agent: asyncio.Task[None]
    engine: FakeEngine

    async def emptied(self, limit_s: float = 30) -> None:
        """Wait until the queue is empty; raises if the agent ends before."""
        async with asyncio.timeout(limit_s):
            while (await self.broker.jobs.depth(self.queue)).messages:
                if self.agent.done():
                    await self.agent
                    raise AssertionError("the agent ended")
                await asyncio.wait({self.agent}, timeout=0.05)


def queue_spec(queue: str) -> QueueSpec:
    """A queue whose agent nobody starts but the test."""
    return QueueSpec.model_validate({"queue_name": queue, "provider": {"type": "local"}})


async def agent_of(own: NatsBroker, spec: QueueSpec) -> tuple[Agent, FakeEngine]:
    """An agent for the queue, on an engine of its own."""
    engine = FakeEngine(images=[IMAGE], clock=SystemClock())
    settings = AgentSettings(queue=spec.queue_name, cpu_milli=4000, memory_bytes=2**33, max_jobs=8)
    info = await engine.info()
    return Agent(own, engine, SystemClock(), settings, spec, info, f"{spec.queue_name}-a", ()), engine


@asynccontextmanager
async def open_hostile(url: str, queue: str, *, ack_wait_s: float = 1.0) -> AsyncIterator[Hostile]:
    """The agent leaves at the end; if it had ended by itself, what ended it is raised."""
    broker = await connect(url, name="test", ack_wait_s=ack_wait_s)
    own = await connect(url, name="agent", ack_wait_s=ack_wait_s)
    spec = queue_spec(queue)
    await broker.queues.apply(spec)
    agent, engine = await agent_of(own, spec)
    stop, abort = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(agent.run(stop, abort), name="agent")
    wire = await Wire.open(url)
    try:
        yield Hostile(queue, broker, wire, task, engine)
    finally:
        abort.set()
        try:
            async with asyncio.timeout(20):
                await task
        finally:
            await wire.close()
            await broker.queues.delete(queue)
            await broker.close()
            await own.close()
