"""From events and reads to a snapshot, on the fake broker and the fake provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from launch.core.capacity import Amount
from launch.job import Resources
from launch.ports import Message
from launch.presence import AgentPresence
from launch.queue import JobDefaults, QueueSpec
from launch.subjects import JobId
from scaler.core.intent import QueueState
from scaler.core.snapshot import History, Pending, Snapshot, Unknown
from scaler.observe import Observer
from scaler.presences import Agents
from scaler.settings import ScalerSettings
from scaler.state import Change
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.clock import ManualClock
from tests.fakes.provider import FakeCloud
from tests.unit.scaler.worlds import CAPACITY

SPEC = QueueSpec(queue_name="q", max_instances=2)


class Scene:
    """A queue, its mirror of agents, an observer, and a list of who was woken."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.server = FakeServer(clock=self.clock)
        self.broker: FakeBroker = self.server.connect("scaler")
        self.other: FakeBroker = self.server.connect("agents")
        self.cloud = FakeCloud(self.clock, CAPACITY)
        self.agents = Agents(self.broker, self.clock)
        self.woken: list[str | None] = []
        self.agents.listen(self._heard)
        self.state = QueueState()
        self.observer = Observer(
            self.broker, self.cloud.open("q"), self.agents, self.clock, ScalerSettings(), SPEC,
            state=lambda: self.state, expected=lambda _: [], learn=self._learn,
        )  # fmt: skip
        self._something = asyncio.Event()

    async def _learn(self, lessons: Sequence[Change]) -> None:
        for lesson in lessons:
            self.state = lesson(self.state)

    def _heard(self, queue: str | None) -> None:
        self.woken.append(queue)
        self._something.set()

    async def heard(self) -> None:
        """Wait for a wake that comes after this call."""
        self._something.clear()
        async with asyncio.timeout(5):
            await self._something.wait()

    async def put(self, agent_id: str, *holds: str, queue: str = "q") -> None:
        now = self.clock.now()
        presence = AgentPresence(
            agent_id=agent_id, queue=queue, capacity=CAPACITY, free=CAPACITY - Amount(slots=len(holds)), holds=holds,
            version="0", host="h", started_at=now, idle_since=None if holds else now, at=datetime.now(UTC),
        )  # fmt: skip
        await self.other.agents.put(presence, ttl_s=3600)

    async def submit(self, count: int = 1, body: object = None) -> None:
        for _ in range(count):
            await self.other.jobs.publish("q", "train", json.dumps(body or {"image": "x"}).encode())

    async def look(self, spec: QueueSpec = SPEC) -> Snapshot:
        return await self.observer.look(spec)

    async def pending(self, spec: QueueSpec = SPEC) -> list[str]:
        found = (await self.look(spec)).pending
        assert isinstance(found, Pending)
        return sorted((job_id for group in found.groups for job_id in group.ids), key=lambda one: int(one[2:]))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    await made.other.queues.apply(SPEC)
    following = asyncio.create_task(made.agents.follow())
    async with asyncio.timeout(5):
        await made.agents.ready.wait()
    yield made
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


async def test_nothing_is_known_before_the_agents_are() -> None:
    made = Scene()
    await made.other.queues.apply(SPEC)
    found = await made.look()
    assert found.workers == found.pending == Unknown("the agents' presence is not known yet")


async def test_pending_is_what_lies_there_and_nobody_holds(scene: Scene) -> None:
    await scene.submit(3)
    await scene.put("a", "q/2")
    await scene.heard()
    assert await scene.pending() == ["q/1", "q/3"]


async def test_a_job_asks_for_what_it_says_or_what_the_queue_says(scene: Scene) -> None:
    await scene.submit(1, {"image": "x", "resources": {"cpu": 2}})
    await scene.submit(1)
    await scene.submit(1, {"image": "x", "unknown": 1})
    spec = SPEC.model_copy(update={"defaults": JobDefaults(resources=Resources(cpu=0.5, memory=1024))})
    found = (await scene.look(spec)).pending
    assert isinstance(found, Pending)
    assert [group.amount for group in found.groups] == [
        Amount(cpu_milli=2000, memory_bytes=1024, slots=1),
        Amount(cpu_milli=500, memory_bytes=1024, slots=1),
        Amount(slots=1),
    ]
    again = (await scene.look()).pending
    assert isinstance(again, Pending)
    assert [(group.amount, group.count) for group in again.groups] == [
        (Amount(cpu_milli=2000, slots=1), 1),
        (Amount(slots=1), 2),
    ]


async def test_reading_is_bounded_by_what_the_workers_could_hold(scene: Scene) -> None:
    await scene.submit(100)
    found = (await scene.look()).pending
    assert isinstance(found, Pending)
    assert (found.count, found.beyond) == (100, 68)


async def test_misfits_at_the_head_do_not_hide_what_is_behind(scene: Scene) -> None:
    await scene.submit(60, {"image": "x", "resources": {"gpu": 1}})
    await scene.submit(8)
    assert (await scene.pending())[-1] == "q/68"


async def test_a_look_reads_only_what_is_new(scene: Scene) -> None:
    await scene.submit(5)
    assert len(await scene.pending()) == 5
    asked: list[int] = []
    peek = scene.broker.jobs.peek

    async def counted(queue: str, limit: int, *, after_seq: int = 0) -> list[Message]:
        asked.append(after_seq)
        return await peek(queue, limit, after_seq=after_seq)

    scene.broker.jobs.peek = counted  # type: ignore[method-assign]
    await scene.pending()
    assert asked == []
    await scene.submit(2)
    assert len(await scene.pending()) == 7
    assert asked == [5]


