"""The engine for who can't do without its answer: asked again while it is away.

A container outlives its engine's restarts, and what an attempt came to is worth any wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from agent.ports import Engine, EngineError, EngineUnavailable

T = TypeVar("T")

ENGINE_RETRY_S = 1.0
ENGINE_PATIENCE = 30
"""How many times an engine that does not answer is asked again before an attempt that has not started gives up."""
REFUSALS = 3
"""So often it may refuse to say what came of a container, before that is taken for its last word."""

_GONE = 404
_CONFLICT = 409
_log = structlog.get_logger(__name__)


async def at_last(call: Callable[[], Awaitable[T]]) -> T:
    """Ask the engine until it answers; raises its `EngineError` if it refuses `REFUSALS` times."""
    refusals = 0
    while True:
        try:
            return await call()
        except EngineUnavailable:
            pass
        except EngineError:
            refusals += 1
            if refusals >= REFUSALS:
                raise
        await asyncio.sleep(ENGINE_RETRY_S)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Ask the engine again while it does not answer, for a while."""
    for _ in range(ENGINE_PATIENCE):
        with contextlib.suppress(EngineUnavailable):
            return await call()
        await asyncio.sleep(ENGINE_RETRY_S)
    return await call()


async def make(engine: Engine, name: str, config: dict[str, Any]) -> str:
    """Create the container, putting away one of the same name that is not this attempt's."""
    try:
        return await engine.create(name, config)
    except EngineError as error:
        if error.status != _CONFLICT:
            raise
        _log.warning("name taken by another container: removing it", container=name)
        await engine.remove(name)
        return await engine.create(name, config)


async def exited(engine: Engine, container: str) -> None:
    """Return once the container does not run, through restarts of the engine."""
    while True:
        try:
            await engine.wait(container)
        except EngineUnavailable as error:
            _log.warning("engine does not answer", container=container[:12], error=error.message)
        except EngineError as error:
            if error.status == _GONE:
                return
            _log.warning("engine can't wait", container=container[:12], error=error.message)
        else:
            return
        await asyncio.sleep(ENGINE_RETRY_S)


async def signal(engine: Engine, container: str, name: str) -> None:
    """Send a signal; one that can't be delivered now is only told of."""
    try:
        await engine.signal(container, name)
    except (EngineError, EngineUnavailable) as error:
        _log.warning("signal not delivered", container=container[:12], signal=name, error=error.message)


async def put_away(engine: Engine, name: str) -> None:
    """Remove the container; an engine that is away is asked again for as long as that takes."""
    while True:
        try:
            await engine.remove(name)
            return
        except EngineUnavailable as error:
            _log.warning("container not removed yet", container=name, error=error.message)
        except EngineError as error:
            _log.warning("container not removed", container=name, error=error.message)
            return
        await asyncio.sleep(ENGINE_RETRY_S)


async def first_done(*futures: asyncio.Future[Any]) -> None:
    """Return once any of them is done; none is cancelled."""
    await asyncio.wait(set(futures), return_when=asyncio.FIRST_COMPLETED)


async def seen_through(work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which comes to its end even if this is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait({task})


async def unless(stop: asyncio.Future[Any], work: Coroutine[None, None, T]) -> T | None:
    """The result of `work`, or None if `stop` was done first; then `work` is cancelled."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    try:
        await first_done(task, stop)
        if task.done():
            return task.result()
        return None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


def _look_at(task: asyncio.Future[Any]) -> None:
    """Who asked may be gone; a failure that nobody hears of is none to complain of."""
    if not task.cancelled():
        task.exception()
