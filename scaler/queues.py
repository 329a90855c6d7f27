"""Which queues are scaled: each queue of KV `queues` gets its provider, its loop and its hints, and loses them with it.

Invariant: a queue that can't be scaled, whatever the reason, never stops the others; anything but a `LaunchError` is a
defect and stops the scaler loudly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

import structlog

from launch.errors import LaunchError
from launch.ports import Broker, Clock, Synced
from launch.queue import QueueSpec
from scaler.loop import QueueLoop
from scaler.observe import Agents, Observer
from scaler.ports import Provider
from scaler.settings import ScalerSettings

log = structlog.stdlib.get_logger("scaler")

RETRY_S = 1.0
"""Pause before a watch that failed is begun anew."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every queue's service is made with."""

    broker: Broker
    agents: Agents
    clock: Clock
    settings: ScalerSettings
    open_provider: Callable[[QueueSpec], Awaitable[Provider]]
    tell: Callable[[str], None]
    drain_timeout_s: float
    abort: asyncio.Event


async def keep(name: str, hear: Callable[[], Awaitable[None]]) -> None:
    """Listen for ever: begin again when the broker or the provider fails."""
    while True:
        try:
            await hear()
        except LaunchError as error:
            log.warning("watch failed", watch=name, error=str(error))
        await asyncio.sleep(RETRY_S)


class QueueService:
    """One queue, from its first spec to its end."""

    def __init__(self, spec: QueueSpec, tools: Tools) -> None:
        self.name = spec.queue_name
        self.done = False
        self.wake = asyncio.Event()
        self._spec: QueueSpec | None = spec
        self._tools = tools
        self._stopping = False
        self._loop: QueueLoop | None = None
        self._trouble: str | None = None

    def update(self, spec: QueueSpec | None) -> None:
        """The queue's spec is another one now; None: the queue is gone."""
        self._spec = spec
        if self._loop is not None and spec is not None:
            self._loop.spec = spec
        self.wake.set()

    def stop(self) -> None:
        """Drain and return from `run`."""
        self._stopping = True
        self.wake.set()

    async def run(self) -> None:
        """Scale the queue until it is gone or `stop` is called; returns when its local agents have ended."""
        while (spec := self._spec) is not None and not self._stopping:
            self.wake.clear()
            try:
                provider = await self._tools.open_provider(spec)
            except LaunchError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log.debug("queue is not scaled", queue=self.name, error=str(error))
                    self._tell(f"not scaled: {error}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._tools.settings.resync_s):
                        await self.wake.wait()
                continue
            self._trouble = None
            try:
                await self._scale(spec, provider)
            finally:
                await provider.close()
        self.done = True

    async def _scale(self, spec: QueueSpec, provider: Provider) -> None:
        tools, kind = self._tools, spec.provider.type

        def over() -> bool:
            return self._stopping or self._spec is None or self._spec.provider.type != kind

        observer = Observer(tools.broker, provider, tools.agents, tools.clock, tools.settings)
        self._loop = QueueLoop(
            self._spec or spec, tools.broker, provider, observer, tools.clock, tools.settings,
            wake=self.wake, tell=self._tell,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as tasks:
                hints = [
                    tasks.create_task(keep("notices", self._hear_notices), name=f"scaler-notices-{self.name}"),
                    tasks.create_task(
                        keep("provider", lambda: self._hear_provider(provider)), name=f"scaler-provider-{self.name}"
                    ),
                ]
                await self._loop.run(over)
                for hint in hints:
                    hint.cancel()
            await self._loop.finish(tools.drain_timeout_s, tools.abort, escalate=self._stopping)
        finally:
            self._loop = None

    async def _hear_notices(self) -> None:
        async with aclosing(self._tools.broker.jobs.notices(self.name)) as notices:
            async for _ in notices:
                self.wake.set()

    async def _hear_provider(self, provider: Provider) -> None:
        async with aclosing(provider.changes()) as changes:
            async for _ in changes:
                self.wake.set()

    def _tell(self, line: str) -> None:
        self._tools.tell(f"{self.name}: {line}")


class Queues:
    """All queues that are scaled: those named in `only`, or every one."""

    def __init__(self, only: frozenset[str] | None, tools: Tools, tasks: asyncio.TaskGroup) -> None:
        self.services: dict[str, QueueService] = {}
        self._only = only
        self._tools = tools
        self._tasks = tasks

    async def follow(self) -> None:
        """Follow KV `queues` until the watch fails with `LaunchError`."""
        await self._tools.agents.ready.wait()  # Nothing can be decided before.
        seen: set[str] = set()
        async with aclosing(self._tools.broker.queues.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    self._synced(seen)
                elif self._only is None or change.key in self._only:
                    seen.add(change.key)
                    self._put(change.key, change.value)

    def wake(self, name: str | None) -> None:
        """Something has happened in this queue (None: in any)."""
        for service in self.services.values():
            if name in (None, service.name):
                service.wake.set()

    def stop(self) -> None:
        """Drain all; their tasks end when that is done."""
        for service in self.services.values():
            service.stop()

    def _put(self, name: str, spec: QueueSpec | None) -> None:
        service = self.services.get(name)
        if service is not None and not service.done:
            service.update(spec)
        elif spec is not None:
            self.services[name] = QueueService(spec, self._tools)
            self._tasks.create_task(self.services[name].run(), name=f"scaler-queue-{name}")
        else:
            self.services.pop(name, None)

    def _synced(self, seen: set[str]) -> None:
        for name in self.services.keys() - seen:
            self._put(name, None)
        for name in sorted((self._only or frozenset()) - seen):
            self._tools.tell(f"{name}: there is no such queue yet")
