"""The scaler on a broker, from nothing to what the work needs and back: on the fake and on the real nats-server.

The instances are those of a fake provider; their agents are coroutines that register, take jobs and let go of them on
command, over connections of their own. How local processes are started and found again is tested beside the provider.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

import launch.adapters.nats
from launch.adapters.clock import SystemClock
from launch.core.capacity import Amount
from launch.ports import Broker, Delivery
from launch.presence import AgentPresence, AgentState
from launch.queue import QueueSpec
from scaler import main
from scaler.core.instance import Instance, StopMode
from scaler.dryrun import dry_run
from scaler.ports import Provider, ProviderUnsuitable
from scaler.settings import ScalerSettings
from tests.fakes.broker import FakeServer
from tests.fakes.provider import FakeCloud

CAPACITY = Amount(cpu_milli=2000, memory_bytes=4 * 1024**3, slots=2)
SETTINGS = ScalerSettings(settle_s=0.01, resync_s=600, backoff_first_s=0.2, boot_deadline_s=30)
LIMIT_S = 20

Connect = Callable[[], Awaitable[Broker]]


class Told:
    """The lines that the scaler says, for people."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def until(self, text: str, count: int = 1) -> None:
        """Wait until so many lines contain this."""
        async with asyncio.timeout(LIMIT_S):
            while sum(text in line for line in self.lines) < count:
                self._changed.clear()
                await self._changed.wait()


class Fleet:
    """The agents of a fake cloud's instances."""

    def __init__(self, queue: str, broker: Broker, cloud: FakeCloud, tasks: asyncio.TaskGroup) -> None:
        self.held: dict[str, list[Delivery]] = {}
        self._draining: set[str] = set()
        self._heeding: dict[str, asyncio.Task[None]] = {}
        self.registers = True
        self._boots: list[asyncio.Task[None]] = []
        self._queue = queue
        self._broker = broker
        self._tasks = tasks
        cloud.on_launch = self._launched
        cloud.on_stop = self._stopped
        self._cloud = cloud

    def _launched(self, instance: Instance) -> None:
        if self.registers:
            self._boots.append(self._tasks.create_task(self._boot(instance.agent_id)))

    def _stopped(self, instance: Instance, mode: StopMode) -> None:  # noqa: ARG002 - the hook's signature
        assert not self.held.get(instance.agent_id), "a holder was stopped"
        self.held.pop(instance.agent_id, None)
        self._tasks.create_task(self._leave(instance.agent_id))

    async def _leave(self, agent_id: str) -> None:
        heeding = self._heeding.pop(agent_id, None)
        if heeding is not None:
            heeding.cancel()
        await self._broker.agents.remove(agent_id)

    async def _heed_drains(self, agent_id: str) -> None:
        async with aclosing(self._broker.agents.drain_asked(agent_id)) as asked:
            async for request in asked:
                if request is not None:
                    self._draining.add(agent_id)
                    await self._register(agent_id)

    def close(self) -> None:
        """No agent listens any more."""
        for heeding in self._heeding.values():
            heeding.cancel()

    async def _boot(self, agent_id: str) -> None:
        self.held[agent_id] = []
        self._heeding[agent_id] = self._tasks.create_task(self._heed_drains(agent_id))
        await self._register(agent_id)
        async for consumers in self._broker.work.consumers(self._queue, None):
            for consumer in consumers:
                self.held[agent_id] += await self._broker.work.pull_now(self._queue, consumer, 2)
            break
        if self.held[agent_id]:
            self._cloud.busy.add(agent_id)
        await self._register(agent_id)

    async def finish_all(self) -> None:
        """Every agent ends what it holds, once it has taken it."""
        await asyncio.gather(*self._boots)
        for agent_id in list(self.held):
            for delivery in self.held[agent_id]:
                await self._broker.work.ack(delivery.reply)
            self.held[agent_id] = []
            self._cloud.busy.discard(agent_id)
            await self._register(agent_id)

    async def _register(self, agent_id: str) -> None:
        held, now = self.held.get(agent_id), SystemClock().now()
        if held is None:
            return  # It has ended meanwhile.
        state = AgentState.READY
        if agent_id in self._draining:
            state = AgentState.DRAINING if held else AgentState.DRAINED
        presence = AgentPresence(
            agent_id=agent_id,
            queue=self._queue,
            state=state,
            capacity=CAPACITY,
            free=CAPACITY - Amount(cpu_milli=1000 * len(held), slots=len(held)),
            holds=tuple(str(delivery.message.job) for delivery in held),
            version="0",
            host="h",
            started_at=now,
            idle_since=None if held else now,
        )
        await self._broker.agents.put(presence, ttl_s=60)


