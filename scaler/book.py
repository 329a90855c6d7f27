"""The pending jobs of one queue, read once each: a look reads only what has come since the last one.

Invariants: as many are read as the queue's workers could hold at once, and a few more; each look compares its count
with the broker's, and finds what has gone meanwhile before anything is launched for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

from launch.core.capacity import Amount
from launch.errors import SpecError
from launch.ports import Jobs, Message
from launch.queue import QueueSpec
from launch.specfile import parse_job_json
from launch.subjects import JobId
from scaler.core.backlog import Backlog
from scaler.core.forecast import Arrivals
from scaler.core.packing import Sizes, sizes_of
from scaler.core.snapshot import Pending, PendingJob

AT_LEAST = 32
"""Read this many messages even where few would do: a misfit at the head must not hide what is behind it."""
PAGE = 500


class Book:
    """The messages of a queue's stream from its first one on, as far as they are read.

    `arrivals` hears of each one once.
    """

    def __init__(self, jobs: Jobs, queue: str, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self._jobs = jobs
        self._queue = queue
        self._spec: QueueSpec | None = None
        self._backlog = Backlog()
        self._seqs: list[int] = []
        self._amounts: dict[int, Sizes] = {}
        self._kinds: Counter[Sizes] = Counter()
        self._heard_to = 0
        self._known_to = 0
        """Every message up to this sequence has been read, or was gone already."""
        self._gone_behind = 0
        """How many sequences behind that are known to have no message any more."""

    async def look(
        self, spec: QueueSpec, held: frozenset[str], room: int, capacity: Amount, *, at_most: int, paused: bool
    ) -> Pending:
        """The jobs that nobody holds, if there is room for so many. Raises `LaunchError`."""
        if self._spec is None or self._spec.defaults != spec.defaults:
            self._forget()
        self._spec = spec
        depth = await self._jobs.depth(self._queue, by_subject=False)
        if depth.last_seq < self._known_to:
            self._forget()  # It is another stream under the same name.
        self._drop(self._seqs[: bisect_left(self._seqs, depth.first_seq)] if depth.messages else list(self._seqs))
        self._known_to = max(self._known_to, min(depth.first_seq - 1, depth.last_seq))
        wanted = min(len(held) + max(AT_LEAST, room), at_most)
        while True:
            await self._read_on(depth.last_seq, wanted)
            whole = self._known_to >= depth.last_seq or len(self._seqs) >= at_most
            if whole or not capacity.slots or self._useful(held, capacity) >= room:
                break
            wanted = min(wanted * 4, at_most)
        behind = depth.last_seq - self._known_to
        self._gone_behind = min(self._gone_behind, behind)
        left = depth.messages - (behind - self._gone_behind)
        if len(self._seqs) != left:
            await self._compare(left)
            # What is still missing has gone from behind.
            self._gone_behind = max(0, behind - (depth.messages - len(self._seqs)))
        return self._backlog.view(held, beyond=max(0, behind - self._gone_behind), paused=paused)

    async def _read_on(self, last_seq: int, wanted: int) -> None:
        """Read until so many are known, or up to this sequence."""
        while self._known_to < last_seq and len(self._seqs) < wanted:
            limit = min(PAGE, wanted - len(self._seqs))
            messages = await self._jobs.peek(self._queue, limit, after_seq=self._known_to)
            # What has come since the count was read is for the next look, of which it has told already.
            fresh = [message for message in messages if message.job.seq <= last_seq]
            for message in fresh:
                self._add(message)
            self._known_to = fresh[-1].job.seq if len(fresh) == limit else last_seq

    async def _compare(self, left: int) -> None:
        """Find what has gone of what was read, the oldest first, until so many are left."""
        at = 0
        while self._seqs and self._seqs[-1] > at and len(self._seqs) != left:
            messages = await self._jobs.peek(self._queue, PAGE, after_seq=at)
            there = {message.job.seq for message in messages}
            to = messages[-1].job.seq if len(messages) == PAGE else self._seqs[-1]
            read = self._seqs[bisect_right(self._seqs, at) : bisect_right(self._seqs, to)]
            self._drop([seq for seq in read if seq not in there])
            at = to

    def _add(self, message: Message) -> None:
        seq = message.job.seq
        job = self._parsed(message)
        self._seqs.append(seq)
        self._amounts[seq] = sizes_of(job.amount)
        self._kinds[self._amounts[seq]] += 1
        self._backlog.add(job)
        if seq > self._heard_to:
            self._heard_to = seq
            self.arrivals.add(job.job_type, job.amount, job.arrived_at)

    def _drop(self, seqs: Sequence[int]) -> None:
        if not seqs:
            return
        gone = set(seqs)
        self._seqs = [seq for seq in self._seqs if seq not in gone]
        for seq in gone:
            self._kinds[self._amounts.pop(seq)] -= 1
        self._backlog.remove(str(JobId(self._queue, seq)) for seq in gone)

    def _forget(self) -> None:
        self._seqs, self._known_to, self._gone_behind = [], 0, 0
        self._amounts.clear()
        self._kinds.clear()
        self._backlog = Backlog()

    def _useful(self, held: frozenset[str], capacity: Amount) -> int:
        """How many of those that nobody holds a new instance could run."""
        whole = sizes_of(capacity)
        fits = (all(size <= room for size, room in zip(sizes, whole, strict=True)) for sizes in self._kinds)
        return sum(count for count, fit in zip(self._kinds.values(), fits, strict=True) if fit) - len(held)

    def _parsed(self, message: Message) -> PendingJob:
        spec = self._spec
        assert spec is not None  # noqa: S101 - set by `look`, which is the only caller's caller
        try:
            job = parse_job_json(message.body, source=str(message.job))
            amount = spec.with_defaults(job).resources.amount()
        except SpecError:
            # It can't run, but an agent has to say so in its record.
            amount = Amount(slots=1)
        consumer = message.consumer
        return PendingJob(str(message.job), consumer.job_type, amount, message.published_at, consumer.priority.rank)
