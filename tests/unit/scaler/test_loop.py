"""The last look before an instance is stopped, and what is kept of decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest

from launch.core.states import Event, Reason, State
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.unclaimed import unclaimed_record
from scaler.core.instance import Instance, InstanceState
from scaler.core.plan import Stop
from scaler.loop import QueueLoop
from scaler.observe import Agents, Observer
from scaler.settings import ScalerSettings
from tests.fakes.broker import FakeServer
from tests.fakes.clock import ManualClock
from tests.fakes.provider import FakeCloud
from tests.unit.scaler.worlds import CAPACITY

SPEC = QueueSpec(queue_name="q", max_instances=2, idle_timeout=60)


class Scene:
    """A loop that is turned by hand, with one instance whose agent has registered."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        server = FakeServer(clock=self.clock)
        self.broker = server.connect("scaler")
        self.other = server.connect("agents")
        self.cloud = FakeCloud(self.clock, CAPACITY)
        self.agents = Agents(self.broker, self.clock)
        self.told: list[str] = []
        provider, settings = self.cloud.open("q"), ScalerSettings(decisions_kept=3)
        observer = Observer(self.broker, provider, self.agents, self.clock, settings)
        self.loop = QueueLoop(
            SPEC, self.broker, provider, observer, self.clock, settings, wake=asyncio.Event(), tell=self.told.append
        )  # fmt: skip
        self.instance: Instance | None = None

    async def register(self, *holds: str) -> None:
        assert self.instance is not None
        now = self.clock.now()
        self.presence = AgentPresence(
            agent_id=self.instance.agent_id, queue="q", capacity=CAPACITY, free=CAPACITY, holds=holds, version="0",
            host="h", started_at=self.instance.launched_at, idle_since=None if holds else now,
        )  # fmt: skip
        heard = asyncio.Event()
        self.agents.listen(lambda _: heard.set())
        await self.other.agents.put(self.presence, ttl_s=3600)
        async with asyncio.timeout(5):
            await heard.wait()

    @property
    def states(self) -> list[InstanceState]:
        return [instance.state for instance in self.cloud.of("q")]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    await made.other.queues.apply(SPEC)
    following = asyncio.create_task(made.agents.follow())
    async with asyncio.timeout(5):
        await made.agents.ready.wait()
    (made.instance,) = made.cloud.launch("q", 1, "t")
    await made.register()
    yield made
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


async def test_an_idle_instance_is_stopped_at_its_time(scene: Scene) -> None:
    assert await scene.loop.turn() == scene.clock.now() + timedelta(seconds=60)
    scene.clock.advance(60)
    await scene.loop.turn()
    assert scene.states == []


async def test_an_agent_that_took_a_job_meanwhile_is_not_stopped(scene: Scene) -> None:
    """The mirror has not heard of it yet: its connection is not read between the plan and the last look."""
    scene.clock.advance(60)
    holding = scene.presence.model_copy(update={"holds": ("q/1",)})
    look = scene.broker.agents.get

    async def late(agent_id: str) -> AgentPresence | None:
        await scene.other.agents.put(holding, ttl_s=3600)
        return await look(agent_id)

    scene.broker.agents.get = late  # type: ignore[method-assign]
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]
    assert isinstance(scene.loop.decisions[-1].plan.actions[0], Stop)


async def test_an_agent_that_is_not_there_for_the_last_look_is_not_stopped(scene: Scene) -> None:
    scene.clock.advance(60)

    async def gone(agent_id: str) -> AgentPresence | None:
        return None

    scene.broker.agents.get = gone  # type: ignore[method-assign]
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]


async def test_without_an_answer_to_the_last_look_nothing_is_stopped(scene: Scene) -> None:
    scene.clock.advance(60)
    look = scene.broker.agents.get

    async def unanswered(agent_id: str) -> AgentPresence | None:
        scene.broker.disconnect()
        return await look(agent_id)

    scene.broker.agents.get = unanswered  # type: ignore[method-assign]
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]
    assert "its agent can't be looked at" in scene.told[-1]


async def test_decisions_are_kept_up_to_a_bound_and_told_once(scene: Scene) -> None:
    await scene.loop.turn()
    for number in range(5):
        scene.cloud.failure = f"failure {number}"
        await scene.loop.turn()
        await scene.loop.turn()
    assert len(scene.loop.decisions) == 3
    assert [decision.plan.reasons[0] for decision in scene.loop.decisions] == [
        f"holding: the provider can't tell: failure {number}" for number in (2, 3, 4)
    ]
    assert len([line for line in scene.told if "failure 3" in line]) == 1


async def test_a_launch_that_fails_is_not_tried_again_at_once(scene: Scene) -> None:
    scene.cloud.launch_failure = "no room in this zone"
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2})
    retry_at = await scene.loop.turn()
    assert retry_at is None
    assert await scene.loop.turn() == scene.clock.now() + timedelta(seconds=5)
    assert scene.told[-1].startswith("once in a row an instance never registered (no room in this zone)")
    assert len([line for line in scene.told if line.startswith("could not launch")]) == 1
    scene.clock.advance(5)
    scene.cloud.launch_failure = None
    await scene.loop.turn()
    assert len(scene.cloud.instances) == 2


async def test_a_reason_that_stays_is_told_once(scene: Scene) -> None:
    await scene.other.jobs.publish("q", "train", b'{"image": "x", "resources": {"gpu": 1}}')
    await scene.loop.turn()
    await scene.other.jobs.publish("q", "train", b'{"image": "x", "resources": {"gpu": 2}}')
    await scene.loop.turn()
    assert [line.partition(" ")[0] for line in scene.told] == ["agent-i-0001", "q/1", "q/2"]


async def test_an_instance_that_never_registers_is_killed_and_told(scene: Scene) -> None:
    assert scene.instance is not None
    await scene.loop.turn()
    (silent,) = scene.cloud.launch("q", 1, "u")
    scene.cloud.busy.add(silent.agent_id)
    await scene.loop.turn()
    scene.clock.advance(61)
    await scene.register("q/9")
    await scene.loop.turn()
    assert [instance.id for instance in scene.cloud.of("q")] == [scene.instance.id]
    assert "its agent did not register within 1m00s" in scene.told[-1]


async def test_a_job_that_could_never_run_is_ended_with_the_numbers(scene: Scene) -> None:
    published = await scene.other.jobs.publish("q", "train", b'{"image": "x", "resources": {"cpu": 64}}')
    await scene.loop.turn()
    found = await scene.other.records.get(published.job)
    assert found is not None
    assert (found.value.state, found.value.reason) == (State.FAILED, Reason.UNSCHEDULABLE)
    assert found.value.message is not None
    assert "cpu 64 of 4" in found.value.message
    assert await scene.other.jobs.get(published.job) is None


async def test_a_job_that_somebody_has_claimed_meanwhile_is_left_alone(scene: Scene) -> None:
    published = await scene.other.jobs.publish("q", "train", b'{"image": "x", "resources": {"cpu": 64}}')
    message = await scene.other.jobs.get(published.job)
    assert message is not None
    claimed = unclaimed_record(message).moved(Event.CLAIM, scene.clock.now(), agent="large", attempt=1)
    await scene.other.records.create(claimed)
    await scene.loop.turn()
    found = await scene.other.records.get(published.job)
    assert found is not None
    assert found.value == claimed
    assert await scene.other.jobs.get(published.job) is not None
