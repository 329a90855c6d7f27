"""A handle on one job: its record, its timeline, its output, its end.

Cheap to make and valid from any client. Nothing is polled: `wait` and `logs` are driven by watches, which survive
reconnects. What a handle changes of a record is only ever the cancel request, or, of a job that nobody has claimed, the
cancelled state itself.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from launch.artifacts import matching, open_artifacts
from launch.core.points import Seen
from launch.core.states import Event, Reason, State
from launch.core.why import Why
from launch.errors import Conflict, LaunchError, NotFound
from launch.fetch import Fetched, Fetching, fetch
from launch.files import Manifest
from launch.lines import LineJoiner, LogLine, Wanted
from launch.points import Point
from launch.ports import Broker, Changed, Clock, LogChunk
from launch.record import CancelRequest, JobRecord
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record
from launch.waiting import why_of

T = TypeVar("T")

CLOCKS_APART = timedelta(minutes=1)
"""At most so much later than the server's clock may the worker's be, or some of what was asked for is not found."""

_TRIES = 20
"""How often a compare-and-set is tried again before giving up: each lost try means that somebody else moved it."""


class Job:
    """A handle on one job."""

    def __init__(self, broker: Broker, clock: Clock, job: JobId, *, duplicate: bool = False) -> None:
        self.id = job
        self.duplicate = duplicate
        """Whether the submit that gave this handle was recognised as a repeat."""
        self._broker = broker
        self._clock = clock
        self._over: JobRecord | None = None  # the terminal record, once waited for: it stays as it is

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    async def record(self) -> JobRecord:
        """What is known of the job now; for one that no agent has claimed, made from its message. Raises `NotFound`."""
        for _ in range(2):
            if found := await self._broker.records.get(self.id):
                return found.value
            if message := await self._broker.jobs.get(self.id):
                return unclaimed_record(message)
            # Neither: it may have been claimed and finished between the two looks, so look once more.
        raise NotFound(f"there is no job {self.id}", hint=f"launch jobs -q {self.id.queue} lists them")

    async def history(self) -> list[JobRecord]:
        """The record's past values, oldest first; only the present one if it has no record. Raises `NotFound`."""
        return await self._broker.records.history(self.id) or [await self.record()]

    async def why(self, record: JobRecord | None = None) -> Why | None:
        """What the job waits for; None if it runs or is over. Raises `NotFound`."""
        record = record or await self.record()
        if record.state is State.RUNNING or record.state.terminal:
            return None
        return await why_of(self._broker, record, self._clock.now())

    async def cancel(self) -> JobRecord:
        """Ask for the job's end; returns its record as it stands then.

        A job that no agent has claimed is cancelled at once; a claimed one when its agent has stopped it (`wait` for
        that); one that is over stays as it is. Raises `NotFound`.
        """
        for _ in range(_TRIES):
            try:
                return await self._try_cancel()
            except Conflict:
                continue
        raise Conflict(f"the record of {self.id} changed {_TRIES} times meanwhile", hint="try again")

    async def _try_cancel(self) -> JobRecord:
        found = await self._broker.records.get(self.id)
        record = found.value if found else await self.record()
        if record.state.terminal:
            return record
        now = self._clock.now()
        request = record.cancel or CancelRequest(requested_at=now, by=_whoami())
        if record.state is State.QUEUED:
            said = f"cancelled by {request.by} while queued"
            ended = record.moved(
                Event.CANCEL, now, cancel=request, reason=Reason.CANCELLED, message=said, finished_at=now
            )
            if found:
                await self._broker.records.update(ended, found.revision)
            else:
                await self._broker.records.create(ended)
            await self._broker.jobs.discard(self.id)
            return ended
        if found is None:
            raise Conflict(f"{self.id} was claimed just now")
        if record.cancel is None:
            record = record.model_copy(update={"cancel": request, "updated_at": now})
            await self._broker.records.update(record, found.revision)
        await self._broker.cancels.announce(self.id)
        return record

    async def changes(self) -> AsyncGenerator[JobRecord]:
        """The record as it is now and each time it changes, up to a terminal one. Close it if you leave early.

        Raises `NotFound` if there is no such job, or its record is deleted meanwhile.
        """
        async with aclosing(self._broker.records.watch(job=self.id)) as watch:
            seen = False
            async for change in watch:
                if isinstance(change, Changed):
                    if change.value is None:
                        raise NotFound(f"the record of {self.id} was deleted")
                    seen = True
                    yield change.value
                    if change.value.state.terminal:
                        return
                elif not seen:
                    record = await self.record()
                    yield record
                    if record.state.terminal:
                        return

    async def wait(self, timeout: float | None = None) -> JobRecord:
        """The terminal record, once there is one. Raises `TimeoutError` after `timeout` seconds, and `NotFound`.

        A handle that knows it, from an earlier `wait` or from `logs` that were followed to their end, does not ask the
        server again.
        """
        if self._over is not None:
            return self._over
        async with asyncio.timeout(timeout), aclosing(self.changes()) as changes:
            async for record in changes:
                if record.state.terminal:
                    self._over = record
                    return record
        raise LaunchError(f"the watch of {self.id} ended early")  # a broker that breaks its contract

    async def logs(
        self,
        *,
        follow: bool = True,
        tail: int | None = None,
        since: datetime | None = None,
        attempt: int | None = None,
    ) -> AsyncGenerator[LogLine]:
        """The job's output, line by line, in the order in which it was stored.

        With `follow` it ends when the job is over and everything stored has been given out; without, at the last line
        stored now. `attempt` leaves out every other attempt's, and `since` (aware) what was printed earlier, but for
        up to a second's worth; of the rest `tail` starts at the last so many lines. Raises `NotFound`. Close it if
        you leave early.
        """
        await self.record()
        joiner = LineJoiner()
        wanted = Wanted(attempt, since)
        seen = await self._broker.logs.before(self.id, since - CLOCKS_APART) if since is not None else 0
        if tail == 0:
            seen = await self._broker.logs.last_seq(self.id)
        elif tail is not None:
            past: deque[LogLine] = deque(maxlen=tail)
            async with aclosing(self._end(seen, tail, wanted)) as chunks:
                async for chunk in chunks:
                    seen = chunk.seq
                    if chunk in wanted:
                        past.extend(joiner.feed(chunk))
            if not follow:
                past.extend(joiner.flush())
            for line in list(past)[max(0, len(past) + joiner.pending - tail) :]:
                yield line
        if follow or tail is None:
            async with aclosing(self._chunks(seen, follow=follow)) as chunks:
                async for chunk in chunks:
                    if chunk in wanted:
                        for line in joiner.feed(chunk):
                            yield line
        for line in joiner.flush():
            yield line

    async def _end(self, seen: int, lines: int, wanted: Wanted) -> AsyncGenerator[LogChunk]:
        """The last chunks after `seen`, enough for so many wanted lines: read from the end, where that is enough."""
        stored = [chunk for chunk in await self._broker.logs.tail(self.id, lines) if chunk.seq > seen]
        count = sum(chunk.data.count(b"\n") for chunk in stored if chunk in wanted)
        if count > lines or all(chunk in wanted for chunk in stored) or wanted.starts_within(stored):
            for chunk in stored:
                yield chunk
            return
        async with aclosing(self._chunks(seen, follow=False)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _chunks(self, seen: int, *, follow: bool) -> AsyncGenerator[LogChunk]:
        """Chunks after `seen`; when following, until the job is over and its last chunk was given out."""
        chunks = self._broker.logs.read(self.id, after_seq=seen, follow=follow)
        if not follow:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
            return
        # Both tasks are owned here: they are always ended before this generator is.
        end = asyncio.create_task(self._last_seq_when_over(), name=f"end of {self.id}")
        pull: asyncio.Task[LogChunk] | None = None
        try:
            while not (end.done() and seen >= end.result()):
                pull = pull or asyncio.create_task(_next(chunks), name=f"logs of {self.id}")
                # Once the end is known, only chunks are still to come.
                await asyncio.wait({pull} if end.done() else {pull, end}, return_when=asyncio.FIRST_COMPLETED)
                if pull.done():
                    chunk, pull = pull.result(), None
                    seen = chunk.seq
                    yield chunk
        finally:
            await _end([task for task in (pull, end) if task is not None])
            await chunks.aclose()

    async def metrics(self, *, follow: bool = True) -> AsyncGenerator[Point]:
        """What the job has reported and used, of every attempt, in the order in which it was stored.

        With `follow` it ends when the job is over and everything stored has been given out; without, at the last point
        stored now. Raises `NotFound`. Close it if you leave early.
        """
        await self.record()
        seen = Seen()
        if follow:
            points = self._broker.metrics.read(self.id, follow=True)
            # Both tasks are owned here: they are always ended before this generator is.
            end = asyncio.create_task(self.wait(), name=f"end of {self.id}")
            pull: asyncio.Task[Point] | None = None
            try:
                while not end.done():
                    pull = pull or asyncio.create_task(_next(points), name=f"metrics of {self.id}")
                    await asyncio.wait({pull, end}, return_when=asyncio.FIRST_COMPLETED)
                    if pull.done():
                        point, pull = pull.result(), None
                        if seen.is_new(point):
                            yield point
                await end
            finally:
                await _end([task for task in (pull, end) if task is not None])
                await points.aclose()
        # What was stored before the end, and has not been given out.
        async with aclosing(self._broker.metrics.read(self.id)) as points:
            async for point in points:
                if seen.is_new(point):
                    yield point

    async def artifacts(self, attempt: int | None = None) -> Manifest:
        """What an attempt left, by default the last that left something.

        Raises `NotFound`, which says why there is nothing, and `StoreError`.
        """
        async with open_artifacts(self._broker, await self.record(), attempt) as found:
            return found.manifest

    async def fetch_artifacts(
        self,
        folder: Path | str,
        patterns: Sequence[str] = (),
        *,
        attempt: int | None = None,
        force: bool = False,
        progress: Fetching | None = None,
    ) -> Fetched:
        """Bring what an attempt left, or what of it matches a pattern, into a folder; files that are there are kept.

        Raises `NotFound`, `StoreError`, `Conflict` (a file is there and differs, without `force`), `LaunchError`.
        """
        async with open_artifacts(self._broker, await self.record(), attempt) as found:
            files = matching(found.manifest.files, patterns)
            return await fetch(found.store, files, Path(folder), force=force, progress=progress)

    async def _last_seq_when_over(self) -> int:
        await self.wait()
        return await self._broker.logs.last_seq(self.id)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
