"""Job output in the `logs` stream: stored in order by one writer a job, read by anybody."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.nats.connection import Connection, header_of
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError
from launch.adapters.nats.reader import read_stream
from launch.logging import Logger
from launch.ports import LogChunk, Synced
from launch.subjects import JobId

HEADER_ROOM = 1024
TAIL_FIRST_SPAN = 256
_HEADERS = (subjects.HEADER_LOG_SOURCE, subjects.HEADER_LOG_ATTEMPT, subjects.HEADER_LOG_TIME)

_log = Logger(__name__)


class NatsLogs:
    """`launch.ports.Logs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def max_chunk_bytes(self) -> int:
        return max(1024, self._connection.max_payload - HEADER_ROOM)

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        for chunk in chunks:
            headers = dict(zip(_HEADERS, (chunk.source, str(chunk.attempt), chunk.time), strict=True))
            await self._connection.publish_stored(subjects.log_subject(job), chunk.data, headers=headers)

    async def last_seq(self, job: JobId) -> int:
        last = await self._last(job)
        if last is None:
            return 0
        seq = _seq(last)
        if _chunk(last, seq) is not None:
            return seq
        chunks = await self._before(job, seq, 1)
        return chunks[-1].seq if chunks else 0

    async def read(self, job: JobId, *, after_seq: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk]:
        stream = read_stream(
            self._connection, subjects.LOG_STREAM, subjects.log_subject(job), after_seq=after_seq, follow=follow
        )
        async with aclosing(stream) as messages:
            async for msg in messages:
                chunk = None if isinstance(msg, Synced) else _chunk(msg, msg.metadata.sequence.stream)
                if chunk is not None:
                    yield chunk

    async def before(self, job: JobId, moment: datetime) -> int:
        query = {"next_by_subj": subjects.log_subject(job), "start_time": moment.astimezone(UTC).isoformat()}
        found = await self._asked(query)
        return _seq(found) - 1 if found is not None else await self.last_seq(job)

    async def tail(self, job: JobId, lines: int) -> builtins.list[LogChunk]:
        last = await self._last(job) if lines > 0 else None
        return [] if last is None else await self._before(job, _seq(last), lines)

    async def _before(self, job: JobId, seq: int, lines: int) -> builtins.list[LogChunk]:
        """The last chunks, enough to hold so many lines, looked for back from `seq`."""
        span = TAIL_FIRST_SPAN
        while True:
            start = max(0, seq - span)
            chunks = [chunk async for chunk in self.read(job, after_seq=start)]
            if start == 0 or sum(chunk.data.count(b"\n") for chunk in chunks) > lines:
                return chunks
            span *= 8

    async def _last(self, job: JobId) -> Msg | None:
        """The last message on the job's subject, whatever it is."""
        return await self._asked(subjects.log_subject(job))

    async def _asked(self, wanted: str | Mapping[str, Any]) -> Msg | None:
        """The message that a direct get finds."""
        try:
            return await self._connection.direct_get(subjects.LOG_STREAM, wanted, what="read logs")
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise


def _seq(msg: Msg) -> int:
    """Of the answer to a direct get."""
    return int(header_of(msg, "Nats-Sequence"))


def _chunk(msg: Msg, seq: int) -> LogChunk | None:
    """The chunk, or None for a message that somebody else has put there: it must not end what is read."""
    source, attempt, time = (header_of(msg, name) for name in _HEADERS)
    if not (source and time and attempt.isascii() and attempt.isdecimal()):
        _log.warning("a message that is no output is left out", seq=seq, headers=sorted(msg.headers or {}))
        return None
    return LogChunk(source, int(attempt), time, msg.data, seq)
