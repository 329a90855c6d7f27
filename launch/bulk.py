"""Many jobs at once: in batches that the broker stores whole or not at all, one after the other, in the order given.

The invariant: what is stored is always the first so many of the jobs, each once. A batch whose answer is lost is sent
again under the same message id until the broker says what became of it, so only an end in the midst of that leaves any
doubt, and whoever repeats the call in time does not double it.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from launch.errors import BrokerUnavailable, LaunchError, QueueFull, SpecError
from launch.ports import Broker, NewJob
from launch.subjects import JobId

BATCH_JOBS = 1000
"""As many as a server takes in one batch, unless it is set up otherwise."""
BATCH_BYTES = 4 * 2**20
"""A batch of larger specs has fewer: it is sent again whole."""
PATIENCE_S = 30.0
"""How long a batch is sent again while the broker does not answer: less than its window for repeats."""
RETRY_S = 0.25

Progress = Callable[[int], None]


class JobIds(Sequence[JobId]):
    """The ids of one queue's jobs, in the order in which they were given; a million of them take no room."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._spans: list[range] = []
        self._ends: list[int] = []

    def add(self, first_seq: int, count: int) -> None:
        """Take in so many more, whose sequences follow each other."""
        last = self._spans[-1] if self._spans else range(0)
        if last.stop == first_seq:
            self._spans[-1] = range(last.start, last.stop + count)
            self._ends[-1] += count
        else:
            self._spans.append(range(first_seq, first_seq + count))
            self._ends.append(len(self) + count)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> JobId: ...
    @overload
    def __getitem__(self, index: slice) -> list[JobId]: ...
    def __getitem__(self, index: int | slice) -> JobId | list[JobId]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        place = bisect.bisect_right(self._ends, number)
        return JobId(self._queue, self._spans[place][number - self._ends[place]])

    def __iter__(self) -> Iterator[JobId]:
        return (JobId(self._queue, seq) for span in self._spans for seq in span)

    def __repr__(self) -> str:
        spans = ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in self._spans[:5])
        return f"<{len(self)} jobs of {self._queue}: {spans}{', …' if len(self._spans) > 5 else ''}>"


class BulkInterrupted(LaunchError):
    """Not all jobs were submitted: `stored` has the ids of the first so many, which were.

    The same call with this `msg_id`, and with `skip` set to `done`, goes on: nothing is stored twice. If the broker did
    not answer (`__cause__` is `BrokerUnavailable`) the next batch may be stored, too; then that has to begin within two
    minutes, the window in which the broker knows a repeat.
    """

    def __init__(self, stored: JobIds, error: Exception, *, msg_id: str, done: int) -> None:
        self.stored = stored
        self.msg_id = msg_id
        self.done = done
        text = error.message if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
        soon = " within two minutes: the next ones may be stored" if isinstance(error, BrokerUnavailable) else ""
        first = "once there is room, " if isinstance(error, QueueFull) else ""
        first = "mend it or leave it out; then " if isinstance(error, SpecError) else first
        super().__init__(
            f"stored the first {done} jobs, then: {text}",
            hint=f"{first}the same call with msg_id={msg_id!r} and skip={done} goes on{soon}",
        )


async def submit_all(
    broker: Broker, queue: str, jobs: Iterable[NewJob], *, msg_id: str, skip: int, progress: Progress | None
) -> JobIds:
    """Store jobs, which come after the `skip` that are stored; see `launch.client.Client.submit_many`.

    Raises `BulkInterrupted`.
    """
    stored = JobIds(queue)
    done = skip
    try:
        for batch in _batches(jobs):
            first = await _stored(broker, queue, batch, f"{msg_id}/{done}")
            stored.add(first.seq, len(batch))
            done += len(batch)
            if progress is not None:
                progress(done)
    except Exception as error:
        raise BulkInterrupted(stored, error, msg_id=msg_id, done=done) from error
    return stored


def _batches(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    """The jobs in batches; the cut depends on what follows alone, so that a repeat from here on cuts the same way."""
    batch: list[NewJob] = []
    size = 0
    for job in jobs:
        if len(batch) == BATCH_JOBS or (batch and size + len(job.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += len(job.body)
    if batch:
        yield batch


async def _stored(broker: Broker, queue: str, batch: Sequence[NewJob], msg_id: str) -> JobId:
    """The first job of the batch, once it is stored; sent again while nobody says whether it is."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + PATIENCE_S
    while True:
        try:
            return (await broker.jobs.publish_batch(queue, batch, msg_id=msg_id)).job
        except BrokerUnavailable:
            if loop.time() >= until_s:
                raise
        await asyncio.sleep(RETRY_S)
