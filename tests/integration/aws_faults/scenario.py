"""One seed's story: how EC2 behaves, when jobs come, and what dies when. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from tests.support.ec2_faults import Faults

LAST_EVENT_S = 5.0


class Kind(StrEnum):
    """What can happen beside EC2's own faults."""

    SCALER_KILLED = "scaler killed"
    SECOND_SCALER = "second scaler"
    BROKER_RESTART = "broker restart"
    AGENT_KILLED = "agent killed"
    SPOT_LOSS = "spot loss"
    BAD_IMAGE = "bad image"
    IMAGE_FIXED = "image fixed"
    RUN_DRY = "run dry"
    REFILL = "refill"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens so many seconds after the start."""

    at_s: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Burst:
    """Jobs that are published at one moment, each running for `seconds`."""

    at_s: float
    jobs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """All of it."""

    seed: int
    faults: Faults
    boot_s: tuple[float, float]
    max_instances: int
    bursts: tuple[Burst, ...]
    happenings: tuple[Happening, ...]

    @property
    def jobs(self) -> int:
        """How many in all."""
        return sum(burst.jobs for burst in self.bursts)


def make(seed: int) -> Scenario:
    """The same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - repeats, hides nothing

    def often(chance: float, most: float) -> float:
        return round(draw.uniform(0.0, most), 2) if draw.random() < chance else 0.0

    faults = Faults(
        seed=seed,
        throttled=often(0.5, 0.2),
        no_capacity=often(0.5, 0.3),
        partial=often(0.4, 0.6),
        quota=often(0.15, 0.2),
        unauthorized=often(0.15, 0.2),
        lost_request=often(0.4, 0.3),
        lost_reply=often(0.6, 0.4),
        invisible_s=often(0.6, 1.5),
        pending_s=often(0.5, 1.0),
        shutting_s=often(0.5, 1.0),
        delay_s=often(0.5, 0.1),
    )
    bursts = [
        Burst(round(draw.uniform(0, 4), 2), draw.randint(1, 10), round(draw.uniform(0.02, 0.8), 2))
        for _ in range(draw.randint(2, 5))
    ]
    happenings = [
        Happening(round(draw.uniform(0.3, LAST_EVENT_S), 2), draw.choice(kinds))
        for chance, kinds in (
            (0.7, [Kind.SCALER_KILLED]),
            (0.3, [Kind.SCALER_KILLED, Kind.BROKER_RESTART]),
            (0.5, [Kind.AGENT_KILLED, Kind.SPOT_LOSS]),
            (0.5, [Kind.SPOT_LOSS]),
            (0.3, [Kind.BROKER_RESTART]),
        )
        if draw.random() < chance
    ]
    if draw.random() < 0.3:
        happenings.append(Happening(0.0, Kind.SECOND_SCALER))
    if draw.random() < 0.15:
        happenings += [Happening(0.0, Kind.BAD_IMAGE), Happening(3.0, Kind.IMAGE_FIXED)]
    if draw.random() < 0.2:
        at_s = round(draw.uniform(0, 2), 2)
        happenings += [Happening(at_s, Kind.RUN_DRY), Happening(at_s + 1.5, Kind.REFILL)]
    return Scenario(
        seed=seed,
        faults=faults,
        boot_s=(0.05, draw.choice([0.1, 0.5, 2.0])),
        max_instances=draw.randint(1, 5),
        bursts=tuple(sorted(bursts, key=lambda burst: burst.at_s)),
        happenings=tuple(sorted(happenings, key=lambda one: one.at_s)),
    )
