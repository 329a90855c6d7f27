"""What no policy can go below: the least that the work costs, and the least at which nobody waits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaler.simulate.fleet import Vector, minus, plus, vector
from scaler.simulate.trace import Trace


@dataclass(frozen=True, slots=True)
class Bounds:
    """In seconds of machines. Neither boots nor minimum bills are counted, nor that jobs can't be cut in pieces."""

    work_s: float
    """All work in the dimension that is asked for most, on machines that are always full: below this nobody can be."""
    zero_wait_s: float
    """As many machines at each moment as what then runs fills, if each job starts when it comes."""


def bounds(trace: Trace, capacity: Vector) -> Bounds:
    """Both bounds for the jobs of a trace, every one of which fits."""
    edges: list[tuple[float, int, Vector]] = []
    work = [0.0] * 4
    for job in trace.jobs:
        need = vector(job.need)
        edges += [(job.submitted_s, 1, need), (job.submitted_s + job.duration_s, 0, need)]
        for dimension, size in enumerate(need):
            work[dimension] += size * job.duration_s
    edges.sort()
    held: Vector = (0, 0, 0, 0)
    zero_wait_s, before = 0.0, 0.0
    for now, begins, need in edges:
        zero_wait_s += (now - before) * math.ceil(_share(held, capacity))
        held = plus(held, need) if begins else minus(held, need)
        before = now
    return Bounds(_share(work, capacity), zero_wait_s)


def _share(held: Vector | list[float], capacity: Vector) -> float:
    return max((used / whole for used, whole in zip(held, capacity, strict=True) if whole), default=0.0)
