"""What the broker's contract suite runs on: the fake server, or a real one, behind one face.

A world makes connections (the thing under test) and does what only an outsider can: publish with a plain NATS client,
change a stream behind the adapter's back, stop the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import nats
import nats.errors
import nats.js.errors
import pytest

from launch.adapters.nats import connect
from launch.core.capacity import Amount
from launch.errors import NotFound
from launch.ports import Broker, Delivery, LogChunk
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.record import JobRecord
from launch.subjects import JobId, Priority, WorkConsumer, work_stream
from tests.fakes.broker import FakeBroker, FakeServer
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

ACK_WAIT_S = 1.0
"""For tests that wait for a held job to come again: short, so that they are."""

LONG_ACK_WAIT_S = 30.0
"""For all others: nothing that they hold comes again while they run, however slow the machine."""

lapses = pytest.mark.parametrize("ack_wait_s", [pytest.param(ACK_WAIT_S, id="lapses")])
"""A test that waits until an ack wait is over: its connections have the short one."""

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class World(Protocol):
    """A server to test against."""

    async def connect(self, name: str = "test") -> Broker:
        """A new connection; the world closes it at the end."""
        ...

    async def connect_loosely(self, name: str = "loose") -> Broker:
        """A connection that `cut` and `mend` know."""
        ...

    async def cut(self) -> None:
        """Break the loose connections, while the server and the others go on; returns once they know."""
        ...

    async def mend(self) -> None:
        """Let them connect again; returns once they have."""
        ...

    async def publish_raw(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish as any NATS client would. Raises `NotFound` if no stream takes it."""
        ...

    async def limit_queue(self, queue: str, max_bytes: int) -> None:
        """Change the size limit of the queue's stream behind everybody's back."""
        ...

    async def replace_stream(self, queue: str) -> None:
        """Put a stream in the queue's place that can't be repaired into a WorkQueue."""
        ...

    async def stop(self) -> None:
        """Take the server away; returns once every connection knows."""
        ...

    async def start(self) -> None:
        """Bring it back; returns once everybody is connected again."""
        ...

    async def close(self) -> None:
        """Close what was connected."""
        ...


