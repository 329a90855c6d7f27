"""What scalers tell: the latest report of each queue in a bucket, decisions and instances' lives in streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from nats.aio.msg import Msg
from pydantic import BaseModel

from launch import subjects
from launch.adapters.nats.bucket import Bucket
from launch.adapters.nats.connection import Connection, header_of
from launch.adapters.nats.reader import read_stream
from launch.adapters.nats.records import parsed
from launch.logging import Logger
from launch.ports import Synced
from launch.scaling import DecisionReport, InstanceEnd, ScalingReport

M = TypeVar("M", bound=BaseModel)

CLOCKS_APART = timedelta(minutes=5)
"""How much earlier than a life ended, by its scaler's clock, it may have been stored, by the server's."""

_log = Logger(__name__)


class NatsScaling:
    """`launch.scaling.Scaling`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bucket = Bucket(connection, subjects.SCALER_BUCKET)

    async def report(self, report: ScalingReport) -> None:
        await self._bucket.put(subjects.scaler_report_key(report.queue), _json(report))

    async def latest(self, queue: str) -> ScalingReport | None:
        entry = await self._bucket.get(subjects.scaler_report_key(queue))
        return None if entry is None else parsed(entry, ScalingReport.model_validate_json)

    async def decided(self, queue: str, decision: DecisionReport) -> None:
        await self._store(subjects.DECISIONS_STREAM, subjects.decision_subject(queue), decision)

    async def decisions(self, queue: str) -> list[DecisionReport]:
        subject = subjects.decision_subject(queue)
        return [found async for found in self._read(subjects.DECISIONS_STREAM, subject, DecisionReport, after_seq=0)]

    async def ended(self, queue: str, instance: InstanceEnd) -> None:
        await self._store(subjects.SCALING_STREAM, subjects.instance_subject(queue), instance)

    async def ends(self, queue: str, since: datetime | None = None) -> list[InstanceEnd]:
        subject = subjects.instance_subject(queue)
        after_seq = 0 if since is None else await self._before(subject, since - CLOCKS_APART)
        first: dict[str, InstanceEnd] = {}
        if after_seq is not None:
            async for life in self._read(subjects.SCALING_STREAM, subject, InstanceEnd, after_seq=after_seq):
                if since is None or life.ended_at >= since:
                    first.setdefault(life.id, life)
        return sorted(first.values(), key=lambda life: life.ended_at)

    async def forget(self, queue: str) -> None:
        # The lives of its instances stay: they have been paid for.
        await self._bucket.purge(subjects.scaler_report_key(queue))
        request = {"filter": subjects.decision_subject(queue)}
        await self._connection.api(f"STREAM.PURGE.{subjects.DECISIONS_STREAM}", request)

    async def _store(self, stream: str, subject: str, value: BaseModel) -> None:
        await self._connection.of_stream(stream, lambda: self._connection.publish_stored(subject, _json(value)))

    async def _before(self, subject: str, moment: datetime) -> int | None:
        """The sequence before the first message stored since; None if there is no such message."""
        query = {"next_by_subj": subject, "start_time": moment.astimezone(UTC).isoformat()}
        found = await self._connection.direct_get(subjects.SCALING_STREAM, query, what="read lives of instances")
        return None if found is None else int(header_of(found, "Nats-Sequence")) - 1

    async def _read(self, stream: str, subject: str, model: type[M], *, after_seq: int) -> AsyncGenerator[M]:
        """What lies on a subject; what can't be read is left out."""
        messages = read_stream(self._connection, stream, subject, after_seq=after_seq, follow=False)
        async with aclosing(messages):
            async for msg in messages:
                value = None if isinstance(msg, Synced) else _value(msg, model)
                if value is not None:
                    yield value


def _value(msg: Msg, model: type[M]) -> M | None:
    try:
        return model.model_validate_json(msg.data)
    except ValueError:
        _log.warning("a message that can't be read is left out", subject=msg.subject)
        return None


def _json(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_none=True).encode()
