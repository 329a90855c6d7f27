"""Queue specs, their streams, their consumers as seen from outside."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

from launch import subjects
from launch.adapters.nats import streams
from launch.adapters.nats.bucket import Bucket, Entry
from launch.adapters.nats.connection import Connection, parse_time
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError
from launch.adapters.nats.records import parsed, readable, watch_typed
from launch.adapters.nats.scaling import NatsScaling
from launch.errors import LaunchError, NotFound, NotPermitted
from launch.ports import Changed, ConsumerStatus, Depth, QueueStatus, Synced
from launch.queue import QueueSpec
from launch.subjects import JobId, WorkConsumer

PAUSED_FLAG = "launch.paused"
FOREVER = "2200-01-01T00:00:00Z"
RESUME_S = 0.1

_spec = QueueSpec.model_validate_json


class NatsQueues:
    """`launch.ports.Queues`."""

    def __init__(self, connection: Connection, replicas: int) -> None:
        self._connection = connection
        self._replicas = replicas
        self._specs = Bucket(connection, subjects.QUEUES_BUCKET)
        self._base_ready = False

    async def apply(self, spec: QueueSpec) -> builtins.list[str]:
        changes = await self._prepare()
        config = streams.work_stream_config(spec.queue_name, self._replicas)
        first_seq = await self._next_unused_seq(spec.queue_name)
        if first_seq > 1:
            config["first_seq"] = first_seq
        changes += await streams.ensure_stream(self._connection, config)
        body = spec.model_dump_json(exclude_none=True).encode()
        entry = await self._specs.get(spec.queue_name)
        if entry is None or entry.value != body:
            await self._specs.put(spec.queue_name, body)
            changes.append(f"queue {spec.queue_name} {'created' if entry is None else 'changed'}")
        return changes

    async def get(self, queue: str) -> QueueSpec:
        return parsed(await self._entry(queue), _spec)

    async def _entry(self, queue: str) -> Entry:
        """The stored spec, whatever it says. Raises `NotFound`."""
        entry = await self._specs.get(queue) if subjects.is_name(queue) else None
        if entry is None:
            known = [spec.queue_name for spec in await self.list()]
            raise unknown_queue(queue, known)
        return entry

    async def list(self) -> builtins.list[QueueSpec]:
        return sorted(readable(await self._specs.all(), _spec), key=lambda spec: spec.queue_name)

    async def delete(self, queue: str) -> int:
        await self._entry(queue)
        depth = await read_depth(self._connection, queue, subjects_wanted=False)
        await self._specs.delete(queue, note=b"%d" % depth.last_seq)
        await self._connection.api(f"STREAM.DELETE.{subjects.work_stream(queue)}")
        await Bucket(self._connection, subjects.JOBS_BUCKET).purge(f"{queue}.>")
        await self._connection.api(f"STREAM.PURGE.{subjects.LOG_STREAM}", {"filter": f"logs.{queue}.>"})
        await self._connection.api(f"STREAM.PURGE.{subjects.METRICS_STREAM}", {"filter": f"metrics.{queue}.>"})
        await NatsScaling(self._connection).forget(queue)
        return depth.messages

    async def status(self, queue: str) -> QueueStatus:
        depth = await read_depth(self._connection, queue)
        info = await stream_info(self._connection, queue)
        found = [
            ConsumerStatus(consumer_of(item), item["num_pending"], item["num_ack_pending"], item["num_waiting"])
            for item in await list_consumers(self._connection, queue)
        ]
        found.sort(key=lambda status: (status.consumer.job_type, status.consumer.priority.rank))
        return QueueStatus(depth, found, is_paused(info))

    async def set_paused(self, queue: str, paused: bool) -> None:
        info = await stream_info(self._connection, queue)
        config: dict[str, Any] = info["config"]
        metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != PAUSED_FLAG}
        if paused:
            metadata[PAUSED_FLAG] = "true"
        stream = subjects.work_stream(queue)
        await self._connection.api(f"STREAM.UPDATE.{stream}", {**config, "metadata": metadata})
        names = [item["name"] for item in await list_consumers(self._connection, queue)]
        if paused:
            request = {"pause_until": FOREVER}
            await asyncio.gather(*(self._connection.api(f"CONSUMER.PAUSE.{stream}.{name}", request) for name in names))
        else:
            await asyncio.gather(*(self._resume(stream, name) for name in names))
        # Whoever watches the specs, such as a scaler, looks at the queue again.
        spec = await self._specs.get(queue)
        if spec is not None and spec.value is not None:
            await self._specs.put(queue, spec.value)

    async def _resume(self, stream: str, name: str) -> None:
        """End a consumer's pause, so that the pulls that wait already are served.

        The server serves them when a pause runs out, not when it is lifted. So a resume is a pause that runs out a
        moment from now, by the server's clock; one that came too late is tried again with more time.
        """
        margin_s = RESUME_S
        for _ in range(5):
            info = await self._connection.api(f"CONSUMER.INFO.{stream}.{name}")
            request = {"pause_until": _after(info["ts"], margin_s)}
            answer = await self._connection.api(f"CONSUMER.PAUSE.{stream}.{name}", request)
            if answer.get("paused"):
                await asyncio.sleep(answer.get("pause_remaining", 0) / 1e9)
                return
            margin_s *= 2

    async def watch(self) -> AsyncGenerator[Changed[QueueSpec] | Synced]:
        with contextlib.suppress(NotPermitted):  # who only looks need not be allowed to repair
            await self._prepare()
        watched = watch_typed(self._specs, ">", _spec, str)
        try:
            async for change in watched:
                yield change
        finally:
            await watched.aclose()

    async def _prepare(self) -> builtins.list[str]:
        """Make what exists once, whatever the queues; looked at once a connection."""
        if self._base_ready:
            return []
        changes = []
        for config in streams.base_configs(self._replicas):
            changes += await streams.ensure_stream(self._connection, config)
        self._base_ready = True
        return changes

    async def _next_unused_seq(self, queue: str) -> int:
        """Where a new stream's sequences start: after every id that an earlier stream of this name gave out.

        An agent may still run a job of that stream; its records, its logs and its ack must not meet another job. The
        mark of a deleted spec holds the last sequence; a stream that was deleted by hand leaves its records.
        """
        try:
            await stream_info(self._connection, queue)
        except NotFound:
            left = await Bucket(self._connection, subjects.JOBS_BUCKET).all(f"{queue}.>")
            spec = await self._specs.latest(queue)
            deleted = int(spec.note) if spec is not None and spec.note.isdigit() else 0
            return 1 + max([deleted, *(_seq_of(entry.key) for entry in left)])
        return 1


async def stream_info(connection: Connection, queue: str) -> dict[str, Any]:
    """The queue's stream info. Raises `NotFound`."""
    if not subjects.is_name(queue):
        raise unknown_queue(queue)
    try:
        return await connection.api(f"STREAM.INFO.{subjects.work_stream(queue)}")
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            raise unknown_queue(queue) from error
        raise


