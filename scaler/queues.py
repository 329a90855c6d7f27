"""Which queues are scaled: each queue of KV `queues` gets its provider, its loop and its hints, and loses them with it.

Invariant: a queue that can't be scaled, whatever the reason, never stops the others; anything but a `LaunchError` is a
defect and stops the scaler loudly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import reduce

import structlog

from launch.errors import LaunchError, NotPermitted
from launch.ports import Broker, Clock, Synced
from launch.queue import QueueSpec
from scaler.launches import Launches
from scaler.leader import Identity, Lease
from scaler.loop import Parts, QueueLoop
from scaler.observe import Observer
from scaler.ports import Provider
from scaler.presences import Agents
from scaler.report import Reporter, tell_unable
from scaler.settings import ScalerSettings
from scaler.state import Change, Deposed, StateStore

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
    me: Identity
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


@asynccontextmanager
async def background(loops: Mapping[str, Coroutine[None, None, None]]) -> AsyncGenerator[None]:
    """Run these beside what is inside; they are cancelled at its end, and one that fails ends it."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(loop, name=f"scaler-{name}") for name, loop in loops.items()]
        yield
        for task in running:
            task.cancel()


class QueueService:
    """One queue, from its first spec to its end: waits until it leads the queue, and scales it as long as it does."""

    def __init__(self, spec: QueueSpec, tools: Tools) -> None:
        self.name = spec.queue_name
        self.done = False
        self.wake = asyncio.Event()
        self._news = asyncio.Event()
        self._spec: QueueSpec | None = spec
        self._tools = tools
        self._stopping = False
        self._loop: QueueLoop | None = None
        self._trouble: str | None = None
        settings = tools.settings
        self._lease = Lease(
            tools.broker.leases,
            self.name,
            tools.me,
            ttl_s=settings.lease_ttl_s,
            renew_s=settings.lease_renew_s,
            follow=lambda leader: self._tell(f"{leader} scales this queue; waiting to take over"),
        )

    def update(self, spec: QueueSpec | None) -> None:
        """The queue's spec is another one now; None: the queue is gone."""
        self._spec = spec
        if self._loop is not None and spec is not None:
            self._loop.spec = spec
        self._news.set()
        self.wake.set()

    def stop(self) -> None:
        """Drain and return from `run`."""
        self._stopping = True
        self._news.set()
        self.wake.set()

    async def run(self) -> None:
        """Scale the queue until it is gone or `stop` is called; returns when its local agents have ended."""
        settings = self._tools.settings
        while (spec := self._spec) is not None and not self._stopping:
            self._news.clear()
            try:
                if not await self._lease.try_once():
                    await self._wait(settings.lease_renew_s)
                    continue
            except LaunchError as error:
                log.info("can't ask who leads", queue=self.name, why=error.message)
                if isinstance(error, NotPermitted) and str(error) != self._trouble:
                    self._trouble = str(error)
                    self._tell(f"not scaled: {error}")
                await self._wait(settings.lease_renew_s)
                continue
            keeping = asyncio.create_task(self._lease.keep(), name=f"scaler-lease-{self.name}")
            try:
                pause_s = await self._lead(spec)
            finally:
                keeping.cancel()
                with suppress(asyncio.CancelledError):
                    await keeping
                await self._lease.release()
            if pause_s:
                await self._wait(pause_s)
        self.done = True

    async def _wait(self, timeout_s: float) -> None:
        """Until there is a new spec, or it is time to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    async def _lead(self, spec: QueueSpec) -> float:
        """Scale as the leader; returns how long to leave the queue to others before trying again."""
        tools = self._tools
        store = StateStore(tools.broker.documents, self.name, tools.me.name)
        try:
            await store.claim()
            provider = await tools.open_provider(spec)
        except LaunchError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.info("queue is not scaled", queue=self.name, error=str(error))
                self._tell(f"not scaled: {error}")
            await tell_unable(
                tools.broker.scaling, tools.clock.now(), queue=self.name, leader=tools.me.name, why=str(error)
            )
            return tools.settings.resync_s
        self._trouble = None
        try:
            await self._scale(spec, provider, store)
        except Deposed as error:
            self._tell(f"not leading any more: {error.message}")
            return tools.settings.lease_renew_s
        finally:
            await provider.close()
        return 0.0

    async def _scale(self, spec: QueueSpec, provider: Provider, store: StateStore) -> None:
        kind = spec.provider.type
        loop, reporter, observer = self._parts(spec, provider, store)
        await reporter.open()
        self._loop = loop
        loop.spec = self._spec or spec
        deposed: Deposed | None = None
        try:
            async with background(
                self._hints(provider)
                | {"records": observer.running.run(self.wake.set), "reports": reporter.run(), "lost": self._hear_loss()}
            ):
                try:
                    await self._turn_until_over(loop, kind, store)
                except Deposed as error:
                    deposed = error
        finally:
            self._loop = None
        if deposed is not None:
            raise deposed
        if self._lease.lost.is_set():
            self._tell("the leadership of this queue was lost")
        else:
            await reporter.close(gone=self._spec is None)

    async def _turn_until_over(self, loop: QueueLoop, kind: str, store: StateStore) -> None:
        await loop.run(lambda: self._over(kind))
        if not self._lease.lost.is_set():
            await loop.finish(self._tools.drain_timeout_s, self._tools.abort, escalate=self._stopping)
            await self._close_down(loop, kind, store)

    def _parts(self, spec: QueueSpec, provider: Provider, store: StateStore) -> tuple[QueueLoop, Reporter, Observer]:
        tools = self._tools
        broker, clock, settings = tools.broker, tools.clock, tools.settings

        def say(line: str) -> None:
            log.info(line, queue=self.name)
            self._tell(line)

        async def learn(lessons: Sequence[Change]) -> None:
            await store.change(lambda state: reduce(lambda known, lesson: lesson(known), lessons, state))

        launches = Launches(
            store, provider, clock, settings, queue=self.name, say=say, may_act=lambda: self._lease.held
        )  # fmt: skip
        observer = Observer(
            broker, provider, tools.agents, clock, settings, spec,
            state=lambda: store.state, expected=launches.expected, learn=learn,
        )  # fmt: skip
        observer.running.restore(store.state.durations_s)
        reporter = Reporter(broker.scaling, clock, queue=self.name, leader=tools.me.name)
        parts = Parts(
            broker, provider, observer, launches, store, reporter, clock, settings,
            may_act=lambda: self._lease.held, tell=self._tell,
        )  # fmt: skip
        return QueueLoop(spec, parts, wake=self.wake), reporter, observer

    def _over(self, kind: str) -> bool:
        other = self._spec is None or self._spec.provider.type != kind
        return self._stopping or other or self._lease.lost.is_set()

    async def _close_down(self, loop: QueueLoop, kind: str, store: StateStore) -> None:
        """Nobody wants the instances that outlive a scaler, once the queue is gone or has another provider."""

        def wanted_again() -> bool:
            return not self._over(kind) or self._stopping or self._lease.lost.is_set()

        if not wanted_again():
            await loop.close_down(wanted_again)
        if self._spec is None and not wanted_again():
            with suppress(LaunchError):
                await store.forget()

    def _hints(self, provider: Provider) -> dict[str, Coroutine[None, None, None]]:
        return {
            "notices": keep("notices", self._hear_notices),
            "provider": keep("provider", lambda: self._hear_provider(provider)),
        }

    async def _hear_loss(self) -> None:
        await self._lease.lost.wait()
        self.wake.set()

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