class Scaling:
    """A running scaler and what surrounds it."""

    def __init__(self, broker: Broker, connect: Connect, queue: str, data_dir: Path, tasks: asyncio.TaskGroup) -> None:
        self.broker = broker
        self.queue = queue
        self.told = Told()
        self.stop = asyncio.Event()
        self.opened: list[str] = []
        self.cloud = FakeCloud(SystemClock(), CAPACITY)
        self.fleet = Fleet(queue, broker, self.cloud, tasks)
        self._running: list[asyncio.Task[None]] = []
        self._connect = connect
        self._data_dir = data_dir
        self._tasks = tasks

    async def apply(self, **changes: object) -> None:
        spec = {"queue_name": self.queue, "max_instances": 5, "idle_timeout": 0.2, **changes}
        await self.broker.queues.apply(QueueSpec.model_validate(spec))

    async def submit(self, count: int) -> None:
        body = json.dumps({"image": "x", "resources": {"cpu": 1}}).encode()
        for _ in range(count):
            await self.broker.jobs.publish(self.queue, "train", body)

    async def start(self, *, without: str = "") -> asyncio.Task[None]:
        async def open_provider(spec: QueueSpec) -> Provider:
            if spec.provider.type == without:
                raise ProviderUnsuitable(f"there is no {without} here")
            self.opened.append(spec.provider.type)
            return self.cloud.open(spec.queue_name)

        running = self._tasks.create_task(
            main.run(
                await self._connect(),
                queues=[self.queue],
                data_dir=self._data_dir,
                server_url="nats://unused",
                clock=SystemClock(),
                stop=self.stop,
                drain_timeout_s=5.0,
                on_event=self.told,
                settings=SETTINGS,
                open_provider=open_provider,
            ),
            name="scaler",
        )
        self._running.append(running)
        return running

    async def until_stopped(self) -> None:
        """Wait until every scaler has ended."""
        async with asyncio.timeout(LIMIT_S):
            if self._running:
                await asyncio.wait(self._running)