@pytest.mark.parametrize("behind", [0, 200])
async def test_what_has_gone_unseen_is_found_by_the_count(scene: Scene, behind: int) -> None:
    """At the head, in the middle and behind what is read; nobody was ever seen to hold it."""
    await scene.submit(20 + behind)
    count = (await scene.look()).pending
    assert isinstance(count, Pending)
    assert count.count == 20 + behind
    for seqs in ([1, 2], [7, 9], [20 + behind], [150] if behind else [12]):
        for seq in seqs:
            await scene.other.jobs.discard(JobId("q", seq))
        found = (await scene.look()).pending
        assert isinstance(found, Pending)
        assert found.count == (await scene.other.jobs.depth("q")).messages
    assert {"q/1", "q/2", "q/7", "q/9"}.isdisjoint(await scene.pending())


async def test_a_queue_that_was_made_anew_is_read_anew(scene: Scene) -> None:
    await scene.submit(3)
    assert len(await scene.pending()) == 3
    await scene.other.queues.delete("q")
    await scene.other.queues.apply(SPEC)
    await scene.submit(1)
    assert len(await scene.pending()) == 1


async def test_a_paused_queue_says_so(scene: Scene) -> None:
    await scene.submit()
    await scene.other.queues.set_paused("q", True)
    found = (await scene.look()).pending
    assert isinstance(found, Pending)
    assert found.paused


async def test_a_renewal_wakes_nobody_and_a_change_wakes_its_queue(scene: Scene) -> None:
    await scene.put("a")
    await scene.heard()
    await scene.put("a")
    await scene.put("b", queue="elsewhere")
    await scene.heard()
    assert scene.woken == [None, "q", "elsewhere"]


async def test_what_a_vanished_agent_held_is_in_its_hands_for_a_while(scene: Scene) -> None:
    """Nobody can be handed its jobs before their ack wait is over."""
    await scene.submit(2)
    await scene.put("a", "q/1")
    await scene.heard()
    scene.clock.advance(100)
    await scene.other.agents.remove("a")
    await scene.heard()
    assert await scene.pending() == ["q/2"]
    assert (await scene.look()).workers == ()
    scene.clock.advance(30)
    assert await scene.pending() == ["q/1", "q/2"]


async def test_while_the_connection_is_broken_nothing_is_known(scene: Scene) -> None:
    scene.broker.disconnect()
    found = await scene.look()
    assert found.workers == found.pending == Unknown("there is no connection to NATS")


async def test_agents_that_are_gone_after_a_break_are_expected_back(scene: Scene) -> None:
    (instance,) = scene.cloud.launch("q", 1, "t")
    await scene.put(instance.agent_id)
    await scene.heard()
    await scene.look()
    scene.clock.advance(100)
    scene.broker.disconnect()
    await scene.other.agents.remove(instance.agent_id)
    scene.broker.reconnect()
    await scene.heard()

    async def worker() -> tuple[bool, bool]:
        workers = (await scene.look()).workers
        assert not isinstance(workers, Unknown)
        return workers[0].presence is not None, workers[0].stale

    assert await worker() == (True, True)
    scene.clock.advance(30)
    assert await worker() == (False, False)


async def test_an_agent_that_is_gone_without_a_break_is_gone(scene: Scene) -> None:
    (instance,) = scene.cloud.launch("q", 1, "t")
    await scene.put(instance.agent_id)
    await scene.heard()
    await scene.look()
    scene.clock.advance(100)
    await scene.other.agents.remove(instance.agent_id)
    await scene.heard()
    workers = (await scene.look()).workers
    assert not isinstance(workers, Unknown)
    assert workers[0].presence is None
    assert workers[0].history is History.REGISTERED
    await scene.look()
    assert scene.cloud.left == [instance.id]  # Told once: its machine may be about to end.


async def test_an_agent_that_came_back_after_a_break_and_left_later_is_gone(scene: Scene) -> None:
    (instance,) = scene.cloud.launch("q", 1, "t")
    await scene.put(instance.agent_id)
    await scene.heard()
    scene.clock.advance(100)
    scene.broker.disconnect()
    scene.broker.reconnect()
    scene.clock.advance(100)
    await scene.other.agents.remove(instance.agent_id)
    await scene.heard()
    workers = (await scene.look()).workers
    assert not isinstance(workers, Unknown)
    assert (workers[0].presence, workers[0].stale) == (None, False)


async def test_a_watch_that_begins_anew_forgets_who_left_meanwhile(scene: Scene) -> None:
    await scene.put("a")
    await scene.heard()
    second = Agents(scene.broker, scene.clock)
    second._present["ghost"] = (await scene.other.agents.list())[0].model_copy(update={"agent_id": "ghost"})
    following = asyncio.create_task(second.follow())
    async with asyncio.timeout(5):
        await second.ready.wait()
    view = second.view("q")
    assert not isinstance(view, Unknown)
    assert list(view.presences.present) == ["a"]
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
    assert second.view("q") == Unknown("the agents' presence is not known yet")


async def test_a_provider_that_does_not_answer_is_unknown(scene: Scene) -> None:
    scene.cloud.failure = "throttled"
    found = await scene.look()
    assert found.capacity == found.workers == Unknown("the provider can't tell: throttled")


async def test_an_instance_that_ended_unregistered_is_a_failed_launch(scene: Scene) -> None:
    (instance,) = scene.cloud.launch("q", 1, "t")
    await scene.look()
    scene.cloud.end(instance.id, "exited with code 1")
    found = await scene.look()
    assert found.boots.failures == 1
    assert found.boots.why == "i-0001 exited with code 1"