async def read_depth(connection: Connection, queue: str, *, subjects_wanted: bool = True) -> Depth:
    """How much lies in the queue, by subject. Raises `NotFound`."""
    if not subjects_wanted:
        state = (await stream_info(connection, queue))["state"]
        return Depth(state["messages"], state["first_seq"], state["last_seq"], {})
    counts: dict[WorkConsumer, int] = {}
    offset = 0
    stream = subjects.work_stream(queue)
    await stream_info(connection, queue)
    while True:
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": ">", "offset": offset})
        found: dict[str, int] = info["state"].get("subjects") or {}
        for subject, count in found.items():
            counts[subjects.parse_job_subject(subject)[1]] = count
        offset += len(found)
        if not found or offset >= info.get("total", 0):
            state = info["state"]
            return Depth(state["messages"], state["first_seq"], state["last_seq"], counts)


async def list_consumers(connection: Connection, queue: str) -> list[dict[str, Any]]:
    """The raw info of the queue's durables."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await connection.api(f"CONSUMER.LIST.{subjects.work_stream(queue)}", {"offset": len(found)})
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= answer.get("total", 0):
            return [item for item in found if item["config"].get("filter_subject")]


def consumer_of(info: dict[str, Any]) -> WorkConsumer:
    """Which type and priority a durable serves."""
    return subjects.parse_job_subject(info["config"]["filter_subject"])[1]


def _seq_of(key: str) -> int:
    """Of a record's key; 0 for a key that is none."""
    try:
        return JobId.from_key(key).seq
    except LaunchError:
        return 0


def _after(time: str, seconds: float) -> str:
    return (parse_time(time) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def is_paused(info: dict[str, Any]) -> bool:
    """Whether the stream is marked as paused."""
    return (info["config"].get("metadata") or {}).get(PAUSED_FLAG) == "true"


def unknown_queue(queue: str, known: Sequence[str] = ()) -> NotFound:
    """That there is no such queue, and which there are if they are `known`."""
    names = f"there are: {', '.join(known)}" if known else "`launch queue apply FILE` makes one"
    return NotFound(f"there is no queue '{queue[:80]}'", hint=names)
