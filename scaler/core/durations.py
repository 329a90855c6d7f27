"""How long things last, from how long they lasted before: jobs by type, and boots.

Invariant: bounded memory; where the past says nothing, nothing is claimed. (That what has lasted so long lasts as long
again is true on average, but would let a job wait for one that has just begun.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

KEPT = 200
"""Past durations kept of each type."""
TYPES_AT_MOST = 512
"""Job types of which durations are kept, those that ended last."""


class Durations:
    """Past durations by job type, kept as jobs end."""

    def __init__(self, past: Mapping[str, Sequence[float]] | None = None) -> None:
        self._past: OrderedDict[str, deque[float]] = OrderedDict()
        self._sorted: dict[str, tuple[float, ...]] = {}
        for job_type, lasted in (past or {}).items():
            for seconds in lasted:
                self.add(job_type, seconds)

    def add(self, job_type: str, seconds: float) -> None:
        """A job of this type has ended after so long."""
        self._past.setdefault(job_type, deque(maxlen=KEPT)).append(max(0.0, seconds))
        self._past.move_to_end(job_type)
        self._sorted.pop(job_type, None)
        if len(self._past) > TYPES_AT_MOST:
            forgotten, _ = self._past.popitem(last=False)
            self._sorted.pop(forgotten, None)

    def latest(self) -> dict[str, tuple[float, ...]]:
        """In the order in which they ended: what is stored."""
        return {job_type: tuple(lasted) for job_type, lasted in self._past.items()}

    def view(self) -> dict[str, Sequence[float]]:
        """Sorted: what goes into `Past.durations_s`. Costs the types that have changed."""
        for job_type in self._past.keys() - self._sorted.keys():
            self._sorted[job_type] = tuple(sorted(self._past[job_type]))
        return dict(self._sorted)


def typical_s(lasted: Sequence[float]) -> float | None:
    """The median of sorted durations; None if there are none."""
    return lasted[len(lasted) // 2] if lasted else None


def quantile_s(lasted: Sequence[float], share: float) -> float | None:
    """The duration that this share of sorted ones stays below (nearest rank); None if there are none."""
    return lasted[min(len(lasted) - 1, int(share * len(lasted)))] if lasted else None


def mean_s(lasted: Sequence[float]) -> float | None:
    """The mean; None if there are none."""
    return sum(lasted) / len(lasted) if lasted else None


def residual_s(lasted: Sequence[float], age_s: float, share: float = 0.5) -> float | None:
    """How long something of this age goes on: the median of those in `lasted` (sorted) that were longer, less its age.

    `share` 0.5 is the median; more is more careful. None if none was longer: nothing is known then.
    """
    count = len(lasted)
    first = bisect_right(lasted, age_s)
    if first == count:
        return None
    return lasted[first + int(share * (count - first))] - age_s
