"""What a run is remembered by: waits, costs, and how many machines and waiting jobs there were over time. Bounded."""

from __future__ import annotations

from array import array

from scaler.simulate.fleet import Vector
from scaler.simulate.trace import Trace

BINS, BINS_AT_MOST = 1000, 20_000
"""Points of the curves over the time in which most jobs come, and over all of it."""


class Record:
    """Counts and curves of one run."""

    def __init__(self, trace: Trace) -> None:
        self.jobs = len(trace.jobs)
        self.done = self.refused = self.unserved = self.restarts = self.losses = self.shortages = self.launches = 0
        self.waits_s: array[float] = array("d")
        self.decision_s: array[float] = array("d")
        self.paid_s = self.idle_s = self.worked_s = self.ended_s = 0.0
        self.used = [0.0, 0.0, 0.0, 0.0]
        """Seconds times what the jobs held, by dimension."""
        self.most = 0
        """Machines at the same time."""
        jobs = trace.jobs
        self.dense_s = (jobs[len(jobs) // 50].submitted_s, jobs[-1 - len(jobs) // 50].submitted_s)
        """When all but a few jobs come."""
        whole_s = jobs[-1].submitted_s + jobs[-1].duration_s
        self._width_s = max(1.0, (self.dense_s[1] - self.dense_s[0]) / BINS, whole_s / BINS_AT_MOST)
        self._curve: dict[int, list[int]] = {}

    def note(self, now: float, machines: int, pending: int) -> None:
        """How many there are now."""
        self.most = max(self.most, machines)
        bin_ = self._curve.setdefault(int(now / self._width_s), [0, 0, 0, 0])
        bin_[0], bin_[1] = max(machines, bin_[0]), max(pending, bin_[1])
        bin_[2:] = machines, pending

    def waited(self, seconds: float) -> None:
        """A job was started for the first time, so long after it came."""
        self.waits_s.append(seconds)

    def worked(self, seconds: float, need: Vector) -> None:
        """A job held this for so long, to its end or until its machine was lost."""
        self.worked_s += seconds
        for dimension, size in enumerate(need):
            self.used[dimension] += seconds * size

    def paid(self, seconds: float, idle_s: float) -> None:
        """A machine has ended, for which so many seconds are paid, in so many of which it held nothing."""
        self.paid_s += seconds
        self.idle_s += idle_s

    def curve(self) -> list[tuple[float, int, int]]:
        """Time, machines, waiting jobs: the most in each stretch of time, and what there was at its end."""
        points = []
        for place, (most, most_pending, last, last_pending) in sorted(self._curve.items()):
            points.append((place * self._width_s, most, most_pending))
            points.append(((place + 1) * self._width_s, last, last_pending))
        return points
