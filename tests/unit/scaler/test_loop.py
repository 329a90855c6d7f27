"""The last look before an instance is stopped, and what is kept of decisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest

from launch.core.states import Event, Reason, State
from launch.presence import AgentPresence, AgentState
from launch.queue import QueueSpec
from launch.unclaimed import unclaimed_record
from scaler.core.instance import Instance, InstanceState
from scaler.core.plan import Stop
from scaler.loop import QueueLoop
from scaler.ports import Proposal
from scaler.presences import Agents
from scaler.settings import ScalerSettings
from scaler.state import StateStore
from tests.fakes.broker import FakeServer
from tests.fakes.clock import ManualClock
from tests.fakes.provider import FakeCloud
from tests.unit.scaler.launching import made_loop
from tests.unit.scaler.worlds import CAPACITY

SPEC = QueueSpec(queue_name="q", max_instances=2, idle_timeout=60)
SETTINGS = ScalerSettings(decisions_kept=3)


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
        self.asked: list[str] = []
        """Agents that were asked to drain."""
        ask = self.broker.agents.ask_to_drain

        async def asked(agent_id: str) -> None:
            self.asked.append(agent_id)
            await ask(agent_id)

        self.broker.agents.ask_to_drain = asked  # type: ignore[method-assign]
        self.leads = True
        self.wake = asyncio.Event()
        self.loop = self.open()
        self.instance: Instance | None = None

    def open(self) -> QueueLoop:
        """A loop over a provider of its own, as a scaler has that starts or takes over."""
        self.store = StateStore(self.broker.documents, "q", "me")
        self.provider = self.cloud.open("q")
        return made_loop(
            self.broker, self.provider, self.agents, self.store, self.clock, SETTINGS, SPEC,
            tell=self.told.append, wake=self.wake, may_act=lambda: self.leads,
        )  # fmt: skip

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

    async def say(self, state: AgentState, *holds: str) -> None:
        """The agent tells of another state."""
        heard = asyncio.Event()
        self.agents.listen(lambda _: heard.set())
        changed = {"state": state, "holds": holds, "idle_since": None if holds else self.clock.now()}
        self.presence = self.presence.model_copy(update=changed)
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
    await made.store.claim()
    (made.instance,) = made.cloud.launch("q", 1, "t")
    await made.register()
    yield made
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


async def test_an_idle_instance_is_ended_once_its_agent_says_that_it_is_drained(scene: Scene) -> None:
    assert await scene.loop.turn() == scene.clock.now() + timedelta(seconds=60)
    scene.clock.advance(60)
    await scene.loop.turn()
    assert scene.asked == ["agent-i-0001"]
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]
    await scene.say(AgentState.DRAINING, "q/7")
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]
    await scene.say(AgentState.DRAINED)
    await scene.loop.turn()
    assert scene.states == []
    assert scene.asked == ["agent-i-0001"]


async def test_a_drain_that_was_not_heard_is_asked_for_again(scene: Scene) -> None:
    scene.clock.advance(60)
    await scene.loop.turn()
    scene.clock.advance(29)
    await scene.loop.turn()
    assert len(scene.asked) == 1
    scene.clock.advance(2)
    await scene.loop.turn()
    assert len(scene.asked) == 2
    assert scene.states == [InstanceState.STARTING]


async def test_a_drained_agent_that_has_come_back_is_not_ended(scene: Scene) -> None:
    """The mirror has not heard of it yet."""
    await scene.say(AgentState.DRAINED)
    look = scene.broker.agents.get

    async def late(agent_id: str) -> AgentPresence | None:
        await scene.other.agents.put(scene.presence.model_copy(update={"state": AgentState.READY}), ttl_s=3600)
        return await look(agent_id)

    scene.broker.agents.get = late  # type: ignore[method-assign]
    await scene.loop.turn()
    assert isinstance(scene.loop.decisions[-1].plan.actions[0], Stop)
    assert scene.states == [InstanceState.STARTING]


async def test_who_does_not_lead_any_more_does_nothing(scene: Scene) -> None:
    await scene.say(AgentState.DRAINED)
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2})
    scene.leads = False
    await scene.loop.turn()
    assert scene.states == [InstanceState.STARTING]
    assert scene.cloud.launches == [1]


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
    assert scene.asked == []
    assert isinstance(scene.loop.decisions[-1].plan.actions[0], Stop)


async def test_an_agent_that_is_not_there_for_the_last_look_is_not_stopped(scene: Scene) -> None:
    scene.clock.advance(60)

    async def gone(agent_id: str) -> AgentPresence | None:
        return None

    scene.broker.agents.get = gone  # type: ignore[method-assign]
    await scene.loop.turn()
    assert scene.asked == []
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


async def test_a_launch_without_an_answer_is_repeated_later_and_counts_until_then(scene: Scene) -> None:
    scene.cloud.launch_failure = "no answer"
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2})
    retry_at = scene.clock.now() + timedelta(seconds=5)
    assert await scene.loop.turn() == retry_at
    (intent,) = scene.store.state.intents
    assert await scene.loop.turn() == retry_at
    assert scene.told[-1] == "could not launch: no answer"
    assert len(scene.cloud.proposed) == 2  # One to know what would be launched.
    scene.clock.advance(5)
    scene.cloud.launch_failure = None
    await scene.loop.turn()
    assert len(scene.cloud.instances) == 2
    assert {found.intent for found in scene.cloud.of("q")} == {None, intent.id}


async def test_a_refused_launch_is_no_demand_for_more_and_is_asked_for_anew_when_the_spec_changes(scene: Scene) -> None:
    scene.cloud.launch_refusal = "you are not allowed to"
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2})
    for _ in range(3):
        assert await scene.loop.turn() == scene.clock.now() + timedelta(seconds=5)
    assert scene.store.state.intents == ()
    assert scene.told.count("could not launch: you are not allowed to") == 1
    assert [found.failures for found in scene.store.state.configs.values()] == [0]
    scene.cloud.launch_refusal = None
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2, "idle_timeout": 61.0})
    await scene.loop.turn()
    assert len(scene.cloud.instances) == 2


async def test_missing_capacity_is_looked_for_elsewhere_at_once(scene: Scene) -> None:
    scene.cloud.launch_limit = 1
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 4, "max_instances": 4})
    await scene.loop.turn()
    assert len(scene.cloud.instances) == 4
    scene.clock.advance(SETTINGS.intent_hold_s)
    await scene.loop.turn()
    assert scene.store.state.intents == ()


async def test_another_configuration_than_the_planned_one_is_planned_for_first(scene: Scene) -> None:
    """It may never have been tried: a burst of it would be a burst of what may be broken."""
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 4, "max_instances": 4})
    planned = scene.provider.propose

    async def moved(spec: QueueSpec, count: int) -> Proposal:
        """The first look is answered as before; by the time of the launch, the place it named has no capacity."""
        scene.cloud.config = "1" if count == 1 else "2"
        return await planned(spec, count)

    scene.provider.propose = moved  # type: ignore[method-assign]
    before = list(scene.cloud.launches)
    scene.wake.clear()
    await scene.loop.turn()
    assert scene.cloud.launches == before
    assert scene.wake.is_set()
    await scene.loop.turn()
    assert len(scene.cloud.instances) == 4


async def test_where_there_is_no_capacity_at_all_it_pauses(scene: Scene) -> None:
    scene.cloud.launch_limit = 0
    scene.loop.spec = SPEC.model_copy(update={"min_instances": 2})
    assert await scene.loop.turn() == scene.clock.now() + timedelta(seconds=5)
    assert len(scene.cloud.launches) == 3
    assert scene.store.state.intents == ()
    assert "no capacity" in scene.told[-1]


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
