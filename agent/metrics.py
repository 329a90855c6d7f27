"""What an attempt reports of itself, on its way to the broker: marked lines of output, and the file `$LAUNCH_METRICS`.

Points are stored before the output that holds them is, so that a restart, which reads the output again from the last
piece stored, finds them again; readers leave out what was there already. Trouble with points never decides what
becomes of a job, and never stops its output: what can't be stored is told in the agent's log and given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from agent.core.metric_lines import BURST_POINTS, POINTS_A_S, Budget, LineScanner
from agent.core.tar_entry import FirstFile
from agent.log_sender import FIRST_DELAY_S, MAX_DELAY_S, REFUSALS
from agent.ports import Engine, EngineError, EngineUnavailable
from agent.usage import UsageSampler
from launch.errors import BrokerError, BrokerUnavailable
from launch.points import Metrics, Point, PointSource
from launch.ports import Clock, LogChunk
from launch.subjects import METRICS_FILE, JobId

POINTS_LEFT_OUT: Final = "points_left_out"
"""The value by which an attempt's end says how many points were thinned out."""

FIRST_LOOK_S: Final = 5.0
LAST_LOOK_S: Final = 60.0
"""The file is looked for after the first, and ever less often while it does not change, up to the second."""
READ_BYTES_A_S: Final = 1024 * 1024
"""The engine gives the whole file each time: it is read no faster than this, on the whole."""
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""What is beyond in the file is not read."""
LAST_READS: Final = 6
"""So often an engine that is away is asked for the file at the end."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reporting:
    """What the agent's jobs report their points with."""

    metrics: Metrics
    engine: Engine
    clock: Clock
    usage: UsageSampler

    def job(
        self, job: JobId, attempt: int, container: str, *, started_at: datetime, gpus: Sequence[str] = ()
    ) -> JobMetrics:
        """The points of one attempt, whose container has been started. `gpus` are the UUIDs that it holds."""
        usage = self.usage.watching(job, attempt, container, gpus)
        return JobMetrics(
            self.metrics, self.engine, self.clock, job, attempt, container, started_at=started_at, usage=usage
        )


class JobMetrics:
    """The points that one attempt reports.

    Give `heard` to its `LogPump`, and run `watch` from when the container has been started. Once it has exited, call
    `exited`, which lets `watch` come to its end; when that and the pump have, await `finish`.
    """

    def __init__(
        self,
        metrics: Metrics,
        engine: Engine,
        clock: Clock,
        job: JobId,
        attempt: int,
        container: str,
        *,
        started_at: datetime,
        usage: AbstractContextManager[None] | None = None,
    ) -> None:
        self._of_output = _Sender(metrics, job)
        self._of_file = _Sender(metrics, job)
        self._clock = clock
        self._job = job
        self._attempt = attempt
        self._exited = asyncio.Event()
        self._budget = Budget()
        self._sources = {
            str(source): LineScanner(attempt, source, self._budget)
            for source in (PointSource.STDOUT, PointSource.STDERR)
        }
        ran_s = max(0.0, (clock.now() - started_at).total_seconds())
        self._file = _File(engine, container, attempt, ran_s)
        self._usage = usage or nullcontext()
        self._warned = False

    async def heard(self, chunk: LogChunk, offset: int) -> None:
        """Output, before it is stored; `offset` is where it begins in its source, in bytes. Stores its points."""
        scanner = self._sources.get(chunk.source)
        if scanner is None or self._of_output.given_up:
            return
        self._budget.grow(asyncio.get_running_loop().time())
        points = scanner.feed(chunk.data, offset, lambda: _time_of(chunk.time) or self._clock.now())
        if points:
            await self._of_output.send(points)
        self._warn()

    def exited(self) -> None:
        """The container does not run any more."""
        self._exited.set()

    async def watch(self) -> None:
        """Have its usage looked at, and take in what the job appends to its file; ends soon after `exited`."""
        with self._usage:
            await self._watch_file()
        await self._read_rest()

    async def _watch_file(self) -> None:
        """Look whether the file has changed, at intervals that grow while it has not, and with its size."""
        delay_s = FIRST_LOOK_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._exited.wait()
                    return
            try:
                size = await self._file.changed()
                if size is None:
                    delay_s = min(delay_s * 1.5, LAST_LOOK_S)
                    continue
                await self._read_file()
                delay_s = max(FIRST_LOOK_S, size / READ_BYTES_A_S)
            except (EngineError, EngineUnavailable):
                delay_s = min(delay_s * 2, LAST_LOOK_S)

    async def _read_rest(self) -> None:
        delay_s = FIRST_DELAY_S
        for _ in range(LAST_READS):
            try:
                if await self._file.changed() is not None:
                    await self._read_file()
                return
            except EngineUnavailable:
                await asyncio.sleep(delay_s)
                delay_s *= 4
            except EngineError as error:
                _log.warning("the metrics file could not be read", job=str(self._job), error=error.reply)
                return

    async def finish(self) -> None:
        """Call once `watch` has ended and all output has been heard: store what is left."""
        for scanner in self._sources.values():
            await self._of_output.send(scanner.finish())
        await self._of_file.send(self._file.scanner.finish())
        if left_out := self._budget.left_out + self._file.budget.left_out:
            now = self._clock.now()
            values = {POINTS_LEFT_OUT: float(left_out)}
            position = round(now.timestamp() * 1000)
            await self._of_output.send([Point(now, PointSource.USAGE, self._attempt, position, values)])

    async def _read_file(self) -> None:
        self._file.budget.grow(asyncio.get_running_loop().time())
        async with aclosing(self._file.read()) as pieces:
            async for at, data in pieces:
                await self._of_file.send(self._file.scanner.feed(data, at, self._clock.now))
        self._warn()

    def _warn(self) -> None:
        if not self._warned and self._budget.left_out + self._file.budget.left_out:
            self._warned = True
            _log.warning(
                "more points than are kept: some are left out",
                job=str(self._job),
                kept=f"{POINTS_A_S} a second after the first {BURST_POINTS}",
            )


