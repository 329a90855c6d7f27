"""How long an attempt that has ended waits for its store, and what its record says meanwhile.

A record that says nothing but `running` looks like a job that hangs. So at the first failure the reason is written
there; the outcome replaces it. The news may get lost, and are given up once the waiting is over: they never hold up
the files, nor the outcome. Every write is fenced as any other.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

import structlog

from agent.claims import Fenced
from agent.core.outcome import StopCause
from agent.holds import Hold
from agent.services import Services
from launch.errors import LaunchError, StoreError
from launch.files import IN_NATS

STOPPED_PATIENCE_S = 30.0
CROWD = 100
"""Attempts that have ended and wait for their store make room for new ones: with more than this held, none waits."""
REASON_KEPT = 500
"""Characters of why it waits."""

_log = structlog.get_logger(__name__)


class Waiting:
    """One attempt's wait for its store, as a block: `async with Waiting(...) as waiting`."""

    def __init__(self, services: Services, hold: Hold, where: str) -> None:
        self._services = services
        self._hold = hold
        self._where = where
        self._news: asyncio.Task[None] | None = None
        self._since_s: float | None = None
        """When it first failed; None: not yet."""

    async def __aenter__(self) -> Waiting:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._news is not None:
            self._news.cancel()
            await asyncio.wait({self._news})
            if not self._news.cancelled() and (defect := self._news.exception()) is not None:
                _log.error("news of waiting not written", job=str(self._hold.job), exc_info=defect)

    def begin(self) -> None:
        """Patience starts anew, for something else."""
        self._since_s = None

    def goes_on(self, what: str, error: LaunchError, progress: bool) -> bool:
        """Whether to try again to store `what`; `progress`: something was stored since the last failure."""
        hold, now_s = self._hold, asyncio.get_running_loop().time()
        away = self._where == IN_NATS and self._services.broker.connected_since is None
        if progress or away or self._since_s is None:
            self._since_s = now_s
        limit_s = self._services.settings.store_patience_s
        if hold.stop.done():
            limit_s = min(limit_s, STOPPED_PATIENCE_S)
        if len(self._services.holds) > CROWD:
            limit_s = 0.0
        again = not hold.fenced and (progress or away or now_s - self._since_s < limit_s)
        if again and not away and self._news is None:  # a broker that is away could not be told
            self._news = asyncio.create_task(self._tell(self._text(what, error)), name=f"news of {hold.job}")
        return again

    def _text(self, what: str, error: LaunchError) -> str:
        reason = str(error)[:REASON_KEPT]
        if not isinstance(error, StoreError):
            return f"its container has exited; waiting for the engine to hand out its {what}: {reason}"
        store = "NATS" if self._where == IN_NATS else self._where
        return f"its container has exited; waiting for {store} to take its {what}: {reason}"

    async def _tell(self, message: str) -> None:
        try:
            await self._services.claims.move(self._hold, None, message=message)
        except Fenced:
            self._hold.ask_to_stop(StopCause.FENCED)
