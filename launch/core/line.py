"""Where a job stands in line: how many of its queue's jobs are served before it.

Pure. A bounded look: messages are shown to it page by page, and it says when it has seen enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from launch.subjects import JobId, Priority, WorkConsumer

LOOKED_AT_MOST = 1000
"""Messages; a job further behind is told so much."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """So many jobs are before it, of its priority or a higher one; `at_least`: perhaps more."""

    count: int = 0
    at_least: bool = False

    def __str__(self) -> str:
        if self.at_least:
            return f"more than {self.count:,} ahead of it"
        return f"{self.count:,} ahead of it"


class Line:
    """The line before one job."""

    def __init__(self, job: JobId, priority: Priority, *, held: Set[str], counts: Mapping[WorkConsumer, int]) -> None:
        self._job = job
        self._rank = priority.rank
        self._held = held
        self._urgent = sum(count for consumer, count in counts.items() if consumer.priority.rank < self._rank)
        self._ahead = 0
        self._looked = 0
        self._reached = False

    @property
    def is_seen(self) -> bool:
        """Whether nothing more has to be shown."""
        return self._reached or self._looked >= LOOKED_AT_MOST

    def see(self, page: Iterable[tuple[JobId, Priority]]) -> None:
        """The next messages of the queue, by sequence, held ones included; none at the end."""
        empty = True
        for job, priority in page:
            empty = False
            if job.seq >= self._job.seq:
                self._reached = True
                break
            self._looked += 1
            if priority.rank < self._rank:
                self._urgent -= 1
            if priority.rank <= self._rank and str(job) not in self._held:
                self._ahead += 1
        self._reached = self._reached or empty

    def ahead(self) -> Ahead:
        """What was found. The more urgent jobs that were published later are before it, too, unless they are held."""
        later_held = sum(1 for text in self._held if JobId.parse(text) > self._job)
        return Ahead(self._ahead + max(0, self._urgent - later_held), at_least=not self._reached)