class FakeWorld:
    """The server in memory."""

    def __init__(self, ack_wait_s: float) -> None:
        self.server = FakeServer(ack_wait_s=ack_wait_s)
        self._loose: list[FakeBroker] = []

    async def connect(self, name: str = "test") -> Broker:
        return self.server.connect(name)

    async def connect_loosely(self, name: str = "loose") -> Broker:
        self._loose.append(self.server.connect(name))
        return self._loose[-1]

    async def cut(self) -> None:
        for broker in self._loose:
            broker.disconnect()

    async def mend(self) -> None:
        for broker in self._loose:
            broker.reconnect()

    async def publish_raw(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self.server.told.publish_raw(subject, body):
            return
        if not self.server.points.publish_raw(subject, body, dict(headers or {})):
            self.server.publish_raw(subject, body, headers)

    async def limit_queue(self, queue: str, max_bytes: int) -> None:
        self.server.change_stream(queue, max_bytes=max_bytes)

    async def replace_stream(self, queue: str) -> None:
        self.server.change_stream(queue, retention="limits")

    async def stop(self) -> None:
        self.server.stop()

    async def start(self) -> None:
        self.server.start()

    async def close(self) -> None:
        self.server.stop()


class NatsWorld:
    """A real nats-server; `server` only where the test may stop it."""

    def __init__(self, url: str, ack_wait_s: float, server: NatsServer | None = None) -> None:
        self._url = url
        self._ack_wait_s = ack_wait_s
        self._server = server
        self._brokers: list[Broker] = []
        self._loose: list[Broker] = []
        self._proxy: Proxy | None = None

    async def connect(self, name: str = "test") -> Broker:
        return await self._connect(self._url, name)

    async def _connect(self, url: str, name: str) -> Broker:
        broker = await connect(url, name=name, ack_wait_s=self._ack_wait_s)
        self._brokers.append(broker)
        return broker

    async def connect_loosely(self, name: str = "loose") -> Broker:
        if self._proxy is None:
            self._proxy = await Proxy(int(self._url.rpartition(":")[2])).start()
        self._loose.append(await self._connect(f"nats://127.0.0.1:{self._proxy.port}", name))
        return self._loose[-1]

    async def cut(self) -> None:
        assert self._proxy is not None
        await self._proxy.cut()
        await _until_connected(self._loose, False)

    async def mend(self) -> None:
        assert self._proxy is not None
        await self._proxy.start()
        await _until_connected(self._loose, True)

    async def publish_raw(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        client = await nats.connect(self._url)
        try:
            await client.request(subject, body, timeout=5, headers=dict(headers) if headers else None)
        except nats.errors.NoRespondersError as error:
            raise NotFound(f"no stream listens on '{subject}'") from error
        finally:
            await client.close()

    async def limit_queue(self, queue: str, max_bytes: int) -> None:
        client = await nats.connect(self._url)
        jetstream = client.jetstream()
        info = await jetstream.stream_info(work_stream(queue))
        info.config.max_bytes = max_bytes
        await jetstream.update_stream(info.config)
        await client.close()

    async def replace_stream(self, queue: str) -> None:
        client = await nats.connect(self._url)
        jetstream = client.jetstream()
        await jetstream.delete_stream(work_stream(queue))
        await jetstream.add_stream(name=work_stream(queue), subjects=[f"queue.{queue}.*"])
        await client.close()

    async def stop(self) -> None:
        assert self._server is not None
        await asyncio.to_thread(self._server.stop)
        await _until_connected(self._brokers, False)

    async def start(self) -> None:
        assert self._server is not None
        await asyncio.to_thread(self._server.start)
        await _until_connected(self._brokers, True)

    async def close(self) -> None:
        for broker in self._brokers:
            await broker.close()
        if self._proxy is not None:
            await self._proxy.cut()


async def _until_connected(brokers: Sequence[Broker], wanted: bool) -> None:
    async with asyncio.timeout(20):
        # The port tells whether there is a connection, not when that changes.
        while any((broker.connected_since is not None) is not wanted for broker in brokers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


TRAIN = WorkConsumer("train", Priority.MEDIUM)


async def until_status(
    broker: Broker, queue: str, consumer: WorkConsumer, *, pending: int | None = None, waiting: int | None = None
) -> None:
    """Look until the consumer has at least so many jobs pending, or exactly so many pulls waiting."""
    async with asyncio.timeout(10):
        while True:
            for status in (await broker.queues.status(queue)).consumers:
                ready = pending is None or status.pending >= pending
                if status.consumer == consumer and ready and waiting in (None, status.waiting):
                    return


async def take(broker: Broker, queue: str, count: int, consumer: WorkConsumer = TRAIN) -> list[Delivery]:
    """Pull so many jobs that were published.

    A server says that a job is stored a moment before its consumers know: then an empty sweep is no error.
    """
    await until_status(broker, queue, consumer, pending=count)
    deliveries = await broker.work.pull_now(queue, consumer, count)
    assert len(deliveries) == count
    return deliveries


def queue_spec(queue: str, **changes: Any) -> QueueSpec:
    """A queue spec with these changes."""
    return QueueSpec.model_validate({"queue_name": queue, "provider": {"type": "static"}, **changes})


def record(job: JobId, **changes: Any) -> JobRecord:
    """A job's first record with these changes."""
    base = JobRecord(queue=job.queue, seq=job.seq, job_type="train", submitted_at=NOW, updated_at=NOW)
    return base.model_copy(update=changes)


def presence(agent_id: str, queue: str, **changes: Any) -> AgentPresence:
    """A ready agent with these changes."""
    room = Amount(cpu_milli=2000, memory_bytes=2**30, slots=2)
    base = AgentPresence(
        agent_id=agent_id, queue=queue, capacity=room, free=room, version="0.1.0", host="here", started_at=NOW
    )
    return base.model_copy(update=changes)


def chunk(data: bytes, *, source: str = "stdout", attempt: int = 1) -> LogChunk:
    """A piece of output."""
    return LogChunk(source=source, attempt=attempt, time="2026-03-01T12:00:00.123456789Z", data=data)
