"""Points of jobs in the `metrics` stream: appended in order by their agent, read by anybody."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from launch import subjects
from launch.adapters.nats.connection import Connection, header_of
from launch.adapters.nats.reader import read_stream
from launch.core.points import MESSAGE_BYTES, Seen, from_message, to_messages
from launch.logging import Logger
from launch.points import Point
from launch.ports import Synced
from launch.subjects import JobId

HEADER_ROOM = 1024

_log = Logger(__name__)


class NatsMetrics:
    """`launch.points.Metrics`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def append(self, job: JobId, points: Sequence[Point]) -> None:
        max_bytes = min(MESSAGE_BYTES, self._connection.max_payload - HEADER_ROOM)
        for message in to_messages(points, max_bytes=max_bytes):
            publish = partial(
                self._connection.publish_stored, subjects.metrics_subject(job), message.body, headers=message.headers
            )
            await self._connection.of_stream(subjects.METRICS_STREAM, publish)

    async def read(self, job: JobId, *, follow: bool = False) -> AsyncGenerator[Point]:
        seen = Seen()
        stream = read_stream(
            self._connection, subjects.METRICS_STREAM, subjects.metrics_subject(job), after_seq=0, follow=follow
        )
        async with aclosing(stream) as messages:
            async for msg in messages:
                if isinstance(msg, Synced):
                    continue
                source, attempt = (
                    header_of(msg, name) for name in (subjects.HEADER_POINT_SOURCE, subjects.HEADER_POINT_ATTEMPT)
                )
                points = from_message(source, attempt, msg.data)
                if points is None:
                    _log.warning("a message that holds no points is left out", seq=msg.metadata.sequence.stream)
                    continue
                for point in points:
                    if seen.is_new(point):
                        yield point
