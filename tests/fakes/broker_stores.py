"""The fake broker's records, agents, logs, leases and documents."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel

from launch.errors import Conflict, Unreadable
from launch.ports import Changed, LogChunk, Synced, Versioned
from launch.presence import AgentPresence
from launch.record import JobRecord
from launch.subjects import JobId
from tests.fakes.broker_hints import hear
from tests.fakes.broker_link import Inbox, Link
from tests.fakes.broker_server import ServerState

M = TypeVar("M", bound=BaseModel)


def parsed(model: type[M], value: bytes, key: str) -> M:
    """A stored value as a model; raises `Unreadable`."""
    try:
        return model.model_validate_json(value)
    except ValueError as error:
        raise Unreadable(f"{key} can't be read") from error


class FakeRecords:
    """`launch.ports.Records`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._bucket = server.records
        self._link = link

    async def get(self, job: JobId) -> Versioned[JobRecord] | None:
        async with self._link.request():
            entry = self._bucket.get(job.key)
            if entry is None or entry.value is None:
                return None
            return Versioned(parsed(JobRecord, entry.value, job.key), entry.revision)

    async def create(self, record: JobRecord) -> int:
        async with self._link.request():
            return self._bucket.create(record.id.key, record.model_dump_json(exclude_none=True).encode())

    async def update(self, record: JobRecord, revision: int) -> int:
        async with self._link.request():
            return self._bucket.update(record.id.key, record.model_dump_json(exclude_none=True).encode(), revision)

    async def history(self, job: JobId) -> list[JobRecord]:
        async with self._link.request():
            return [JobRecord.model_validate_json(value) for value in self._bucket.history(job.key)]

    async def recent(self, count: int, *, queue: str | None = None) -> tuple[list[JobRecord], bool]:
        async with self._link.request():
            records = [JobRecord.model_validate_json(entry.value or b"") for entry in self._bucket.current()]
            found = [record for record in records if queue in (None, record.queue)]
            return found[max(0, len(found) - count) :], len(found) > count

    async def list(self, queue: str | None = None) -> list[JobRecord]:
        async with self._link.request():
            records = [JobRecord.model_validate_json(entry.value or b"") for entry in self._bucket.current()]
            return sorted((r for r in records if queue in (None, r.queue)), key=lambda r: r.id)

    def watch(
        self, *, queue: str | None = None, job: JobId | None = None
    ) -> AsyncGenerator[Changed[JobRecord] | Synced]:
        def wanted(key: str) -> bool:
            found = JobId.from_key(key)
            return job in (None, found) and queue in (None, found.queue)

        return self._bucket.watch(
            self._link,
            wanted=wanted,
            name=lambda key: str(JobId.from_key(key)),
            decode=JobRecord.model_validate_json,
        )


