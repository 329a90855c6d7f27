"""Many jobs at once: in batches that the broker stores whole or not at all, one after the other, in the order given.

The invariant: what is stored is always the first so many of the jobs, each once. A batch whose answer is lost is sent
again under the same message id until the broker says what became of it, so only an end in the midst of that leaves any
doubt, and whoever repeats the call in time does not double it.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import overload

from launch.errors import (
    BrokerUnavailable,
    BrokerUnsuitable,
    ForgottenBatch,
    LaunchError,
    OtherBatch,
    QueueFull,
    SpecError,
)
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
        self.repeated = 0
        """How many of them an earlier call had stored, under the same message id."""
        self.queue = queue
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

    def spans(self) -> list[tuple[JobId, JobId]]:
        """The first and the last of each run of ids that follow each other: one, unless others submit meanwhile."""
        return [(JobId(self.queue, span[0]), JobId(self.queue, span[-1])) for span in self._spans]

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
        return JobId(self.queue, self._spans[place][number - self._ends[place]])

    def __iter__(self) -> Iterator[JobId]:
        return (JobId(self.queue, seq) for span in self._spans for seq in span)

    def __repr__(self) -> str:
        spans = ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in self._spans[:5])
        return f"<{len(self)} jobs of {self.queue}: {spans}{', …' if len(self._spans) > 5 else ''}>"


class BulkInterrupted(LaunchError):
    """Not all jobs were submitted: the first `done` of them were, and `stored` has the ids of those that this call did.

    `done` counts from the first job of all, so with `skip` there are `done - skip` ids. The same call with this
    `msg_id`, and with `skip` set to `done`, goes on: nothing is stored twice. If the broker did not answer (`__cause__`
    is `BrokerUnavailable`) the next batch may be stored, too; then that has to begin within two minutes, the window in
    which the broker knows a repeat. After `OtherBatch` it does not go on.
    """

    def __init__(self, stored: JobIds, error: Exception, *, msg_id: str, done: int) -> None:
        self.stored = stored
        self.msg_id = msg_id
        self.done = done
        text = error.message if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
        super().__init__(
            f"stored the first {done} jobs, then: {text}" if done else f"stored no job: {text}",
            hint=how_to_go_on(error, f"the same call with msg_id={msg_id!r} and skip={done}", done=done),
        )


def how_to_go_on(error: Exception, again: str, *, done: int) -> str:
    """What to do after this error, where `again` is what repeats the call from the first job that is not stored."""
    if isinstance(error, BrokerUnsuitable | ForgottenBatch):
        return error.hint or "see the server"
    if isinstance(error, OtherBatch):
        return (
            f"job {done + 1} was stored under this message id before, with others behind it, or more or fewer, than "
            "now: leave out what is stored, and give the rest another message id"
        )
    soon = " within two minutes: the next ones may be stored" if isinstance(error, BrokerUnavailable) else ""
    first = "once there is room, " if isinstance(error, QueueFull) else ""
    first = "mend it or leave it out; then " if isinstance(error, SpecError) else first
    return f"{first}{again} goes on{soon}"


async def submit_all(
    broker: Broker,
    stored: JobIds,
    jobs: AsyncIterable[NewJob],
    *,
    msg_id: str,
    skip: int,
    progress: Progress | None,
) -> JobIds:
    """Store jobs, which come after the `skip` that are stored; see `launch.client.Client.submit_many`.

    Their ids are added to `stored`, batch by batch: who cancels this finds them there. Raises `BulkInterrupted`.
    """
    done = skip
    try:
        async with aclosing(_batches(jobs)) as batches:
            async for batch in batches:
                await _store(broker, stored, batch, f"{msg_id}/{done}")
                done += len(batch)
                if progress is not None:
                    progress(done)
    except Exception as error:
        raise BulkInterrupted(stored, error, msg_id=msg_id, done=done) from error
    return stored


async def _batches(jobs: AsyncIterable[NewJob]) -> AsyncGenerator[list[NewJob]]:
    """The jobs in batches; the cut depends on what follows alone, so that a repeat from here on cuts the same way."""
    batch: list[NewJob] = []
    size = 0
    async for job in jobs:
        if len(batch) == BATCH_JOBS or (batch and size + len(job.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += len(job.body)
    if batch:
        yield batch


async def _store(broker: Broker, stored: JobIds, batch: Sequence[NewJob], msg_id: str) -> None:
    """Returns once the batch is stored; it is sent again while nobody says whether it is."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + PATIENCE_S
    again = False
    while True:
        try:
            published = await broker.jobs.publish_batch(stored.queue, batch, msg_id=msg_id)
        except BrokerUnavailable:
            if loop.time() >= until_s:
                raise
        else:
            stored.add(published.job.seq, len(batch))
            stored.repeated += len(batch) if published.duplicate and not again else 0
            return
        again = True
        await asyncio.sleep(RETRY_S)