class _File:
    """The job's own file: what of it has been read, and what is new."""

    def __init__(self, engine: Engine, container: str, attempt: int, ran_s: float) -> None:
        # It may all come at the end: then it may be as much as if it had come as it was written.
        self.budget = Budget(first=BURST_POINTS + POINTS_A_S * ran_s, most=float("inf"))
        self.scanner = LineScanner(attempt, PointSource.FILE, self.budget, marked=False)
        self._engine = engine
        self._container = container
        self._known: tuple[int, str] | None = None
        self._asked: tuple[int, str] | None = None
        self._read = 0

    async def changed(self) -> int | None:
        """The size of the file if it is not as it was when it was last asked for and read."""
        found = await self._engine.stat(self._container, METRICS_FILE)
        if found is None or found.is_dir or (found.size, found.modified) == self._known:
            return None
        self._asked = (found.size, found.modified)
        return found.size

    async def read(self) -> AsyncGenerator[tuple[int, bytes]]:
        """What is new in the file, and where that begins, piece by piece. Call after `changed`."""
        content, at = FirstFile(), 0
        async with aclosing(self._engine.get(self._container, METRICS_FILE)) as pieces:
            async for piece in pieces:
                try:
                    data = content.feed(piece)
                except ValueError as error:
                    raise EngineError("get", 500, f"{METRICS_FILE}: not a tar: {error}") from error
                at += len(data)
                fresh = data[max(0, len(data) - (at - self._read)) :] if at > self._read else b""
                if fresh:
                    self._read = at
                    yield at - len(fresh), fresh
                if content.ended:
                    break
                if at >= MAX_FILE_BYTES:
                    _log.warning("the metrics file is too large: the rest is not read", read_bytes=at)
                    break
        self._known = self._asked


class _Sender:
    """Stores points in order, again and again while the broker is away; gives up if it refuses.

    What a cancelled call could not store, the next one does.
    """

    def __init__(self, metrics: Metrics, job: JobId) -> None:
        self.given_up = False
        self._metrics = metrics
        self._job = job
        self._outgoing: list[Point] = []

    async def send(self, points: Sequence[Point]) -> None:
        self._outgoing += points
        delay_s, refusals = FIRST_DELAY_S, 0
        while self._outgoing and not self.given_up:
            try:
                await self._metrics.append(self._job, self._outgoing)
                self._outgoing = []
                return
            except BrokerUnavailable:
                pass
            except BrokerError as error:
                refusals += 1
                if refusals >= REFUSALS:
                    self.given_up = True
                    self._outgoing = []
                    _log.warning("the broker does not store points", job=str(self._job), error=str(error))
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)


def _time_of(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)  # nanoseconds are cut to microseconds
    except ValueError:
        return None
