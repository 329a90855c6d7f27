"""Clocks for tests.

`LoopClock` ticks with the event loop's own time, so that on a loop with virtual time everything that is dated and
everything that is timed agree. `ManualClock` stands still until it is moved.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class LoopClock:
    """`start` (the present, if left out) plus the loop time that has passed since the first look at the clock."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start
        self._base_s = 0.0

    def now(self) -> datetime:
        """The current time; needs a running loop."""
        loop_s = asyncio.get_running_loop().time()
        if self._start is None or not self._base_s:
            self._start = self._start or datetime.now(UTC)
            self._base_s = loop_s
        return self._start + timedelta(seconds=loop_s - self._base_s)


class ManualClock:
    """A clock that is moved by hand."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        """The time that it was last set to."""
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move it on; returns the new time."""
        self._now += timedelta(seconds=seconds)
        return self._now
