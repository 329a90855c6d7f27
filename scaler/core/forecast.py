"""What is to come, from what came lately: the load that is offered, and how many instances it keeps busy.

Offered load a: how many instances, on average, the arrivals of the last `tau` keep busy. Arrivals scatter: of jobs that
each take the share s of an instance, the number that run at once varies by its own square root, and the load by the
square root of a * s; some of these standard deviations above a are kept (square-root staffing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from launch.core.capacity import Amount
from scaler.core.durations import mean_s
from scaler.core.packing import sizes_of
from scaler.core.snapshot import Arriving, Past, Worker

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


@dataclass(frozen=True, slots=True)
class Load:
    """How many instances are kept busy: the mean, and the variance; both of the dimension that is needed most."""

    mean: float = 0.0
    variance: float = 0.0
    lasting: float = 0.0
    """How much of the mean is jobs that run, and stays until they end; the rest fades."""


def offered_load(past: Past, capacity: Amount, now: datetime, tau_s: float, workers: Sequence[Worker] = ()) -> Load:
    """What the jobs of late keep busy; nothing where nothing is known of how long they last.

    Jobs that usually end within `tau_s` count by how often they come. Of longer ones too few come in that time to say
    anything: they count while they run.
    """
    if tau_s <= 0:
        return Load()
    whole, short = sizes_of(capacity), set()
    means, variances, lasting = [0.0] * 4, [0.0] * 4, [0.0] * 4
    for arriving in past.arriving:
        lasts_s = mean_s(past.durations_s.get(arriving.job_type, ()))
        if not lasts_s or lasts_s > tau_s or not arriving.amount.fits_in(capacity):
            continue
        short.add(arriving.job_type)
        at_once = faded_weight(arriving, now, tau_s) * lasts_s / tau_s
        for place, size in enumerate(sizes_of(arriving.amount)):
            share = size / whole[place] if size else 0.0
            means[place] += at_once * share
            variances[place] += at_once * share * share
    if not short:
        return Load()
    for worker in workers:
        for job in worker.running:
            if job.job_type not in short:
                for place, size in enumerate(sizes_of(job.amount)):
                    lasting[place] += size / whole[place] if whole[place] else 0.0
    loads = (Load(means[place] + held, variances[place], held) for place, held in enumerate(lasting))
    return max(loads, key=lambda load: load.mean)


def floor_of(load: Load, staffing: float) -> int:
    """How many instances to keep for this load."""
    if load.mean < NOTHING:
        return 0
    return max(0, math.ceil(load.mean + staffing * math.sqrt(load.variance) - 0.5))


def below_after_s(load: Load, staffing: float, count: int, tau_s: float) -> float | None:
    """After how long without arrivals the floor is below `count`.

    None if it is already, if `count` is 0, or if it never is while the jobs that run do: their end is heard of.
    """
    fading, room = load.mean - load.lasting, count - 0.5 - load.lasting
    if count <= 0 or floor_of(load, staffing) < count or fading <= 0 or room <= 0:
        return None
    # Both fade by x * x; the floor is below count once fading * x * x + staffing * sqrt(variance) * x <= room.
    spread = staffing * math.sqrt(load.variance)
    x = (-spread + math.sqrt(spread**2 + 4 * fading * room)) / (2 * fading)
    left = max(x * x, (NOTHING - load.lasting) / fading)
    return max(0.0, -tau_s * math.log(left))
