"""Metrics: numbers over time that a job reports, or that its agent measures."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from launch.subjects import JobId


class PointSource(StrEnum):
    """Where a point comes from: a marked line of output, `$LAUNCH_METRICS`, or the agent's own look."""

    OUTPUT = "output"
    FILE = "file"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Point:
    """Values of one moment. `key` is the same each time the same point is sent: readers leave out repeats.

    `values` are finite numbers by name; `step` is the job's own count, where it gives one.
    """

    time: datetime
    source: PointSource
    attempt: int
    key: str
    values: Mapping[str, float]
    step: float | None = None


class Metrics(Protocol):
    """Points of jobs (stream `metrics`). Raises as the other parts of `launch.ports.Broker` do."""

    async def append(self, job: JobId, points: Sequence[Point]) -> None:
        """Store the points in order; returns when all are stored.

        After an error some of them may be stored: append the same again, repeats are left out by readers.
        """
        ...

    def read(self, job: JobId, *, follow: bool = False) -> AsyncGenerator[Point]:
        """The job's points in the order in which they were stored, each once; with `follow` until closed."""
        ...
