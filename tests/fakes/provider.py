# ruff: noqa: ARG002 - the signatures are the port's
"""A provider in memory, true to `scaler.ports.Provider`.

    cloud = FakeCloud(clock, capacity=Amount(cpu_milli=2000, slots=2))
    provider = cloud.open("gpu-queue")

Owns the instances, which outlive the providers that started them. An idle instance ends as soon as it is told to drain,
one in `cloud.busy` when it is forced, or on `cloud.end`. Faults: `cloud.failure = "no answer"`, `cloud.launch_failure`,
`cloud.launch_limit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from launch.core.capacity import Amount
from launch.ports import Clock
from launch.queue import QueueSpec
from scaler.core.instance import Instance, InstanceState, StopMode
from scaler.ports import ProviderUnavailable


class FakeCloud:
    """Everything that was ever started, for all queues."""

    def __init__(self, clock: Clock, capacity: Amount) -> None:
        self.capacity = capacity
        self.failure: str | None = None
        """While set, every call raises `ProviderUnavailable` with it."""
        self.launch_failure: str | None = None
        """As `failure`, but for launches only."""
        self.launch_limit: int | None = None
        """Start no more than this many instances a call, as a cloud that is short of them does."""
        self.busy: set[str] = set()
        """Agents that hold something: they don't end when they are drained."""
        self.on_launch: Callable[[Instance], None] = lambda _: None
        """Called with every new instance: what its agent would do."""
        self.on_stop: Callable[[Instance, StopMode], None] = lambda _, __: None
        self.launches: list[int] = []
        """How many each call to `launch` started."""
        self.instances: dict[str, Instance] = {}
        self._clock = clock
        self._queues: dict[str, str] = {}
        self._tokens: dict[str, tuple[str, str]] = {}
        self._stories: dict[str, str] = {}
        self._listeners: set[asyncio.Event] = set()

    def open(self, queue: str) -> FakeProvider:
        """A provider for one queue."""
        return FakeProvider(self, queue)

    def of(self, queue: str) -> list[Instance]:
        """The queue's instances, oldest first."""
        found = [self.instances[key] for key, owner in self._queues.items() if owner == queue]
        return sorted(found, key=lambda instance: (instance.launched_at, instance.id))

    def launch(self, queue: str, count: int, token: str) -> list[Instance]:
        """Start what `token` has not started yet."""
        made = [self.instances[key] for key, owner in self._tokens.items() if owner == (queue, token)]
        before = len(made)
        limit = count if self.launch_limit is None else min(count, before + self.launch_limit)
        while len(made) < limit:
            instance_id = f"i-{len(self._stories) + len(self.instances) + 1:04d}"
            instance = Instance(
                instance_id, f"agent-{instance_id}", self._clock.now(), InstanceState.STARTING, self.capacity
            )
            self.instances[instance_id] = instance
            self._queues[instance_id] = queue
            self._tokens[instance_id] = (queue, token)
            made.append(instance)
            self.on_launch(instance)
        self.launches.append(len(made) - before)
        return made

    def begin_stop(self, instance_id: str, mode: StopMode) -> None:
        """Mark it as stopping; it ends at once unless it is busy."""
        instance = self.instances.get(instance_id)
        if instance is None:
            return
        self.instances[instance_id] = replace(instance, state=InstanceState.STOPPING)
        self.on_stop(instance, mode)
        if mode is StopMode.KILL or instance.agent_id not in self.busy:
            self.end(instance_id, "was stopped")

    def end(self, instance_id: str, story: str = "ended by itself") -> None:
        """An instance is gone."""
        if self.instances.pop(instance_id, None) is not None:
            del self._queues[instance_id], self._tokens[instance_id]
            self._stories[instance_id] = f"{instance_id} {story}"
            for listener in self._listeners:
                listener.set()

    def story(self, instance_id: str) -> str:
        """How an instance ended."""
        return self._stories.get(instance_id, "")

    async def changes(self) -> AsyncGenerator[None]:
        """Yields at once and whenever an instance has ended."""
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            while True:
                yield
                await changed.wait()
                changed.clear()
        finally:
            self._listeners.discard(changed)


class FakeProvider:
    """`scaler.ports.Provider` for one queue."""

    def __init__(self, cloud: FakeCloud, queue: str) -> None:
        self._cloud = cloud
        self._queue = queue
        self._closed = False

    async def list(self) -> Sequence[Instance]:
        await self._answer()
        return self._cloud.of(self._queue)

    async def capacity(self, spec: QueueSpec) -> Amount:
        await self._answer()
        return self._cloud.capacity

    async def launch(self, spec: QueueSpec, count: int, *, token: str) -> Sequence[Instance]:
        await self._answer()
        if self._cloud.launch_failure is not None:
            raise ProviderUnavailable(self._cloud.launch_failure)
        return self._cloud.launch(self._queue, count, token)

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        await self._answer()
        if instance_id in {instance.id for instance in self._cloud.of(self._queue)}:
            self._cloud.begin_stop(instance_id, mode)

    async def explain(self, instance_id: str) -> str:
        await self._answer()
        return self._cloud.story(instance_id)

    def changes(self) -> AsyncGenerator[None]:
        return self._cloud.changes()

    async def drain(self, timeout_s: float) -> Sequence[str]:
        for instance in await self.list():
            if instance.state is not InstanceState.STOPPING:
                self._cloud.begin_stop(instance.id, StopMode.DRAIN)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                async for _ in self.changes():
                    if not self._cloud.of(self._queue):
                        break
        return [instance.id for instance in self._cloud.of(self._queue)]

    async def force(self, timeout_s: float) -> Sequence[str]:
        for instance in await self.list():
            self._cloud.busy.discard(instance.agent_id)
            self._cloud.begin_stop(instance.id, StopMode.DRAIN)
        return [instance.id for instance in self._cloud.of(self._queue)]

    async def close(self) -> None:
        self._closed = True

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self._closed:
            raise ProviderUnavailable("the provider is closed")
        if self._cloud.failure is not None:
            raise ProviderUnavailable(self._cloud.failure)
