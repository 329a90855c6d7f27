"""The event loop of a run: virtual time, no system calls, and the same order of everything each time.

Sets of tasks and futures are walked in the order of their hashes, which are addresses by default; here they are
numbers in the order of making, so that a seed gives the same run in every process.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine, Iterator
from contextvars import Context
from typing import Any

from tests.unit.agent.worlds import JumpingSelector, VirtualLoop

MAX_TURNS = 100_000
"""So many turns of the loop at one moment are no work any more."""

BUSY_TURNS = 1000


class _Future(asyncio.Future[Any]):
    def __init__(self, *, loop: SimLoop) -> None:
        self._order = next(loop.order)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._order


class _Task(asyncio.Task[Any]):
    def __init__(
        self, coro: Coroutine[Any, Any, Any], *, loop: SimLoop, name: str | None = None, context: Context | None = None
    ) -> None:
        self._order = next(loop.order)
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._order


class _IdleSelector(JumpingSelector):
    """Nothing ever comes from outside, so the system is not asked."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self._turns += 1
        if timeout > 0:
            self.now_s += timeout
            self._turns = 0
        elif self._turns > MAX_TURNS:
            raise RuntimeError("somebody spins: time does not move on")
        elif self._turns % BUSY_TURNS == 0:
            self.now_s += 1e-6  # work takes time, too: who waits for less than the loop's resolution gets on
        return []


class SimLoop(VirtualLoop):
    """A loop for one run."""

    def __init__(self) -> None:
        self.order: Iterator[int] = itertools.count()
        super().__init__(_IdleSelector())
        self.set_task_factory(_make_task)

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
    assert isinstance(loop, SimLoop)
    return _Task(coro, loop=loop, **options)
