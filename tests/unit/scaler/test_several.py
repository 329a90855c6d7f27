"""Several whole scalers for one queue, on the fake broker and cloud in virtual time, with faults by seeds.

Invariants: never more instances than the queue's maximum; nothing that holds a job is ended; every job is done; in the
end no instance is left, and no intent is open.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path

import pytest

from launch.core.capacity import Amount
from launch.errors import LaunchError
from launch.ports import Delivery
from launch.presence import AgentPresence, AgentState
from launch.queue import QueueSpec
from scaler import main
from scaler.core.instance import Instance, StopMode
from scaler.ports import Provider
from scaler.settings import ScalerSettings
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.provider import FakeCloud
from tests.unit.agent.worlds import simulated

MAXIMUM = 4
CAPACITY = Amount(cpu_milli=2000, memory_bytes=2**32, slots=2)
SPEC = QueueSpec(queue_name="q", max_instances=MAXIMUM, idle_timeout=5)
SETTINGS = ScalerSettings(backoff_first_s=1.0, backoff_max_s=10.0, boot_deadline_s=30.0, lost_deadline_s=60.0)


class Agent:
    """An agent on an instance: boots, works, drains when asked, and is no more once its instance has ended."""

    def __init__(self, instance: Instance, server: FakeServer, dice: random.Random) -> None:
        self.held: list[Delivery] = []
        self.instance = instance
        self._broker = server.connect(instance.agent_id)
        self._dice = dice
        self._draining = asyncio.Event()
        self._idle_since: datetime | None = None
        self._started_at: datetime | None = None
        self.task = asyncio.create_task(self._live(), name=instance.agent_id)

    async def _live(self) -> None:
        await asyncio.sleep(self._dice.uniform(1, 6))
        if self._dice.random() < 0.1:
            return  # It never comes up.
        self._started_at = self._broker._server.clock.now()
        heeding = asyncio.create_task(self._heed(), name=f"{self.instance.agent_id} heeds")
        try:
            while True:
                if not self._draining.is_set() and not self.held:
                    async with aclosing(self._broker.work.consumers("q", None)) as consumers:
                        for consumer in await anext(consumers):
                            self.held += await self._broker.work.pull_now("q", consumer, 2 - len(self.held))
                await self._tell()
                lasts_s = self._dice.uniform(0.5, 8) if self.held else 0.5
                await asyncio.sleep(lasts_s)
                for delivery in self.held:
                    await self._broker.work.ack(delivery.reply)
                self.held = []
        finally:
            heeding.cancel()

    async def _heed(self) -> None:
        async with aclosing(self._broker.agents.drain_asked(self.instance.agent_id)) as asked:
            async for request in asked:
                if request is not None:
                    self._draining.set()
                    await self._tell()

    async def _tell(self) -> None:
        now = self._broker._server.clock.now()
        self._idle_since = None if self.held else self._idle_since or now
        state = AgentState.READY
        if self._draining.is_set():
            state = AgentState.DRAINING if self.held else AgentState.DRAINED
        presence = AgentPresence(
            agent_id=self.instance.agent_id, queue="q", state=state, capacity=CAPACITY,
            free=CAPACITY - Amount(cpu_milli=1000 * len(self.held), slots=len(self.held)),
            holds=tuple(str(delivery.message.job) for delivery in self.held), version="0", host="h",
            started_at=self._started_at or now, idle_since=self._idle_since,
        )  # fmt: skip
        await self._broker.agents.put(presence, ttl_s=30)


class World:
    """One seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a seed gives the same run
        self.server = FakeServer(ack_wait_s=30.0, latency_s=0.002)
        self.cloud = FakeCloud(self.server.clock, CAPACITY)
        self.cloud.on_launch = self._launched
        self.cloud.on_stop = self._stopped
        self.client = self.server.connect("client")
        self.agents: dict[str, Agent] = {}
        self.killed_busy: list[str] = []
        self.scalers: list[tuple[FakeBroker, asyncio.Task[None]]] = []
        self.faulty = True
        self.deaths: set[asyncio.Task[None]] = set()
        self._folder = folder

    def _launched(self, instance: Instance) -> None:
        self.agents[instance.agent_id] = Agent(instance, self.server, self.dice)
        if self.faulty and self.dice.random() < 0.2:
            # Whoever has just launched dies before it can say so.
            self.deaths.add(asyncio.create_task(self.replace_all(), name="death"))

    def _stopped(self, instance: Instance, mode: StopMode) -> None:
        agent = self.agents.pop(instance.agent_id)
        if agent.held:
            self.killed_busy.append(f"{mode} {instance.agent_id}")
        agent.task.cancel()

    def start(self) -> None:
        """One more scaler."""
        broker = self.server.connect("scaler")

        async def open_provider(spec: QueueSpec) -> Provider:
            return self.cloud.open(spec.queue_name)

        running = main.run(
            broker, queues=["q"], data_dir=self._folder, server_url="nats://unused", clock=self.server.clock,
            stop=asyncio.Event(), drain_timeout_s=5.0, settings=SETTINGS, open_provider=open_provider,
        )  # fmt: skip
        self.scalers.append((broker, asyncio.create_task(running, name="scaler")))

    async def kill(self, number: int) -> None:
        broker, task = self.scalers.pop(number)
        broker.disconnect()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def replace_all(self) -> None:
        """Every scaler dies, and others start."""
        for _ in range(len(self.scalers)):
            await self.kill(0)
            self.start()

    async def fault(self) -> None:
        dice, cloud = self.dice, self.cloud
        broker = dice.choice(self.scalers)[0]
        match dice.randrange(11):
            case 0:
                broker.disconnect()
            case 1 | 2:
                for other, _ in self.scalers:
                    other.reconnect()
            case 3:
                broker.lose_replies(dice.randrange(1, 4))
            case 4:
                await self.kill(dice.randrange(len(self.scalers)))
                self.start()
            case 5:
                cloud.lost_replies = dice.randrange(3)
            case 6:
                cloud.hidden_for = dice.randrange(6)
            case 7:
                cloud.launch_limit = dice.choice([None, 0, 1])
            case 8:
                cloud.launch_refusal = dice.choice([None, None, "not allowed"])
            case 9:
                cloud.failure = dice.choice([None, None, "no answer"])
            case _:
                await self.submit(dice.randrange(1, 6))

    def mend(self) -> None:
        """No more faults."""
        cloud, self.faulty = self.cloud, False
        cloud.failure = cloud.launch_refusal = cloud.launch_limit = None
        cloud.lost_replies = cloud.hidden_for = 0
        for broker, _ in self.scalers:
            broker.reconnect()

    async def submit(self, count: int) -> None:
        for _ in range(count):
            await self.client.jobs.publish("q", "train", json.dumps({"image": "x", "resources": {"cpu": 1}}).encode())

    async def until_quiet(self) -> None:
        """Every job done, every instance gone, no intent open."""
        async with asyncio.timeout(1200):
            while await self.is_busy():  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(5)

    async def is_busy(self) -> bool:
        depth = await self.client.jobs.depth("q")
        return bool(depth.messages or self.cloud.instances) or await self.open_intents()

    async def open_intents(self) -> bool:
        found = await self.client.documents.get("state.q")
        return found is not None and b'"intents"' in found.value


@pytest.mark.parametrize("seed", range(25))
@simulated
async def test_whatever_happens(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)
    await world.client.queues.apply(SPEC)
    for _ in range(2):
        world.start()
    world.cloud.hidden_for = 4
    await world.submit(8)
    for _ in range(60):
        await asyncio.sleep(world.dice.uniform(0.1, 4))
        await world.fault()
        for _, task in world.scalers:
            assert not task.done(), task.exception()
    world.mend()
    await asyncio.gather(*world.deaths)
    with suppress(TimeoutError):
        await world.until_quiet()
    while world.scalers:
        await world.kill(0)
    for agent in world.agents.values():
        agent.task.cancel()
    assert world.cloud.most <= MAXIMUM
    assert world.killed_busy == []
    assert world.cloud.instances == {}
    assert (await world.client.jobs.depth("q")).messages == 0
    assert not await world.open_intents()
    with suppress(LaunchError):
        await world.client.close()