class FakeAgents:
    """`launch.ports.Agents`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._bucket = server.agents
        self._link = link

    async def put(self, presence: AgentPresence, *, ttl_s: float) -> None:
        async with self._link.request():
            self._bucket.put(presence.agent_id, presence.model_dump_json().encode(), ttl_s=whole(ttl_s))

    async def remove(self, agent_id: str) -> None:
        async with self._link.request():
            if self._bucket.get(agent_id) is not None:
                self._bucket.put(agent_id, None)

    async def get(self, agent_id: str) -> AgentPresence | None:
        async with self._link.request():
            entry = self._bucket.get(agent_id)
            return parsed(AgentPresence, entry.value, agent_id) if entry and entry.value is not None else None

    async def list(self, queue: str | None = None) -> list[AgentPresence]:
        async with self._link.request():
            found = [AgentPresence.model_validate_json(entry.value or b"") for entry in self._bucket.current()]
            return sorted((a for a in found if queue in (None, a.queue)), key=lambda a: a.agent_id)

    async def ask_to_drain(self, agent_id: str) -> None:
        async with self._link.request():
            self._server.tell(f"drain.{agent_id}", agent_id)

    def drain_asked(self, agent_id: str) -> AsyncGenerator[str | None]:
        return hear(self._server, self._link, f"drain.{agent_id}")

    def watch(self) -> AsyncGenerator[Changed[AgentPresence] | Synced]:
        return self._bucket.watch(self._link, wanted=lambda _: True, name=str, decode=AgentPresence.model_validate_json)


class FakeLogs:
    """`launch.ports.Logs`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._server = server
        self._link = link

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        async with self._link.request():
            for chunk in chunks:
                self._server.append_log(job, chunk)

    @property
    def max_chunk_bytes(self) -> int:
        return self._server.max_chunk_bytes

    async def last_seq(self, job: JobId) -> int:
        async with self._link.request():
            stored = self._server.logs.get(job)
            return stored[-1].seq if stored else 0

    async def read(self, job: JobId, *, after_seq: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk]:
        inbox: Inbox[LogChunk] = Inbox(self._link)
        async with self._link.request():
            for chunk in self._server.logs.get(job, []):
                if chunk.seq > after_seq:
                    inbox.put(chunk)
        stored = len(inbox)
        with self._server.log_reader(job, inbox.put), self._link.listening(inbox.link_moved):
            while follow or stored > 0:
                stored -= 1
                chunk = await inbox.get()
                if chunk.seq > after_seq:
                    yield chunk

    async def before(self, job: JobId, moment: datetime) -> int:
        # Here chunks are stored when they are printed.
        async with self._link.request():
            earlier = [c.seq for c in self._server.logs.get(job, []) if datetime.fromisoformat(c.time) < moment]
            return earlier[-1] if earlier else 0

    async def tail(self, job: JobId, lines: int) -> list[LogChunk]:
        async with self._link.request():
            found: list[LogChunk] = []
            count = 0
            for chunk in reversed(self._server.logs.get(job, [])):
                if count >= lines:
                    break
                found.append(chunk)
                count += max(1, chunk.data.count(b"\n"))
            return found[::-1]


class FakeLeases:
    """`launch.ports.Leases`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._bucket = server.leases
        self._link = link

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        async with self._link.request():
            try:
                return self._bucket.create(name, holder.encode(), ttl_s=whole(ttl_s))
            except Conflict:
                return None

    async def renew(self, name: str, holder: str, revision: int, *, ttl_s: float) -> int | None:
        async with self._link.request():
            try:
                return self._bucket.update(name, holder.encode(), revision, ttl_s=whole(ttl_s))
            except Conflict:
                return None

    async def release(self, name: str, revision: int) -> None:
        async with self._link.request():
            entry = self._bucket.get(name)
            if entry is not None and entry.revision == revision:
                self._bucket.put(name, None)

    async def holder(self, name: str) -> str | None:
        async with self._link.request():
            entry = self._bucket.get(name)
            return entry.value.decode() if entry and entry.value is not None else None

    async def inherit(self, name: str, holder: str, *, of: str, ttl_s: float) -> int | None:
        async with self._link.request():
            entry = self._bucket.get(name)
            if entry is None or entry.value != of.encode():
                return None
            return self._bucket.update(name, holder.encode(), entry.revision, ttl_s=whole(ttl_s))


class FakeDocuments:
    """`launch.ports.Documents`."""

    def __init__(self, server: ServerState, link: Link) -> None:
        self._bucket = server.documents
        self._link = link

    async def get(self, key: str) -> Versioned[bytes] | None:
        async with self._link.request():
            entry = self._bucket.get(key)
            return Versioned(entry.value, entry.revision) if entry and entry.value is not None else None

    async def create(self, key: str, value: bytes) -> int:
        async with self._link.request():
            return self._bucket.create(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        async with self._link.request():
            return self._bucket.update(key, value, revision)

    async def delete(self, key: str) -> None:
        async with self._link.request():
            if self._bucket.get(key) is not None:
                self._bucket.put(key, None)


def whole(ttl_s: float) -> float:
    """A TTL as the server takes it: whole seconds, at least one."""
    return max(1, math.ceil(ttl_s))
