"""Every provider keeps the promises of `scaler.ports.Provider`: the fake one, local processes, and EC2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from launch.adapters.clock import SystemClock
from launch.core.capacity import Amount
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from scaler.adapters.local import LocalProvider
from scaler.core.instance import InstanceState, StopMode
from scaler.ports import Provider, ProviderUnavailable
from tests.contract.aws_world import AwsWorld
from tests.fakes.provider import FakeCloud
from tests.support.moto import MotoServer
from tests.unit.scaler.launching import launch
from tests.unit.scaler.stub_agent import StubAgents

QUEUE = "work"
SPEC = QueueSpec(
    queue_name=QUEUE, max_instances=5, max_jobs_per_agent=3, provider=LocalSpec(cpu=1.5, memory=2 * 1024**3)
)
CAPACITY = Amount(cpu_milli=1500, memory_bytes=2 * 1024**3, slots=3)


class World(Protocol):
    """What a provider's instances run in: it outlives any provider.

    `outlives`: so do the instances, also when the scaler ends. Each has `capacity`, as `spec` says; `changed_spec` says
    something else.
    """

    outlives: bool
    spec: QueueSpec
    changed_spec: QueueSpec
    capacity: Amount

    async def open(self, queue: str = QUEUE, *, busy: bool = False) -> Provider:
        """A provider. `busy`: what it starts holds something, so it doesn't end when drained."""
        ...

    async def until_up(self, agent_id: str) -> None:
        """Wait until an instance's agent runs."""
        ...

    async def heed(self, agent_id: str) -> None:
        """Wait until an agent, once asked to leave, knows: from then on it does leave, unless busy.

        Where it is not the provider that asks, somebody else has.
        """
        ...

    async def end(self, agent_id: str) -> None:
        """An instance ends by itself."""
        ...

    async def close(self) -> None:
        """End everything."""
        ...


class FakeWorld:
    outlives = False
    spec = SPEC
    changed_spec = SPEC.model_copy(update={"provider": LocalSpec(cpu=4)})
    capacity = CAPACITY

    def __init__(self) -> None:
        self.cloud = FakeCloud(SystemClock(), CAPACITY)

    async def open(self, queue: str = QUEUE, *, busy: bool = False) -> Provider:
        if busy:
            self.cloud.on_launch = lambda instance: self.cloud.busy.add(instance.agent_id)
        return self.cloud.open(queue)

    async def until_up(self, agent_id: str) -> None:
        pass

    async def heed(self, agent_id: str) -> None:
        pass

    async def end(self, agent_id: str) -> None:
        self.cloud.end(agent_id.removeprefix("agent-"))

    async def close(self) -> None:
        pass


class LocalWorld:
    outlives = False
    spec = SPEC
    changed_spec = SPEC.model_copy(update={"provider": LocalSpec(cpu=4)})
    capacity = CAPACITY

    def __init__(self, directory: Path) -> None:
        self.stubs = StubAgents(directory / "stubs.sock")
        self.providers: list[Provider] = []
        self._directory = directory

    async def open(self, queue: str = QUEUE, *, busy: bool = False) -> Provider:
        provider = await LocalProvider.open(
            queue,
            data_dir=self._directory / "data",
            server_url="nats://127.0.0.1:4222",
            clock=SystemClock(),
            command=self.stubs.command(patience=1 if busy else 0),
        )
        self.providers.append(provider)
        return provider

    async def until_up(self, agent_id: str) -> None:
        await self.stubs.until_up(agent_id)

    async def heed(self, agent_id: str) -> None:
        await self.stubs.until_terms(agent_id, 1)

    async def end(self, agent_id: str) -> None:
        await self.stubs.end(agent_id, 3)

    async def close(self) -> None:
        await self.stubs.close()
        for provider in self.providers:
            await provider.close()


@pytest.fixture(params=["fake", "local", "aws"])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    made: World
    if request.param == "fake":
        made = FakeWorld()
    elif request.param == "aws":
        moto: MotoServer = request.getfixturevalue("moto_server")
        made = aws = AwsWorld(moto)
        await aws.start()
        for name, value in {**moto.env, "AWS_ENDPOINT_URL": aws.proxy.url}.items():
            monkeypatch.setenv(name, value)
    else:
        made = local = LocalWorld(tmp_path)
        await local.stubs.start()
    yield made
    await made.close()


async def until_count(provider: Provider, count: int) -> None:
    """Wait, by the provider's own hints, until it has so many instances."""
    async with asyncio.timeout(10), aclosing(provider.changes()) as changes:
        async for _ in changes:
            if len(await provider.list()) == count:
                return


async def test_launched_instances_are_listed_with_what_they_offer(world: World) -> None:
    provider = await world.open()
    before = SystemClock().now()
    made = await launch(provider, world.spec, 2, "a")
    listed = await provider.list()
    assert {instance.id for instance in listed} == {instance.id for instance in made}
    assert len({instance.id for instance in listed}) == len({instance.agent_id for instance in listed}) == 2
    for instance in listed:
        assert instance.capacity == world.capacity == await provider.capacity(world.spec)
        assert instance.state in (InstanceState.STARTING, InstanceState.RUNNING)
        assert before - timedelta(seconds=1) <= instance.launched_at  # EC2 tells whole seconds
        assert instance.launched_at <= SystemClock().now()


