"""The simulated world: jobs arrive, machines boot, run them, are lost and ended; a scaler looks and acts.

Invariants: every job that is not refused ends exactly once; a machine that holds a job is never ended but by a spot
loss; what a run does depends on its trace, cloud, seed and scaler only.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from scaler.simulate.cloud import BILLED_AT_LEAST_S, Cloud, Luck
from scaler.simulate.fleet import Backlog, Machine, Rooms, Task, minus, plus, vector
from scaler.simulate.record import Record
from scaler.simulate.trace import Trace

RESYNC_S = 30.0
"""While something waits, a scaler that listens looks at least this often."""
GIVE_UP_AFTER = 1000
"""So many looks in a row at which nothing happened, with nothing to come: what still waits is told as unserved."""


class Scaler(Protocol):
    """A policy under test. It sees the world as it is, and acts by `launch` and `end`."""

    name: str
    settings: str
    """For people: its parameters."""
    hears: bool
    """Whether events wake it; else it looks only when it said that it would."""
    settle_s: float
    """Its looks are at least this far apart."""

    def look(self, world: World) -> float | None:
        """Decide and act; when to look next at the latest."""
        ...

    def registered(self, machine: Machine, now: float) -> None:
        """A machine is ready."""
        ...

    def arrived(self, task: Task, now: float) -> None:
        """A job has come, or has come back from a machine that was lost."""
        ...

    def finished(self, task: Task, now: float) -> None:
        """A job has ended."""
        ...


class Kind(IntEnum):
    """What an event is; the order in which those of one moment happen."""

    FINISH = 0
    READY = 1
    LOST = 2
    WAKE = 3


class World:
    """One run."""

    def __init__(self, trace: Trace, cloud: Cloud, seed: int, *, max_instances: int = 10_000) -> None:
        self.cloud = cloud
        self.capacity = vector(cloud.capacity)
        self.max_instances = max_instances
        self.now = 0.0
        self.backlog = Backlog()
        self.machines: dict[int, Machine] = {}
        self.record = Record(trace)
        self.running = 0
        self.jobs_left = len(trace.jobs)
        self._trace = trace
        self._next_arrival = 0
        self._rooms = Rooms(self.capacity)
        self._luck = Luck(cloud, seed)
        self._events: list[tuple[float, int, int, Machine | None, Task | None, int]] = []
        self._sequence = 0
        self._no_capacity_until = 0.0
        self._happened = True
        self._scaler: Scaler | None = None

    # -- what a scaler may do ---------------------------------------------------------------------------------------

    def launch(self, count: int) -> int:
        """Ask for machines; how many there will be. The rest is refused for now, and the scaler is woken later."""
        count = min(count, self.max_instances - len(self.machines))
        if count <= 0:
            return 0
        if self.now < self._no_capacity_until:
            return 0
        if self._luck.short_at(self.now):
            self.record.shortages += 1
            self._no_capacity_until = self.now + self.cloud.shortage_memory_s
            self._push(self._no_capacity_until, Kind.WAKE)
            return 0
        granted = self._luck.let_through(count, self.now)
        if granted < count:
            self._push(self.now + 1.0 / max(self.cloud.api_per_s, 0.1), Kind.WAKE)
        for _ in range(granted):
            number = self.record.launches
            self.record.launches += 1
            machine = Machine(number, self.now, self.now + self._luck.boot_s(number), self.capacity)
            self.machines[number] = machine
            self._push(machine.ready_s, Kind.READY, machine)
            life_s = self._luck.life_s(number)
            if life_s is not None:
                self._push(self.now + life_s, Kind.LOST, machine)
        return granted

    def end(self, machine: Machine) -> bool:
        """End a machine, unless it holds a job: its agent would not confirm that it is drained."""
        if machine.running or machine.ended_s is not None:
            return False
        self._close(machine)
        return True

    def refuse(self, job_id: int) -> bool:
        """End a waiting job as one that nothing could ever hold."""
        task = self.backlog.discard(job_id)
        if task is None:
            return False
        task.ended = True
        self.record.refused += 1
        self.jobs_left -= 1
        return True

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self, scaler: Scaler, stopwatch: Callable[[], float], watch: Callable[[World], None]) -> None:
        """Replay to the end: all jobs over, all machines gone (or as many as the scaler keeps).

        `stopwatch` times its decisions; `watch` is called at every look, and may raise to end the run early.
        """
        self._scaler = scaler
        looked_at, look_at, quiet = -1e9, 0.0, 0
        decisions: array[float] = self.record.decision_s
        while self.jobs_left or self.machines:
            at = min(self.next_event_at(), look_at)
            if at == float("inf"):
                break
            if self.next_event_at() <= look_at:
                self._advance(at)
                if scaler.hears and self._happened:
                    look_at = min(look_at, max(self.now, looked_at + scaler.settle_s))
                continue
            self.now = at
            quiet = 0 if self._happened else quiet + 1
            self._happened = False
            before = stopwatch()
            asked = scaler.look(self)
            decisions.append(stopwatch() - before)
            looked_at = self.now
            look_at = self._look_at(scaler, asked)
            self.record.note(self.now, len(self.machines), self.backlog.count)
            watch(self)
            idle = self.next_event_at() == float("inf")
            if (idle and quiet > GIVE_UP_AFTER) or (not self.jobs_left and look_at == float("inf")):
                break
        self.finish()

    def finish(self) -> None:
        """Close the books: what still waits is unserved, what still runs is paid until now."""
        self.record.unserved = self.backlog.count
        for machine in list(self.machines.values()):
            self._close(machine)

    def _look_at(self, scaler: Scaler, asked: float | None) -> float:
        look_at = float("inf") if asked is None else max(asked, self.now + scaler.settle_s)
        if self.backlog.count and scaler.hears:
            look_at = min(look_at, self.now + RESYNC_S)
        return look_at

    def next_event_at(self) -> float:
        """When something happens next, by itself."""
        at = self._events[0][0] if self._events else float("inf")
        if self._next_arrival < len(self._trace.jobs):
            at = min(at, self._trace.jobs[self._next_arrival].submitted_s)
        return at

    def _advance(self, at: float) -> None:
        """Everything that happens at this moment."""
        self.now = at
        events, jobs = self._events, self._trace.jobs
        while events and events[0][0] <= at:
            _, kind, _, machine, task, starts = heapq.heappop(events)
            if kind == Kind.FINISH and task is not None:
                if task.starts == starts and not task.ended:
                    self._finish(task)
            elif kind == Kind.WAKE or machine is None:
                self._happened = True
            elif machine.ended_s is None:
                if kind == Kind.READY:
                    self._ready(machine)
                else:
                    self._lost(machine)
        while self._next_arrival < len(jobs) and jobs[self._next_arrival].submitted_s <= at:
            job = jobs[self._next_arrival]
            self._next_arrival += 1
            self._arrive(Task(job, vector(job.need)))
        self.record.note(at, len(self.machines), self.backlog.count)

    def _arrive(self, task: Task) -> None:
        self._happened = True
        if self._scaler is not None:
            self._scaler.arrived(task, self.now)
        machine = None if Backlog.key(task) in self.backlog.groups else self._rooms.best(task.need)
        if machine is None:
            self.backlog.add(task)
        else:
            self._rooms.remove(machine)
            self._start(task, machine)
            self._rooms.add(machine)

    def _start(self, task: Task, machine: Machine) -> None:
        if not machine.running:
            machine.idle_s += self.now - machine.idle_since
        task.starts += 1
        task.started_s, task.machine = self.now, machine
        if task.starts == 1:
            task.first_start_s = self.now
            self.record.waited(self.now - task.job.submitted_s)
        else:
            self.record.restarts += 1
        machine.running[task.job.id] = task
        machine.free = minus(machine.free, task.need)
        machine.seen_as = None
        self.running += 1
        self._push(self.now + task.job.duration_s, Kind.FINISH, machine, task, task.starts)

    def _finish(self, task: Task) -> None:
        machine = task.machine
        if machine is None:
            return
        self._happened = True
        task.ended = True
        self.jobs_left -= 1
        self.record.done += 1
        self._rooms.remove(machine)
        self._leave(task, machine)
        if self._scaler is not None:
            self._scaler.finished(task, self.now)
        self._fill(machine)

    def _leave(self, task: Task, machine: Machine) -> None:
        self.record.worked(self.now - task.started_s, task.need)
        del machine.running[task.job.id]
        machine.free = plus(machine.free, task.need)
        machine.seen_as = None
        task.machine = None
        self.running -= 1
        if not machine.running:
            machine.idle_since = self.now

    def _fill(self, machine: Machine) -> None:
        while self.backlog.count and (task := self.backlog.take_for(machine.free)) is not None:
            self._start(task, machine)
        self._rooms.add(machine)

    def _ready(self, machine: Machine) -> None:
        self._happened = True
        machine.ready = True
        machine.seen_as = None
        if self._scaler is not None:
            self._scaler.registered(machine, self.now)
        self._fill(machine)

    def _lost(self, machine: Machine) -> None:
        self._happened = True
        self.record.losses += 1
        tasks = list(machine.running.values())
        self._rooms.remove(machine)
        for task in tasks:
            self._leave(task, machine)
        self._close(machine)
        for task in tasks:
            self._arrive(task)

    def _close(self, machine: Machine) -> None:
        self._rooms.remove(machine)
        machine.ended_s = self.now
        if not machine.running:
            machine.idle_s += self.now - machine.idle_since
        del self.machines[machine.number]
        self.record.paid(max(BILLED_AT_LEAST_S, self.now - machine.launched_s), machine.idle_s)
        self.record.ended_s = self.now

    def _push(
        self, at: float, kind: Kind, machine: Machine | None = None, task: Task | None = None, starts: int = 0
    ) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, kind, self._sequence, machine, task, starts))
