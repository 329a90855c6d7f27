"""The pending jobs of a queue, kept from look to look: each is touched when it comes, is taken and goes, never else.

Invariant: a view holds exactly the jobs that were added, not removed, and not held when it was made.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from launch.core.capacity import Amount
from scaler.core.snapshot import NAMED_AT_MOST, Pending, PendingGroup, PendingJob

Shape = tuple[str, int, Amount]


@dataclass(slots=True)
class _Shelf:
    """Jobs that are alike, `size` of them; `view` is None after a change."""

    shape: Shape
    size: int = 0
    waiting: OrderedDict[str, datetime] = field(default_factory=OrderedDict)
    sorted: bool = True
    view: PendingGroup | None = None


class Backlog:
    """Pending jobs by shape. `view` costs as much as there are shapes, and as jobs were taken or handed back."""

    def __init__(self, jobs: Iterable[PendingJob] = ()) -> None:
        self._shelves: dict[tuple[object, ...], _Shelf] = {}
        self._jobs: dict[str, tuple[_Shelf, datetime]] = {}
        self._held: Set[str] = frozenset()
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    def add(self, job: PendingJob) -> None:
        """A job has come. One that is known already is left as it is."""
        if job.id in self._jobs:
            return
        amount = job.amount
        key = _key((job.job_type, job.rank, amount))
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = _Shelf((job.job_type, job.rank, amount))
        shelf.size += 1
        self._jobs[job.id] = (shelf, job.arrived_at)
        if job.id not in self._held:
            _put(shelf, job.id, job.arrived_at)

    def remove(self, ids: Iterable[str]) -> None:
        """These are gone from the queue. Unknown ones are no error."""
        for job_id in ids:
            found = self._jobs.pop(job_id, None)
            if found is None:
                continue
            shelf = found[0]
            shelf.waiting.pop(job_id, None)
            shelf.view = None
            shelf.size -= 1
            if not shelf.size:
                del self._shelves[_key(shelf.shape)]

    def clear(self) -> None:
        """Forget everything."""
        self._shelves.clear()
        self._jobs.clear()

    def view(self, held: Set[str] = frozenset(), *, beyond: int = 0, paused: bool = False) -> Pending:
        """Those that nobody holds; `held` are the ids of all jobs in somebody's hands, pending here or not."""
        for job_id in held - self._held:
            if found := self._jobs.get(job_id):
                found[0].waiting.pop(job_id, None)
                found[0].view = None
        for job_id in self._held - held:
            if found := self._jobs.get(job_id):
                _put(found[0], job_id, found[1])
        self._held = frozenset(held)
        groups = tuple(_view(shelf) for shelf in self._shelves.values() if shelf.waiting)
        return Pending(groups, beyond, paused)


def _key(shape: Shape) -> tuple[object, ...]:
    """Plain numbers: a model's own hash costs a hundred times as much."""
    job_type, rank, amount = shape
    return (job_type, rank, amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)


def _put(shelf: _Shelf, job_id: str, arrived_at: datetime) -> None:
    """Most come in order; for those that are handed back the shelf is sorted at the next view, once for all of them."""
    waiting = shelf.waiting
    if waiting and arrived_at < waiting[next(reversed(waiting))]:
        shelf.sorted = False
    waiting[job_id] = arrived_at
    shelf.view = None


def _view(shelf: _Shelf) -> PendingGroup:
    if shelf.view is None:
        if not shelf.sorted:
            shelf.waiting = OrderedDict(sorted(shelf.waiting.items(), key=lambda entry: entry[1]))
            shelf.sorted = True
        waiting, (job_type, rank, amount) = shelf.waiting, shelf.shape
        ids = tuple(islice(waiting, NAMED_AT_MOST))
        oldest, newest = next(iter(waiting.values())), waiting[next(reversed(waiting))]
        shelf.view = PendingGroup(job_type, rank, amount, len(waiting), ids, oldest, newest)
    return shelf.view
