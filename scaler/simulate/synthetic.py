"""Made-up traces, each drawn from a seed: what can be replayed where there is no file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from random import Random

from launch.core.capacity import Amount
from scaler.simulate.trace import Job, Trace, in_order

GIB = 1024**3
SHAPES = tuple(
    (name, Amount(cpu_milli=cpu * 1000, memory_bytes=memory * GIB, gpus=gpus, slots=1))
    for name, cpu, memory, gpus in (
        ("small", 1, 2, 0), ("medium", 4, 8, 0), ("gpu", 8, 32, 1), ("gpu2", 16, 64, 2), ("gpu4", 32, 128, 4),
    )
)  # fmt: skip
"""Job types and what they ask for ..."""
SHARES = (0.45, 0.20, 0.25, 0.08, 0.02)
"""... and how many of all jobs each makes up."""


class Kind(StrEnum):
    """What a made-up trace is like."""

    SHORT = "short"
    """Jobs of about 20 s that come all day, more by day than by night."""
    LONG = "long"
    """Jobs of about 10 min, some of hours; more by day than by night."""
    BURSTY = "bursty"
    """Sweeps: up to a few hundred equal jobs at once, and silence in between."""
    STEADY = "steady"
    """Jobs of about 1 min at an even rate."""


def generate(kind: Kind, count: int, seed: int, rate: float | None = None) -> Trace:
    """`count` jobs of this kind, the same ones for the same seed; `rate`: jobs a second, in the mean of a day."""
    random = Random(f"{kind}/{seed}")  # noqa: S311  (a simulation has to repeat)
    make, usual_rate = _KINDS[kind]
    jobs = in_order(job for _, job in zip(range(count), make(random, rate or usual_rate), strict=False))
    return Trace(f"synthetic {kind}, seed {seed}", jobs, {})


def _shape(random: Random) -> tuple[str, Amount]:
    return random.choices(SHAPES, SHARES)[0]


def _jobs_of(random: Random, rate: Callable[[float], float], median_s: float, sigma: float) -> Iterator[Job]:
    """Arrivals at `rate(at)` a second, thinned from the highest; durations lognormal."""
    at, highest = 0.0, max(rate(hour * 3600.0) for hour in range(24))
    while True:
        at += random.expovariate(highest)
        if random.random() * highest > rate(at):
            continue
        name, need = _shape(random)
        yield Job(0, at, _lognormal(random, median_s, sigma), need, name)


def _short(random: Random, rate: float) -> Iterator[Job]:
    return _jobs_of(random, _by_day(rate), 20.0, 0.8)


def _long(random: Random, rate: float) -> Iterator[Job]:
    return _jobs_of(random, _by_day(rate), 600.0, 1.2)


def _steady(random: Random, rate: float) -> Iterator[Job]:
    return _jobs_of(random, lambda _: rate, 60.0, 0.6)


def _bursty(random: Random, rate: float) -> Iterator[Job]:
    at = 0.0
    while True:
        at += random.expovariate(rate / 41.0)  # So many jobs a burst has on average.
        (name, need), median_s = _shape(random), _lognormal(random, 90.0, 0.8)
        for _ in range(max(1, round(_lognormal(random, 20.0, 1.2)))):
            yield Job(0, at + random.random() * 2, _lognormal(random, median_s, 0.3), need, name)


def _by_day(mean: float) -> Callable[[float], float]:
    """A rate that goes up and down once a day, from a fifth of the mean to 1.8 of it."""
    return lambda at: mean * (1 - 0.8 * math.cos(2 * math.pi * at / 86_400))


def _lognormal(random: Random, median: float, sigma: float) -> float:
    return min(86_400.0, max(1.0, random.lognormvariate(math.log(median), sigma)))


_KINDS: dict[Kind, tuple[Callable[[Random, float], Iterator[Job]], float]] = {
    Kind.SHORT: (_short, 0.3),
    Kind.LONG: (_long, 0.02),
    Kind.BURSTY: (_bursty, 0.02),
    Kind.STEADY: (_steady, 0.5),
}
