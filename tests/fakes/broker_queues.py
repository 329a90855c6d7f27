"""The fake broker's queues, jobs and cancel hints."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from launch.errors import NotFound
from launch.ports import Changed, Depth, Message, NewJob, Published, QueueStatus, Synced
from launch.queue import QueueSpec
from launch.subjects import HEADER_MSG_ID, JobId, Priority, WorkConsumer
from tests.fakes.broker_hints import hear
from tests.fakes.broker_link import Link
from tests.fakes.broker_server import ServerState
from tests.fakes.broker_stores import parsed


class FakeQueues:
    """`launch.ports.Queues`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._link = link

    async def apply(self, spec: QueueSpec) -> list[str]:
        async with self._link.request():
            return self._server.apply(spec)

    async def get(self, queue: str) -> QueueSpec:
        async with self._link.request():
            entry = self._server.specs.get(queue)
            if entry is None or entry.value is None:
                raise NotFound(f"there is no queue '{queue}'")
            return parsed(QueueSpec, entry.value, queue)

    async def list(self) -> list[QueueSpec]:
        async with self._link.request():
            entries = sorted(self._server.specs.current(), key=lambda entry: entry.key)
            return [QueueSpec.model_validate_json(entry.value or b"") for entry in entries]

    async def delete(self, queue: str) -> int:
        async with self._link.request():
            return self._server.delete_queue(queue)

    async def status(self, queue: str) -> QueueStatus:
        async with self._link.request():
            stream = self._server.stream(queue)
            consumers = sorted((d.status() for d in stream.durables.values()), key=lambda c: urgency(c.consumer))
            return QueueStatus(stream.depth(), tuple(consumers), stream.paused)

    async def set_paused(self, queue: str, paused: bool) -> None:
        async with self._link.request():
            self._server.stream(queue).set_paused(paused)
            spec = self._server.specs.get(queue)
            if spec is not None and spec.value is not None:
                self._server.specs.put(queue, spec.value)

    def watch(self) -> AsyncGenerator[Changed[QueueSpec] | Synced]:
        return self._server.specs.watch(
            self._link, wanted=lambda _: True, name=str, decode=QueueSpec.model_validate_json
        )


class FakeJobs:
    """`launch.ports.Jobs`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._link = link

    async def publish(
        self, queue: str, job_type: str, body: bytes, *, priority: Priority = Priority.MEDIUM, msg_id: str | None = None
    ) -> Published:
        headers: Mapping[str, str] = {} if msg_id is None else {HEADER_MSG_ID: msg_id}
        async with self._link.request():
            return self._server.publish(queue, WorkConsumer(job_type, priority), body, headers)

    async def publish_batch(self, queue: str, jobs: Sequence[NewJob], *, msg_id: str) -> Published:
        batch = [(WorkConsumer(job.job_type, job.priority), job.body) for job in jobs]
        async with self._link.request():
            return self._server.publish_batch(queue, batch, msg_id)

    async def get(self, job: JobId) -> Message | None:
        async with self._link.request():
            stream = self._server.streams.get(job.queue)
            return stream.messages.get(job.seq) if stream else None

    async def depth(self, queue: str, *, by_subject: bool = True) -> Depth:
        async with self._link.request():
            found = self._server.stream(queue).depth()
            return found if by_subject else replace(found, subjects={})

    async def peek(self, queue: str, limit: int, *, after_seq: int = 0) -> list[Message]:
        async with self._link.request():
            messages = self._server.stream(queue).messages.values()
            return [message for message in messages if message.job.seq > after_seq][:limit]

    async def upcoming(self, queue: str, job_types: Sequence[str] | None, limit: int) -> list[Message]:
        async with self._link.request():
            stream = self._server.stream(queue)
            durables = sorted(stream.durables.values(), key=lambda durable: urgency(durable.consumer))
            mine = (d for d in durables if job_types is None or d.consumer.job_type in job_types)
            return [stream.messages[seq] for durable in mine for seq in durable.fresh][:limit]

    async def discard(self, job: JobId) -> bool:
        async with self._link.request():
            stream = self._server.streams.get(job.queue)
            return stream.remove(job.seq) if stream else False

    def notices(self, queue: str) -> AsyncGenerator[JobId | None]:
        return hear(self._server, self._link, f"submitted.{queue}")


class FakeCancels:
    """`launch.ports.Cancels`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._link = link

    async def announce(self, job: JobId) -> None:
        async with self._link.request():
            self._server.tell(f"cancel.{job.queue}", job)

    def heard(self, queue: str) -> AsyncGenerator[JobId | None]:
        return hear(self._server, self._link, f"cancel.{queue}")


def urgency(consumer: WorkConsumer) -> tuple[int, str]:
    """Sorts consumers as they are served: by priority, then by type."""
    return consumer.priority.rank, consumer.job_type
