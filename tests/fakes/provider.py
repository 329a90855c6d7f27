# ruff: noqa: ARG002 - the signatures are the port's
"""A provider in memory, true to `scaler.ports.Provider`.

    cloud = FakeCloud(clock, capacity=Amount(cpu_milli=2000, slots=2))
    provider = cloud.open("gpu-queue")

Owns the instances, which outlive the providers that started them. An idle instance ends as soon as it is told to drain,
one in `cloud.busy` when it is forced, or on `cloud.end`. Faults: `cloud.failure = "no answer"`, `cloud.launch_failure`,
`cloud.launch_refusal`, `cloud.launch_limit`, `cloud.lost_replies`, `cloud.hidden_for`.
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
from scaler.core.intent import Intent
from scaler.ports import Launched, Proposal, ProviderRefused, ProviderUnavailable


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
        self.launch_refusal: str | None = None
        """While set, launches raise `ProviderRefused` with it: nothing was started."""
        self.lost_replies = 0
        """So many launches take effect but raise `ProviderUnavailable`."""
        self.hidden_for = 0
        """An instance is left out of so many listings after its launch."""
        self.config = "1"
        """What launches of now are configured like."""
        self.proposed: list[int] = []
        """How many each proposal was asked for."""
        self.busy: set[str] = set()
        """Agents that hold something: they don't end when they are drained."""
        self.on_launch: Callable[[Instance], None] = lambda _: None
        """Called with every new instance: what its agent would do."""
        self.on_stop: Callable[[Instance, StopMode], None] = lambda _, __: None
        self.launches: list[int] = []
        """How many each call to `launch` started."""
        self.tokens: dict[tuple[str, str], list[str]] = {}
        """What was ever started, by queue and token."""
        self.left: list[str] = []
        """Of which instances it was told that their agents had left."""
        self.most = 0
        """The most instances that any queue has had at a time."""
        self.instances: dict[str, Instance] = {}
        self._clock = clock
        self._queues: dict[str, str] = {}
        self._unlisted: dict[str, int] = {}
        self._stories: dict[str, str] = {}
        self._listeners: set[asyncio.Event] = set()

    def open(self, queue: str) -> FakeProvider:
        """A provider for one queue."""
        return FakeProvider(self, queue)

    def of(self, queue: str) -> list[Instance]:
        """The queue's instances, oldest first."""
        found = [self.instances[key] for key, owner in self._queues.items() if owner == queue]
        return sorted(found, key=lambda instance: (instance.launched_at, instance.id))

    def launch(
        self, queue: str, count: int, token: str, *, intent: str | None = None, config: str = ""
    ) -> list[Instance]:
        """Start what `token` has not started yet, once for all: a repeat finds what is left of the first."""
        key = (queue, token)
        if key not in self.tokens:
            limit = count if self.launch_limit is None else min(count, self.launch_limit)
            self.tokens[key] = [self._start(queue, intent, config).id for _ in range(limit)]
            self.launches.append(limit)
        else:
            self.launches.append(0)
        return [self.instances[found] for found in self.tokens[key] if found in self.instances]

    def _start(self, queue: str, intent: str | None, config: str) -> Instance:
        instance_id = f"i-{len(self._stories) + len(self.instances) + 1:04d}"
        instance = Instance(
            instance_id,
            f"agent-{instance_id}",
            self._clock.now(),
            InstanceState.STARTING,
            self.capacity,
            config=config,
            intent=intent,
        )
        self.instances[instance_id] = instance
        self._queues[instance_id] = queue
        self._unlisted[instance_id] = self.hidden_for
        self.most = max(self.most, len(self.of(queue)))
        self.on_launch(instance)
        return instance

    def listed(self, queue: str) -> list[Instance]:
        """What a listing shows: a fresh instance is not in the first `hidden_for` ones."""
        found = []
        for instance in self.of(queue):
            if self._unlisted[instance.id] > 0:
                self._unlisted[instance.id] -= 1
            else:
                found.append(instance)
        return found

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
            del self._queues[instance_id], self._unlisted[instance_id]
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
        self._mine: set[str] = set()

    async def list(self) -> Sequence[Instance]:
        await self._answer()
        listed = {instance.id: instance for instance in self._cloud.listed(self._queue)}
        return [one for one in self._cloud.of(self._queue) if one.id in self._mine or one.id in listed]

    async def capacity(self, spec: QueueSpec) -> Amount:
        await self._answer()
        return self._cloud.capacity

    async def propose(self, spec: QueueSpec, count: int) -> Proposal:
        await self._answer()
        self._cloud.proposed.append(count)
        request = f'{{"queue": "{self._queue}", "count": {count}}}'
        return Proposal(count, request, f"fake-{self._cloud.config}", self._cloud.capacity, "fake instances")

    async def launch(self, intent: Intent) -> Launched:
        await self._answer()
        cloud = self._cloud
        if cloud.launch_failure is not None:
            raise ProviderUnavailable(cloud.launch_failure)
        if cloud.launch_refusal is not None:
            raise ProviderRefused(cloud.launch_refusal)
        made = cloud.launch(self._queue, intent.count, intent.token, intent=intent.id, config=intent.config)
        if cloud.lost_replies > 0:
            cloud.lost_replies -= 1
            raise ProviderUnavailable("no answer in time")
        self._mine.update(instance.id for instance in made)
        short = len(cloud.tokens[self._queue, intent.token]) < intent.count
        return Launched(made, "there are no more of them" if short else None)

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        await self._answer()
        if instance_id in {instance.id for instance in self._cloud.of(self._queue)}:
            self._cloud.begin_stop(instance_id, mode)

    def agent_left(self, instance_id: str) -> None:
        self._cloud.left.append(instance_id)

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
