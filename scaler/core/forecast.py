"""What is to come, from what came lately: the load that is offered, and how many instances it keeps busy.

Offered load a: how many instances, on average, the arrivals of the last `tau` keep busy. Arrivals scatter, hence
a square root above it is kept (square-root staffing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from launch.core.capacity import Amount
from scaler.core.durations import mean_s
from scaler.core.snapshot import Arriving, Past

KINDS_AT_MOST = 256
"""Kinds of jobs whose arrivals are remembered; beyond, the one that has faded most is forgotten."""
NOTHING = 0.05
"""Less load than this many instances is none."""


class Arrivals:
    """How often jobs of each kind have come of late, kept as they come."""

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self._kinds: dict[tuple[object, ...], Arriving] = {}

    def add(self, job_type: str, amount: Amount, at: datetime, count: int = 1) -> None:
        """Jobs have come."""
        if self._tau_s <= 0:
            return
        key = (job_type, amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)
        before = self._kinds.get(key)
        if before is None:
            if len(self._kinds) >= KINDS_AT_MOST:
                faded = min(self._kinds, key=lambda other: faded_weight(self._kinds[other], at, self._tau_s))
                del self._kinds[faded]
            self._kinds[key] = Arriving(job_type, amount, float(count), at)
            return
        at = max(at, before.at)
        self._kinds[key] = Arriving(job_type, amount, faded_weight(before, at, self._tau_s) + count, at)

    def view(self) -> tuple[Arriving, ...]:
        """What goes into `Past.arriving`."""
        return tuple(self._kinds.values())


def faded_weight(arriving: Arriving, now: datetime, tau_s: float) -> float:
    """Its weight as of now."""
    return arriving.weight * math.exp(-max(0.0, (now - arriving.at).total_seconds()) / tau_s)


def offered_load(past: Past, capacity: Amount, now: datetime, tau_s: float) -> float:
    """How many instances the arrivals of late keep busy; 0 where nothing is known of how long their jobs last."""
    if tau_s <= 0:
        return 0.0
    sums = [0.0] * 4
    for arriving in past.arriving:
        lasts_s = mean_s(past.durations_s.get(arriving.job_type, ()))
        if not lasts_s or not arriving.amount.fits_in(capacity):
            continue
        work = faded_weight(arriving, now, tau_s) * lasts_s / tau_s
        for place, size in enumerate(_sizes(arriving.amount)):
            sums[place] += work * size
    return max((load / whole for load, whole in zip(sums, _sizes(capacity), strict=True) if whole), default=0.0)


def floor_of(load: float, staffing: float) -> int:
    """How many instances to keep for this load."""
    return max(0, math.ceil(load + staffing * math.sqrt(load) - 0.5)) if load >= NOTHING else 0


def below_after_s(load: float, staffing: float, count: int, tau_s: float) -> float | None:
    """After how long without arrivals the floor is below `count`; None if it is already, or `count` is 0."""
    if count <= 0 or floor_of(load, staffing) < count:
        return None
    # The floor is at most n where a + b * sqrt(a) <= n + 1/2.
    half = count - 0.5
    root = (-staffing + math.sqrt(staffing**2 + 4 * half)) / 2
    limit = max(root**2, NOTHING)
    return max(0.0, tau_s * math.log(load / limit))


def _sizes(amount: Amount) -> Sequence[int]:
    return (amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)
