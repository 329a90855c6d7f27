"""The simulated cloud's chances: boot times, spells without capacity, spot losses, how fast launches are let through.

Everything is drawn from the seed and the number of the launch, so that policies are compared under the same luck: the
tenth launch boots equally long whoever asks for it, and a spell comes at the same time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from random import Random

from launch.core.capacity import Amount

BILLED_AT_LEAST_S = 60.0
"""An instance is paid by the second from its launch on, and for at least this long."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """One kind of machine, and how the place behaves that it comes from."""

    capacity: Amount
    boot_s: float = 60.0
    """Median seconds from launch to registration."""
    boot_sigma: float = 0.25
    """Of the logarithm: with 0.25 one in a hundred takes 1.8 times the median."""
    shortage_every_s: float = 0.0
    """Mean time between spells in which nothing can be launched; 0: there are none."""
    shortage_for_s: float = 600.0
    """Mean length of such a spell."""
    shortage_memory_s: float = 180.0
    """After a launch that found no capacity none is tried for this long."""
    spot_loss_per_hour: float = 0.0
    """How many instances of a hundred, divided by a hundred, are taken away an hour."""
    api_burst: int = 1000
    api_per_s: float = 2.0
    """Instances that can be launched at once, and how many more a second."""
    price_per_hour: float | None = None


class Luck:
    """What a cloud does in one run."""

    def __init__(self, cloud: Cloud, seed: int) -> None:
        self._cloud = cloud
        self._seed = seed
        self._edges: list[float] = []  # Spells begin at even places and end at odd ones.
        self._spells = Random(f"{seed}/shortage")  # noqa: S311  (a simulation has to repeat)
        self._tokens = float(cloud.api_burst)
        self._tokens_at = 0.0

    def boot_s(self, number: int) -> float:
        """How long the launch of this number takes to register."""
        cloud = self._cloud
        if cloud.boot_s <= 0:
            return 0.0
        random = Random(f"{self._seed}/boot/{number}")  # noqa: S311
        return random.lognormvariate(math.log(cloud.boot_s), cloud.boot_sigma)

    def life_s(self, number: int) -> float | None:
        """After how long that instance is taken away; None for never."""
        rate = self._cloud.spot_loss_per_hour
        if rate <= 0:
            return None
        return Random(f"{self._seed}/life/{number}").expovariate(rate / 3600.0)  # noqa: S311

    def short_at(self, now: float) -> bool:
        """Whether there is no capacity now."""
        every = self._cloud.shortage_every_s
        if every <= 0:
            return False
        while not self._edges or self._edges[-1] <= now:
            begins = (self._edges[-1] if self._edges else 0.0) + self._spells.expovariate(1 / every)
            self._edges += [begins, begins + self._spells.expovariate(1 / self._cloud.shortage_for_s)]
        return bisect_right(self._edges, now) % 2 == 1

    def let_through(self, count: int, now: float) -> int:
        """How many of `count` launches the provider's limits let through."""
        cloud = self._cloud
        self._tokens = min(float(cloud.api_burst), self._tokens + (now - self._tokens_at) * cloud.api_per_s)
        self._tokens_at = now
        granted = min(count, int(self._tokens))
        self._tokens -= granted
        return granted
