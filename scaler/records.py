"""What runs where, and how long jobs last: read from the records of the jobs that present agents hold.

A job's record is read when an agent is first seen to hold it, and once more when none does any more: two reads a job,
however many records there are, instead of following them all. Invariant: bounded; what is read never makes a look wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping

import structlog

from launch.core.capacity import Amount
from launch.errors import LaunchError
from launch.ports import Clock, Records
from launch.record import JobRecord
from launch.subjects import JobId
from scaler.core.durations import Durations
from scaler.core.snapshot import Running

AT_ONCE = 32
"""How many records are read at a time."""
WAITING_AT_MOST = 10_000
"""How many jobs wait for their records to be read; beyond, the oldest are left out."""
RETRY_S = 1.0

log = structlog.stdlib.get_logger("scaler")


class RunningJobs:
    """The running jobs of one queue."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self.durations = Durations()
        self._records = records
        self._clock = clock
        self._held: frozenset[str] = frozenset()
        self._running: dict[str, Running] = {}
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._some = asyncio.Event()

    def follow(self, held: frozenset[str]) -> None:
        """These jobs are in somebody's hands now."""
        if held == self._held:
            return
        for job_id in held ^ self._held:
            self._waiting[job_id] = None
            self._waiting.move_to_end(job_id)
        while len(self._waiting) > WAITING_AT_MOST:
            self._waiting.popitem(last=False)
        for job_id in self._running.keys() - held:
            if job_id not in self._waiting:
                del self._running[job_id]
        self._held = held
        self._some.set()

    def of(self, holds: tuple[str, ...]) -> tuple[Running, ...]:
        """What is known of these jobs."""
        return tuple(found for job_id in holds if (found := self._running.get(job_id)) is not None)

    async def run(self, tell: Callable[[], None]) -> None:
        """Read what there is to read, until cancelled; `tell` hears when more is known of what runs."""
        while True:
            await self._some.wait()
            batch = self._batch()
            if not batch:
                self._some.clear()
                continue
            try:
                await asyncio.gather(*(self._read(job_id) for job_id in batch))
            except LaunchError as error:
                log.info("running jobs can't be read", why=error.message)
                await asyncio.sleep(RETRY_S)
                continue
            if any(job_id in self._running for job_id in batch):
                tell()

    async def read_all(self) -> None:
        """Read what there is to read now. Raises `LaunchError`."""
        while self._waiting:
            await asyncio.gather(*(self._read(job_id) for job_id in self._batch()))

    def _batch(self) -> list[str]:
        return [self._waiting.popitem(last=False)[0] for _ in range(min(AT_ONCE, len(self._waiting)))]

    async def _read(self, job_id: str) -> None:
        found = await self._records.get(JobId.parse(job_id))
        if found is None:
            self._running.pop(job_id, None)
            return
        record = found.value
        if job_id in self._held:
            started_at = record.started_at or record.claimed_at or self._clock.now()
            self._running[job_id] = Running(job_id, record.job_type, _amount(record), started_at)
        else:
            self._running.pop(job_id, None)
            self._note_end(record)

    def _note_end(self, record: JobRecord) -> None:
        """What was cut short says nothing of how long such jobs last."""
        if record.started_at is not None and record.finished_at is not None and record.exit_code is not None:
            self.durations.add(record.job_type, (record.finished_at - record.started_at).total_seconds())

    def restore(self, past: Mapping[str, tuple[float, ...]]) -> None:
        """Begin with what an earlier leader knew."""
        self.durations = Durations(past)


def _amount(record: JobRecord) -> Amount:
    if record.held is not None:
        return record.held
    return record.spec.resources.amount() if record.spec is not None else Amount(slots=1)
