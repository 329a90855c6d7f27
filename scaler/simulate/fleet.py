"""Machines and the jobs that wait for them: who gets the next job, and which job a machine gets.

As the broker does it: a waiting job goes to the fullest machine that holds it, by the ten ranks of waiting pulls, among
equals to the one that has waited longest; a machine with room takes the most urgent, then oldest job that fits
(backfill). Invariant: after each change no job waits that a ready machine has room for.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

from launch.core.capacity import Amount
from scaler.simulate.trace import Job

RANKS = 9
"""An empty machine waits with this rank, a full one with 0; as `agent.intake` does."""

Vector = tuple[int, int, int, int]


def vector(amount: Amount) -> Vector:
    """The same as a tuple: this is what the inner loops run on."""
    return (amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)


def fits(need: Vector, free: Vector) -> bool:
    """Whether `free` holds `need`."""
    return need[0] <= free[0] and need[1] <= free[1] and need[2] <= free[2] and need[3] <= free[3]


def minus(free: Vector, need: Vector) -> Vector:
    """What is left of `free`."""
    return (free[0] - need[0], free[1] - need[1], free[2] - need[2], free[3] - need[3])


def plus(free: Vector, need: Vector) -> Vector:
    """`free` after `need` has been given back."""
    return (free[0] + need[0], free[1] + need[1], free[2] + need[2], free[3] + need[3])


class Task:
    """One job on its way: how often it was started, and when first and last."""

    __slots__ = ("ended", "first_start_s", "job", "machine", "need", "seen_as", "started_s", "starts")

    def __init__(self, job: Job, need: Vector) -> None:
        self.job = job
        self.need = need
        self.starts = 0
        self.first_start_s = -1.0
        self.started_s = -1.0
        self.machine: Machine | None = None
        self.ended = False
        self.seen_as: object = None
        """What a policy made of it, kept so that it is made once."""

    @property
    def order(self) -> tuple[int, int]:
        """The most urgent first, then the oldest."""
        return (self.job.rank, self.job.id)


class Machine:
    """One instance from launch to end."""

    __slots__ = (
        "ended_s", "free", "idle_s", "idle_since", "launched_s", "number", "ready", "ready_s", "running", "seen_as",
    )  # fmt: skip

    def __init__(self, number: int, launched_s: float, ready_s: float, free: Vector) -> None:
        self.number = number
        self.launched_s = launched_s
        self.ready_s = ready_s
        self.ready = False
        self.free = free
        self.running: dict[int, Task] = {}
        self.idle_since = launched_s
        """Since when it holds nothing, if it holds nothing."""
        self.idle_s = 0.0
        self.ended_s: float | None = None
        self.seen_as: object = None
        """What a policy made of it; emptied at each change."""


class Rooms:
    """The ready machines that have room, by what is free on them."""

    def __init__(self, capacity: Vector) -> None:
        self._capacity = capacity
        self._by_free: dict[Vector, dict[Machine, int]] = {}
        self._order: list[tuple[int, Vector]] = []
        self._stamp = 0

    def add(self, machine: Machine) -> None:
        """It waits for work from now on, behind those that wait already."""
        free = machine.free
        if free[3] <= 0:
            return
        waiting = self._by_free.get(free)
        if waiting is None:
            waiting = self._by_free[free] = {}
            insort(self._order, (self._rank(free), free))
        self._stamp += 1
        waiting[machine] = self._stamp

    def remove(self, machine: Machine) -> None:
        """It takes no work as it is."""
        waiting = self._by_free.get(machine.free)
        if waiting is None or machine not in waiting:
            return
        del waiting[machine]
        if not waiting:
            del self._by_free[machine.free]
            self._order.remove((self._rank(machine.free), machine.free))

    def best(self, need: Vector) -> Machine | None:
        """Who gets a job that asks for `need`."""
        found: Machine | None = None
        found_rank, found_stamp = RANKS + 1, 0
        for rank, free in self._order:
            if rank > found_rank:
                break
            if fits(need, free):
                machine, stamp = next(iter(self._by_free[free].items()))
                if found is None or stamp < found_stamp:
                    found, found_rank, found_stamp = machine, rank, stamp
        return found

    def _rank(self, free: Vector) -> int:
        shares = (1 - left / whole for left, whole in zip(free, self._capacity, strict=True) if whole)
        return round((1 - max(shares, default=0.0)) * RANKS)


GroupKey = tuple[int, Vector, str]
"""Rank, need, job type."""


class Backlog:
    """The jobs that wait, equal ones together, each group in the order of arrival."""

    def __init__(self) -> None:
        self.groups: dict[GroupKey, deque[Task]] = {}
        self.count = 0

    def add(self, task: Task) -> None:
        """It waits, behind its equals that came before it."""
        tasks = self.groups.setdefault(self.key(task), deque())
        if tasks and tasks[-1].job.id > task.job.id:
            # It comes back from a machine that was lost: to its old place.
            ordered = sorted((*tasks, task), key=lambda one: one.job.id)
            tasks.clear()
            tasks.extend(ordered)
        else:
            tasks.append(task)
        self.count += 1

    def take_for(self, free: Vector) -> Task | None:
        """The next job that fits into `free`, taken out; None if none does."""
        best: deque[Task] | None = None
        for (_, need, _), tasks in self.groups.items():
            if fits(need, free) and (best is None or tasks[0].order < best[0].order):
                best = tasks
        if best is None:
            return None
        task = best.popleft()
        self.count -= 1
        if not best:
            del self.groups[self.key(task)]
        return task

    def discard(self, job_id: int) -> Task | None:
        """Take one out, wherever it stands."""
        for key, tasks in self.groups.items():
            for task in tasks:
                if task.job.id == job_id:
                    tasks.remove(task)
                    self.count -= 1
                    if not tasks:
                        del self.groups[key]
                    return task
        return None

    def __iter__(self) -> Iterator[Task]:
        for tasks in self.groups.values():
            yield from tasks

    @staticmethod
    def key(task: Task) -> GroupKey:
        """The group that it belongs to."""
        return (task.job.rank, task.need, task.job.job_type)