@pytest.fixture(params=["fake", pytest.param("nats", marks=pytest.mark.nats)])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Connections to one server."""
    server, made = FakeServer(), list[Broker]()
    url = request.getfixturevalue("nats_url") if request.param == "nats" else ""

    async def connect_one() -> Broker:
        made.append(await launch.adapters.nats.connect(url, name="test") if url else server.connect())
        return made[-1]

    yield connect_one
    for broker in made:
        await broker.close()


@pytest.fixture
async def scaling(connect: Connect, queue_name: str, tmp_path: Path) -> AsyncIterator[Scaling]:
    broker = await connect()
    async with asyncio.TaskGroup() as tasks:
        made = Scaling(broker, connect, queue_name, tmp_path, tasks)
        yield made
        await made.fleet.finish_all()
        made.stop.set()
        await made.until_stopped()
        made.fleet.close()
    if queue_name in [spec.queue_name for spec in await broker.queues.list()]:
        await broker.queues.delete(queue_name)


async def test_from_zero_to_what_the_work_needs_and_back(scaling: Scaling) -> None:
    await scaling.apply()
    await scaling.start()
    await scaling.submit(5)
    await scaling.told.until("is ready", 3)
    await scaling.fleet.finish_all()
    await scaling.told.until("has left", 3)
    assert scaling.cloud.instances == {}
    assert sum(scaling.cloud.launches) == 3
    assert any("idle for" in line for line in scaling.told.lines)
    assert all(line.startswith(f"{scaling.queue}: ") for line in scaling.told.lines)


async def test_the_maximum_holds_while_work_waits(scaling: Scaling) -> None:
    await scaling.apply(max_instances=2)
    await scaling.submit(50)
    await scaling.start()
    await scaling.told.until("is ready", 2)
    await scaling.told.until("waiting: max_instances is 2")
    assert len(scaling.cloud.instances) == 2


async def test_a_change_of_the_spec_takes_effect_at_once(scaling: Scaling) -> None:
    await scaling.apply()
    await scaling.start()
    await scaling.apply(min_instances=2)
    await scaling.told.until("is ready", 2)
    await scaling.apply(min_instances=0, max_instances=0)
    await scaling.told.until("has left", 2)


async def test_another_provider_takes_over_when_the_first_has_drained(scaling: Scaling) -> None:
    await scaling.apply(min_instances=1)
    await scaling.start()
    await scaling.told.until("is ready")
    await scaling.apply(min_instances=1, provider={"type": "static"})
    await scaling.told.until("has left")
    await scaling.submit(1)
    await scaling.told.until("no worker is present")
    await scaling.apply(min_instances=1)
    await scaling.told.until("is ready", 2)
    assert scaling.opened == ["local", "static", "local"]


async def test_a_queue_may_come_later_and_go_again(scaling: Scaling) -> None:
    await scaling.start()
    await scaling.told.until("there is no such queue yet")
    await scaling.apply(min_instances=1)
    await scaling.told.until("is ready")
    await scaling.broker.queues.delete(scaling.queue)
    await scaling.told.until("has left")
    assert scaling.cloud.instances == {}
    await scaling.apply(min_instances=1)
    await scaling.told.until("is ready", 2)


async def test_instances_that_end_at_once_make_it_back_off(scaling: Scaling) -> None:
    scaling.fleet.registers = False
    await scaling.apply()

    def crash(instance: Instance) -> None:
        asyncio.get_running_loop().call_soon(scaling.cloud.end, instance.id, "exited with code 2")

    scaling.cloud.on_launch = crash
    await scaling.submit(10)
    await scaling.start()
    await scaling.told.until("2 times in a row an instance never registered (i-")
    assert scaling.cloud.launches[:2] == [5, 1]
    assert any("exited with code 2" in line for line in scaling.told.lines)


async def test_a_provider_that_fails_is_tried_again(scaling: Scaling) -> None:
    scaling.cloud.failure = "no answer"
    await scaling.apply()
    await scaling.submit(1)
    await scaling.start()
    await scaling.told.until("holding: the provider can't tell: no answer")
    assert scaling.cloud.launches == []
    scaling.cloud.failure = None
    await scaling.submit(1)
    await scaling.told.until("is ready")


async def test_the_stop_drains_what_it_started(scaling: Scaling) -> None:
    await scaling.apply(min_instances=2)
    running = await scaling.start()
    await scaling.told.until("is ready", 2)
    scaling.stop.set()
    async with asyncio.timeout(LIMIT_S):
        await running
    assert scaling.cloud.instances == {}


async def test_a_queue_without_a_provider_is_told_and_the_scaler_goes_on(scaling: Scaling) -> None:
    await scaling.apply(provider={"type": "local"})
    await scaling.start(without="local")
    await scaling.told.until("not scaled: there is no local here")
    await scaling.apply(provider={"type": "static"})
    await scaling.submit(1)
    await scaling.told.until("1 job waiting: no worker is present")


async def test_of_two_scalers_one_acts_and_the_other_takes_over(scaling: Scaling) -> None:
    await scaling.apply(min_instances=2)
    first = await scaling.start()
    await scaling.told.until("is ready", 2)
    await scaling.start()
    await scaling.told.until("waiting to take over")
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    await scaling.apply(min_instances=3)
    await scaling.told.until("started", 2)
    assert sum(scaling.cloud.launches) == 3


async def test_a_look_without_acting_tells_the_plan_beside_the_one_that_acts(
    scaling: Scaling, connect: Connect
) -> None:
    await scaling.apply(min_instances=2, max_instances=2)
    broker = await connect()

    async def look(spec: QueueSpec) -> Provider:
        return scaling.cloud.open(spec.queue_name)

    async def told() -> list[str]:
        return await dry_run(broker, queues=[scaling.queue], clock=SystemClock(), open_provider=look)

    assert f"{scaling.queue}: would launch 2" in " | ".join(await told())
    assert scaling.cloud.launches == []
    assert await broker.leases.holder(f"scaler.{scaling.queue}") is None
    assert await broker.documents.get(f"state.{scaling.queue}") is None
    await scaling.start()
    await scaling.told.until("is ready", 2)
    assert await told() == [f"{scaling.queue}: would do nothing"]
