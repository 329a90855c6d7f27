"""Job records, presence and leases: the typed buckets."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TypeVar

from launch import subjects
from launch.adapters.nats.bucket import Bucket, Entry
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.hints import hints
from launch.adapters.nats.streams import MARKER_TTL_S
from launch.errors import Conflict, LaunchError, Unreadable
from launch.logging import Logger
from launch.ports import SYNCED, Changed, Synced, Versioned
from launch.presence import AgentPresence
from launch.record import JobRecord
from launch.subjects import JobId

T = TypeVar("T")
_log = Logger(__name__)
_record = JobRecord.model_validate_json
_presence = AgentPresence.model_validate_json


async def watch_typed(
    bucket: Bucket, keys: str, parse: Callable[[bytes], T], name: Callable[[str], str]
) -> AsyncGenerator[Changed[T] | Synced]:
    """A bucket's watch with values parsed and keys named as the rest of the program names them."""
    async with aclosing(bucket.watch(keys)) as entries:
        async for entry in entries:
            if isinstance(entry, Synced):
                yield SYNCED
                continue
            try:
                key = name(entry.key)
            except LaunchError as error:
                _log.warning("a key can't be read: left out", key=entry.key, error=error.message)
                continue
            if entry.value is None:
                yield Changed(key, None, entry.revision)
            else:
                for value in readable([entry], parse):
                    yield Changed(key, value, entry.revision)


def parsed(entry: Entry, parse: Callable[[bytes], T]) -> T:
    """The value of an entry. Raises `Unreadable`, also for a record or a presence under a key that is not its own."""
    try:
        value = parse(entry.value or b"")
        _check_key(entry.key, value)
        return value
    except ValueError as error:
        first, *rest = str(error).splitlines()
        text = "; ".join([first, *(line.strip() for line in rest[:2])])
        raise Unreadable(
            f"the entry '{entry.key}' can't be read: {text}", hint="another program, or another version, wrote it"
        ) from error


def _check_key(key: str, value: object) -> None:
    """What is written by its own key must be what was looked at. Raises `ValueError`."""
    own = value.id.key if isinstance(value, JobRecord) else value.agent_id if isinstance(value, AgentPresence) else key
    if own != key:
        raise ValueError(f"it says that it is {own[:80]!r}")


def readable(entries: Iterable[Entry], parse: Callable[[bytes], T]) -> Iterator[T]:
    """The values that can be read: one that somebody else's program has spoilt must not hide all the others."""
    for entry in entries:
        try:
            yield parsed(entry, parse)
        except Unreadable as error:
            _log.warning("an entry is left out", key=entry.key, error=error.message)


class NatsRecords:
    """`launch.ports.Records`."""

    def __init__(self, connection: Connection) -> None:
        self._bucket = Bucket(connection, subjects.JOBS_BUCKET)

    async def get(self, job: JobId) -> Versioned[JobRecord] | None:
        entry = await self._bucket.get(job.key)
        return None if entry is None else Versioned(parsed(entry, _record), entry.revision)

    async def create(self, record: JobRecord) -> int:
        return await self._bucket.create(record.id.key, _json(record))

    async def update(self, record: JobRecord, revision: int) -> int:
        return await self._bucket.update(record.id.key, _json(record), revision)

    async def history(self, job: JobId) -> builtins.list[JobRecord]:
        entries = [entry for entry in await self._bucket.history(job.key) if entry.value is not None]
        return list(readable(entries, _record))

    async def list(self, queue: str | None = None) -> builtins.list[JobRecord]:
        entries = await self._bucket.all(f"{queue}.>" if queue else ">")
        return sorted(readable(entries, _record), key=lambda record: record.id)

    async def recent(self, count: int, *, queue: str | None = None) -> tuple[builtins.list[JobRecord], bool]:
        entries, more = await self._bucket.recent(f"{queue}.>" if queue else ">", count)
        return [*readable(entries, _record)], more

    def watch(
        self, *, queue: str | None = None, job: JobId | None = None
    ) -> AsyncGenerator[Changed[JobRecord] | Synced]:
        keys = job.key if job else f"{queue}.>" if queue else ">"
        return watch_typed(self._bucket, keys, _record, lambda key: str(JobId.from_key(key)))


class NatsAgents:
    """`launch.ports.Agents`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bucket = Bucket(connection, subjects.AGENTS_BUCKET)

    async def put(self, presence: AgentPresence, *, ttl_s: float) -> None:
        await self._bucket.put(presence.agent_id, presence.model_dump_json().encode(), ttl_s=ttl_s)

    async def remove(self, agent_id: str) -> None:
        await self._bucket.delete(agent_id, ttl_s=MARKER_TTL_S)

    async def get(self, agent_id: str) -> AgentPresence | None:
        entry = await self._bucket.get(agent_id)
        return None if entry is None else parsed(entry, _presence)

    async def list(self, queue: str | None = None) -> builtins.list[AgentPresence]:
        present = readable(await self._bucket.all(), _presence)
        return sorted((p for p in present if queue in (None, p.queue)), key=lambda p: p.agent_id)

    async def ask_to_drain(self, agent_id: str) -> None:
        await self._connection.publish(subjects.drain_subject(agent_id))

    def drain_asked(self, agent_id: str) -> AsyncGenerator[str | None]:
        return hints(self._connection, subjects.drain_subject(agent_id), lambda _: agent_id)

    def watch(self) -> AsyncGenerator[Changed[AgentPresence] | Synced]:
        return watch_typed(self._bucket, ">", _presence, str)


class NatsLeases:
    """`launch.ports.Leases`."""

    def __init__(self, connection: Connection) -> None:
        self._bucket = Bucket(connection, subjects.LEASES_BUCKET)

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        try:
            return await self._bucket.create(name, holder.encode(), ttl_s=ttl_s)
        except Conflict:
            return None

    async def renew(self, name: str, holder: str, revision: int, *, ttl_s: float) -> int | None:
        try:
            return await self._bucket.update(name, holder.encode(), revision, ttl_s=ttl_s)
        except Conflict:
            return None

    async def release(self, name: str, revision: int) -> None:
        try:
            await self._bucket.delete(name, revision=revision, ttl_s=MARKER_TTL_S)
        except Conflict:
            return

    async def holder(self, name: str) -> str | None:
        entry = await self._bucket.get(name)
        return None if entry is None or entry.value is None else entry.value.decode(errors="replace")

    async def inherit(self, name: str, holder: str, *, of: str, ttl_s: float) -> int | None:
        entry = await self._bucket.get(name)
        if entry is None or entry.value != of.encode():
            return None
        return await self.renew(name, holder, entry.revision, ttl_s=ttl_s)


def _json(record: JobRecord) -> bytes:
    return record.model_dump_json(exclude_none=True).encode()
