"""What others decide, each as its users run it, on the same world: same dispatch, boots, luck and bills as ours.

In their favour: each ends idle machines only (where the original may hit a busy one), has the longest idle one ended
first, counts machines that boot, and hears of an arrival without delay where it listens to arrivals at all.
"""

from __future__ import annotations

import math
from collections import deque

from scaler.simulate.fleet import Machine, Task, Vector, fits, minus
from scaler.simulate.world import World


class _Deaf:
    """Learns nothing from the past."""

    name = ""
    hears = True
    settle_s = 0.1

    def arrived(self, task: Task, now: float) -> None:
        """Not needed."""

    def finished(self, task: Task, now: float) -> None:
        """Not needed."""

    def registered(self, machine: Machine, now: float) -> None:
        """Not needed."""


class LagCount(_Deaf):
    """KEDA's JetStream scaler on a Deployment of machines: ceil(lag / target), asked for at an interval.

    Lag is what waits and what is unacked. Scale-in follows the highest wish of the last `cooldown_s`, as the
    autoscaler's stabilisation window and KEDA's cooldown (300 s both) make it.
    """

    name = "lag count"
    hears = False

    def __init__(self, target: float, poll_s: float = 30.0, cooldown_s: float = 300.0) -> None:
        self.settings = f"target {target:g}, poll {poll_s:g} s, cooldown {cooldown_s:g} s"
        self._target = target
        self._poll_s = poll_s
        self._cooldown_s = cooldown_s
        self._wishes: deque[tuple[float, int]] = deque()

    def look(self, world: World) -> float | None:
        """Poll."""
        wish = math.ceil((world.backlog.count + world.running) / self._target)
        wishes, now = self._wishes, world.now
        while wishes and wishes[-1][1] <= wish:
            wishes.pop()
        wishes.append((now, wish))
        while wishes[0][0] < now - self._cooldown_s:
            wishes.popleft()
        exist = len(world.machines)
        if wish > exist:
            world.launch(wish - exist)
        elif (spare := exist - wishes[0][1]) > 0:
            for machine in _idle(world)[:spare]:
                world.end(machine)
        if not world.machines and not world.backlog.count and not world.jobs_left:
            return None
        # The next poll; while the world is empty, the first one after the next arrival.
        polls = 1
        if not world.machines and not world.backlog.count:
            polls = max(1, math.ceil((world.next_event_at() - now) / self._poll_s))
        return now + polls * self._poll_s


class OneEach(_Deaf):
    """A machine for each job that waits, as terraform-aws-github-runner does; idle ones end after a while.

    Each job that has come and still waits after `delay_s` gets a machine launched, whatever boots already for others,
    and another one if it still waits after `retry_s` with nothing booting.
    """

    name = "one machine a job"

    def __init__(self, delay_s: float = 30.0, idle_s: float = 300.0, retry_s: float = 300.0) -> None:
        self.settings = f"delay {delay_s:g} s, idle {idle_s:g} s"
        self._delay_s = delay_s
        self._idle_s = idle_s
        self._retry_s = retry_s
        self._heard: deque[tuple[float, Task, int]] = deque()
        self._owed = 0
        self._asked_at = 0.0

    def arrived(self, task: Task, now: float) -> None:
        """A webhook."""
        self._heard.append((now + self._delay_s, task, task.starts))

    def look(self, world: World) -> float | None:
        """Launch for those whose delay is over; end what has been idle for long."""
        now, heard = world.now, self._heard
        while heard and heard[0][0] <= now:
            _, task, starts = heard.popleft()
            if task.starts == starts and not task.ended:
                self._owed += 1
        self._owed = min(self._owed, world.backlog.count)
        if self._owed:
            self._owed -= world.launch(self._owed)
            self._asked_at = now
        elif world.backlog.count and now >= self._asked_at + self._retry_s:
            if all(machine.ready for machine in world.machines.values()):
                world.launch(1)
            self._asked_at = now
        looks = [heard[0][0]] if heard else []
        looks += _end_idle(world, self._idle_s)
        return min(looks, default=None)


class BatchWindow(_Deaf):
    """Karpenter: waiting jobs are gathered for a while, packed onto what is there and what boots, and then onto new.

    The window closes `quiet_s` after the last arrival, and `longest_s` after the first. Empty machines are
    consolidated away after `empty_s`.
    """

    name = "batch window"

    def __init__(self, empty_s: float = 30.0, quiet_s: float = 1.0, longest_s: float = 10.0) -> None:
        self.settings = f"window {quiet_s:g}/{longest_s:g} s, empty {empty_s:g} s"
        self._empty_s = empty_s
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._first: float | None = None
        self._last = 0.0

    def arrived(self, task: Task, now: float) -> None:
        """A pod."""
        del task
        self._first = now if self._first is None else self._first
        self._last = now

    def look(self, world: World) -> float | None:
        """Close the window if it is time; end what is empty."""
        now, looks = world.now, []
        if self._first is None and world.backlog.count:
            self._first = self._last = now
        if self._first is not None:
            closes = min(self._first + self._longest_s, self._last + self._quiet_s)
            if now >= closes:
                self._first = None
                world.launch(_new_machines(world))
            else:
                looks.append(closes)
        looks += _end_idle(world, self._empty_s)
        return min(looks, default=None)


def _idle(world: World) -> list[Machine]:
    """Ready machines that hold nothing, the longest idle first."""
    idle = [machine for machine in world.machines.values() if machine.ready and not machine.running]
    return sorted(idle, key=lambda machine: (_idle_since(machine), machine.number))


def _idle_since(machine: Machine) -> float:
    return max(machine.idle_since, machine.ready_s)


def _end_idle(world: World, after_s: float) -> list[float]:
    """End what has been idle for so long; when the next one will have been."""
    for machine in _idle(world):
        expires = _idle_since(machine) + after_s
        if expires > world.now:
            return [expires]
        world.end(machine)
    return []


def _new_machines(world: World) -> int:
    """How many machines first-fit-decreasing opens for what waits, beyond those that are there or boot."""
    capacity = world.capacity
    rooms: list[Vector] = [machine.free for machine in world.machines.values()]
    counts: dict[Vector, int] = {}
    for (_, need, _), tasks in world.backlog.groups.items():
        counts[need] = counts.get(need, 0) + len(tasks)
    exist = len(rooms)
    ordered = sorted(
        counts.items(), key=lambda item: (max(a / b for a, b in zip(item[0], capacity, strict=True) if b), item[0])
    )
    for need, count in reversed(ordered):
        if not fits(need, capacity):
            continue
        place, left = 0, count
        while left:
            if place == len(rooms):
                rooms.append(capacity)
            while left and fits(need, rooms[place]):
                rooms[place] = minus(rooms[place], need)
                left -= 1
            place += 1
    return len(rooms) - exist