async def test_a_repeated_intent_starts_nothing_more(world: World) -> None:
    provider = await world.open()
    first = await launch(provider, world.spec, 2, "a")
    again = await launch(provider, world.spec, 2, "a")
    assert {instance.id for instance in again} == {instance.id for instance in first}
    assert len(await provider.list()) == 2
    await launch(provider, world.spec, 1, "b")
    assert len(await provider.list()) == 3


async def test_a_repeated_intent_does_not_replace_what_has_ended(world: World) -> None:
    provider = await world.open()
    (instance,) = await launch(provider, world.spec, 1, "a")
    await world.until_up(instance.agent_id)
    await world.end(instance.agent_id)
    await until_count(provider, 0)
    assert [
        made for made in await launch(provider, world.spec, 1, "a") if made.state is not InstanceState.STOPPING
    ] == []
    assert await provider.list() == []


async def test_what_is_proposed_says_what_will_be_there(world: World) -> None:
    provider = await world.open()
    proposal, again = await provider.propose(world.spec, 2), await provider.propose(world.spec, 2)
    assert proposal.capacity == world.capacity
    assert (proposal.count, proposal.config) == (2, again.config)
    assert proposal.request
    assert proposal.note
    assert await provider.list() == []


async def test_an_instance_tells_its_intent_and_its_configuration(world: World) -> None:
    provider = await world.open()
    proposal = await provider.propose(world.spec, 1)
    await launch(provider, world.spec, 1, "a")
    (instance,) = await provider.list()
    assert (instance.intent, instance.config) == ("a", proposal.config)


async def test_a_drained_instance_that_holds_nothing_ends(world: World) -> None:
    provider = await world.open()
    stays, goes = await launch(provider, world.spec, 2, "a")
    await world.until_up(goes.agent_id)
    await provider.stop(goes.id, StopMode.DRAIN)
    await world.heed(goes.agent_id)
    await until_count(provider, 1)
    assert [instance.id for instance in await provider.list()] == [stays.id]
    await provider.stop(goes.id, StopMode.DRAIN)
    await provider.stop("never-was", StopMode.KILL)


async def test_a_busy_instance_is_stopping_until_it_is_forced(world: World) -> None:
    provider = await world.open(busy=True)
    (instance,) = await launch(provider, world.spec, 1, "a")
    await world.until_up(instance.agent_id)
    await provider.stop(instance.id, StopMode.DRAIN)
    await provider.stop(instance.id, StopMode.DRAIN)
    assert [entry.state for entry in await provider.list()] == [InstanceState.STOPPING]
    await world.heed(instance.agent_id)
    assert await provider.drain(0.05) == ([] if world.outlives else [instance.id])
    assert [entry.state for entry in await provider.list()] == [InstanceState.STOPPING]
    assert await provider.force(10.0) == []
    assert len(await provider.list()) == (1 if world.outlives else 0)


async def test_drain_waits_until_all_have_ended(world: World) -> None:
    provider = await world.open()
    for instance in await launch(provider, world.spec, 3, "a"):
        await world.until_up(instance.agent_id)
    assert await provider.drain(10.0) == []
    assert len(await provider.list()) == (3 if world.outlives else 0)


async def test_kill_ends_what_does_not_listen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.local.KILL_GRACE_S", 0.05)
    provider = await world.open(busy=True)
    (instance,) = await launch(provider, world.spec, 1, "a")
    await world.until_up(instance.agent_id)
    await provider.stop(instance.id, StopMode.KILL)
    await until_count(provider, 0)


async def test_an_end_is_heard_and_explained(world: World) -> None:
    provider = await world.open()
    (instance,) = await launch(provider, world.spec, 1, "a")
    await world.until_up(instance.agent_id)
    async with asyncio.timeout(10), aclosing(provider.changes()) as changes:
        await anext(changes)
        await world.end(instance.agent_id)
        while await provider.list():
            await anext(changes)
    assert instance.id in await provider.explain(instance.id)


async def test_the_next_provider_finds_the_instances(world: World) -> None:
    first = await world.open()
    made = sorted(await launch(first, world.spec, 2, "a"), key=lambda instance: instance.id)
    for instance in made:
        await world.until_up(instance.agent_id)
    await first.close()
    with pytest.raises(ProviderUnavailable):
        await first.list()

    second = await world.open()
    found = sorted(await second.list(), key=lambda instance: instance.id)
    assert [(i.id, i.agent_id, i.launched_at, i.capacity) for i in found] == [
        (i.id, i.agent_id, i.launched_at, i.capacity) for i in made
    ]
    assert len(await launch(second, world.spec, 2, "a")) == 2
    assert len(await second.list()) == 2
    await world.end(found[0].agent_id)
    await until_count(second, 1)
    await second.stop(found[1].id, StopMode.DRAIN)
    await world.heed(found[1].agent_id)
    await until_count(second, 0)


async def test_instances_of_other_queues_are_not_seen(world: World) -> None:
    mine, other = await world.open(), await world.open("other")
    (theirs,) = await launch(other, world.spec.model_copy(update={"queue_name": "other"}), 1, "a")
    assert await mine.list() == []
    (ours,) = await launch(mine, world.spec, 1, "a")
    assert ours.agent_id != theirs.agent_id
    await mine.stop(theirs.id, StopMode.KILL)
    assert len(await other.list()) == 1


async def test_a_change_of_the_spec_is_for_later_launches(world: World) -> None:
    provider = await world.open()
    (instance,) = await launch(provider, world.spec, 1, "a")
    await provider.capacity(world.changed_spec)
    assert (await provider.list())[0].capacity == instance.capacity
