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

    STDOUT = "stdout"
    STDERR = "stderr"
    FILE = "file"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Point:
    """Values of one moment: finite numbers by name; `step` is the job's own count, where it gives one.

    Attempt, source and `position` tell a point from every other of its job. Within one attempt and source, positions
    ascend: where the line begins, in bytes from the beginning of the output or the file; of usage, milliseconds since
    1970. So a reader needs no more than the last position of each to leave out what was sent again.
    """

    time: datetime
    source: PointSource
    attempt: int
    position: int
    values: Mapping[str, float]
    step: float | None = None


class Metrics(Protocol):
    """Points of jobs (stream `metrics`). Raises as the other parts of `launch.ports.Broker` do."""

    async def append(self, job: JobId, points: Sequence[Point]) -> None:
        """Store the points in order; returns when all are stored.

        Each attempt and source has one writer at a time, which appends by ascending position. After an error some of
        the points may be stored: append the same again, or from anywhere before; readers leave out repeats.
        """
        ...

    def read(self, job: JobId, *, follow: bool = False) -> AsyncGenerator[Point]:
        """The job's points in the order in which they were stored, each once; with `follow` until closed.

        What some other program has put among them is left out.
        """
        ...
