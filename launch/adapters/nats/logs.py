"""Job output in the `logs` stream: stored in order by one writer a job, read by anybody."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.nats.connection import Connection, header_of
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError, NobodyAnswered
from launch.adapters.nats.reader import read_stream
from launch.errors import BrokerError
from launch.ports import LogChunk, Synced
from launch.subjects import JobId

HEADER_ROOM = 1024
TAIL_FIRST_SPAN = 256


class NatsLogs:
    """`launch.ports.Logs`.

    A write whose answer was lost may have been stored. The next append to that job therefore first looks at the last
    stored chunk and skips what it already finds there, so a repeated append neither loses nor doubles a line.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unsure: set[JobId] = set()

    @property
    def max_chunk_bytes(self) -> int:
        return max(1024, self._connection.max_payload - HEADER_ROOM)

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        left = list(chunks)
        if job in self._unsure:
            stored = await self._last(job)
            for index in range(len(left) - 1, -1, -1):
                if stored is not None and _same(stored, left[index]):
                    left = left[index + 1 :]
                    break
        self._unsure.add(job)
        for chunk in left:
            headers = {
                subjects.HEADER_LOG_SOURCE: chunk.source,
                subjects.HEADER_LOG_ATTEMPT: str(chunk.attempt),
                subjects.HEADER_LOG_TIME: chunk.time,
            }
            await self._connection.publish_stored(subjects.log_subject(job), chunk.data, headers=headers)
        self._unsure.discard(job)

    async def last_seq(self, job: JobId) -> int:
        last = await self._last(job)
        return 0 if last is None else last.seq

    async def read(self, job: JobId, *, after_seq: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk]:
        stream = read_stream(
            self._connection, subjects.LOG_STREAM, subjects.log_subject(job), after_seq=after_seq, follow=follow
        )
        async with aclosing(stream) as messages:
            async for msg in messages:
                if not isinstance(msg, Synced):
                    yield _chunk(msg, msg.metadata.sequence.stream)

    async def tail(self, job: JobId, lines: int) -> builtins.list[LogChunk]:
        last = await self._last(job)
        if last is None or lines < 1:
            return []
        span = TAIL_FIRST_SPAN
        while True:
            start = max(0, last.seq - span)
            chunks = [chunk async for chunk in self.read(job, after_seq=start)]
            if start == 0 or sum(chunk.data.count(b"\n") for chunk in chunks) > lines:
                return chunks
            span *= 8

    async def _last(self, job: JobId) -> LogChunk | None:
        subject = f"$JS.API.DIRECT.GET.{subjects.LOG_STREAM}.{subjects.log_subject(job)}"
        try:
            msg = await self._connection.request(subject, what="read logs")
        except NobodyAnswered:
            try:
                await self._connection.api(f"STREAM.INFO.{subjects.LOG_STREAM}")
            except ApiError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    return None
                raise
            raise
        if header_of(msg, "Status"):
            return None
        return _chunk(msg, int(header_of(msg, "Nats-Sequence")))


def _chunk(msg: Msg, seq: int) -> LogChunk:
    attempt = header_of(msg, subjects.HEADER_LOG_ATTEMPT)
    if not attempt.isdecimal():
        raise BrokerError(f"a message on {msg.subject} is no log chunk: it lacks {subjects.HEADER_LOG_ATTEMPT}")
    return LogChunk(
        source=header_of(msg, subjects.HEADER_LOG_SOURCE),
        attempt=int(attempt),
        time=header_of(msg, subjects.HEADER_LOG_TIME),
        data=msg.data,
        seq=seq,
    )


def _same(one: LogChunk, other: LogChunk) -> bool:
    return (one.source, one.attempt, one.time, one.data) == (other.source, other.attempt, other.time, other.data)
