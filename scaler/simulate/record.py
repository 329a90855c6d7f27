"""What a run is remembered by: waits, costs, and how many machines and waiting jobs there were over time. Bounded."""

from __future__ import annotations

from array import array

from scaler.simulate.fleet import Vector
from scaler.simulate.trace import Trace

BINS = 1500
"""Points of the curves over time."""
SHOWN_S = 12 * 3600.0
"""Of a long trace the curves show so much, where most jobs come; of one of at most twice this, all."""


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
        self.shown_s = _busiest(trace)
        self._width_s = max(0.1, (self.shown_s[1] - self.shown_s[0]) / BINS)
        self._curve: dict[int, list[int]] = {}

    def note(self, now: float, machines: int, pending: int) -> None:
        """How many there are now."""
        self.most = max(self.most, machines)
        begin, end = self.shown_s
        if now > end:
            return
        place = max(-1, int((now - begin) // self._width_s))
        bin_ = self._curve.setdefault(place, [0, 0, 0, 0])
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
        """Time, machines, waiting jobs in `shown_s`: the most in each stretch, and what there was at its end."""
        points = []
        for place, (most, most_pending, last, last_pending) in sorted(self._curve.items()):
            begin = self.shown_s[0] + place * self._width_s
            if place >= 0:
                points.append((begin, most, most_pending))
            points.append((begin + self._width_s, last, last_pending))
        return points


def _busiest(trace: Trace) -> tuple[float, float]:
    """From when to when the curves go."""
    jobs = trace.jobs
    whole_s = jobs[-1].submitted_s + jobs[-1].duration_s
    if whole_s <= 2 * SHOWN_S:
        return (0.0, whole_s)
    best, first, begin = 0, 0, 0.0
    for number, job in enumerate(jobs):
        while job.submitted_s - jobs[first].submitted_s > SHOWN_S:
            first += 1
        if number - first > best:
            best, begin = number - first, jobs[first].submitted_s
    return (begin, begin + SHOWN_S)
