"""A scaler that dies between any two steps: the next one starts nothing twice, and forgets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from launch.errors import BrokerUnavailable, Conflict
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from scaler.core.instance import Instance
from scaler.loop import QueueLoop
from scaler.presences import Agents
from scaler.settings import ScalerSettings
from scaler.state import Deposed, StateStore, boot_failed, with_intent
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.clock import ManualClock
from tests.fakes.provider import FakeCloud, FakeProvider
from tests.unit.scaler.launching import intent_for, made_loop
from tests.unit.scaler.worlds import CAPACITY

SPEC = QueueSpec(queue_name="q", min_instances=3, max_instances=4)
SETTINGS = ScalerSettings(intent_hold_s=30.0)
TURNS = 4


class Killed(BaseException):
    """The process is gone."""


class Knife:
    """Kills at the n-th step: just before it takes effect, or just after."""

    def __init__(self, at: int | None, *, after: bool) -> None:
        self.steps: list[str] = []
        self._at = at
        self._after = after

    def on(self, owner: object, name: str) -> None:
        """Each call of this method is one step."""
        call: Callable[..., Awaitable[object]] = getattr(owner, name)

        async def step(*args: object, **options: object) -> object:
            self.steps.append(name)
            strikes = len(self.steps) == self._at
            if strikes and not self._after:
                raise Killed
            answer = await call(*args, **options)
            if strikes:
                raise Killed
            return answer

        setattr(owner, name, step)


class Town:
    """What outlives scalers: the broker and the cloud."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.server = FakeServer(clock=self.clock)
        self.cloud = FakeCloud(self.clock, CAPACITY)
        self.others = self.server.connect("agents")
        self._booting: set[asyncio.Task[None]] = set()
        self.cloud.on_launch = lambda instance: self._booting.add(asyncio.create_task(self.register(instance)))

    async def scaler(self, knife: Knife | None = None) -> tuple[QueueLoop, StateStore, Agents, FakeProvider]:
        """A scaler that has just become the leader, with an open provider."""
        broker: FakeBroker = self.server.connect("scaler")
        provider, agents = self.cloud.open("q"), Agents(broker, self.clock)
        if knife is not None:
            for owner, name in ((broker.documents, "update"), (broker.documents, "create"), (provider, "launch")):
                knife.on(owner, name)
            knife.on(provider, "stop")
        store = StateStore(broker.documents, "q", f"scaler-{id(broker)}")
        loop = made_loop(
            broker, provider, agents, store, self.clock, SETTINGS, SPEC, tell=lambda _: None, wake=asyncio.Event()
        )
        return loop, store, agents, provider

    async def live(self, knife: Knife | None, turns: int = TURNS) -> None:
        """One scaler's life, to its end by the knife or after so many turns."""
        loop, store, agents, _ = await self.scaler(knife)
        following = asyncio.create_task(agents.follow())
        try:
            await agents.ready.wait()
            with suppress(Killed):
                await store.claim()
                for _ in range(turns):
                    await loop.turn()
                    self.clock.advance(15)
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def register(self, instance: Instance) -> None:
        presence = AgentPresence(
            agent_id=instance.agent_id, queue="q", capacity=CAPACITY, free=CAPACITY, version="0", host="h",
            started_at=instance.launched_at, idle_since=self.clock.now(),
        )  # fmt: skip
        await self.others.agents.put(presence, ttl_s=3600)


async def steps() -> int:
    """How many steps an undisturbed life has."""
    knife, town = Knife(None, after=False), Town()
    await town.others.queues.apply(SPEC)
    await town.live(knife)
    assert {"update", "launch"} <= set(knife.steps)
    return len(knife.steps)


@pytest.mark.parametrize("hidden", [0, 2])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", ["", "launch_limit", "lost_replies"])
async def test_a_crash_at_any_step_starts_nothing_twice_and_loses_nothing(fault: str, after: bool, hidden: int) -> None:
    for at in range(1, await steps() + 1):
        town = Town()
        await town.others.queues.apply(SPEC)
        town.cloud.hidden_for = hidden
        if fault:
            setattr(town.cloud, fault, 1)
        await town.live(Knife(at, after=after))
        await town.live(Knife(2, after=after))  # The next one dies soon, too.
        await town.live(None)
        assert town.cloud.most <= 3, f"killed at step {at}"
        assert len(town.cloud.of("q")) == 3, f"killed at step {at}"
        for (_, token), made in town.cloud.tokens.items():
            assert len(made) <= 3, token
        found = await town.others.documents.get("state.q")
        assert found is not None
        assert b'"intents"' not in found.value, f"killed at step {at}: {found.value!r}"


async def test_a_stale_leader_hears_that_it_is_one_and_starts_nothing() -> None:
    town = Town()
    await town.others.queues.apply(SPEC)
    old, store, agents, _ = await town.scaler()
    following = asyncio.create_task(agents.follow())
    await agents.ready.wait()
    await store.claim()
    await town.live(None, turns=1)
    launches = len(town.cloud.launches)
    old.spec = SPEC.model_copy(update={"min_instances": 4})
    with pytest.raises(Deposed):
        await old.turn()
    assert len(town.cloud.launches) == launches
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


# -- the document ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> FakeServer:
    return FakeServer(clock=ManualClock())


async def test_each_claim_is_a_new_epoch_and_ends_the_one_before(server: FakeServer) -> None:
    first = StateStore(server.connect().documents, "q", "one")
    second = StateStore(server.connect().documents, "q", "two")
    assert (await first.claim()).epoch == 1
    now = server.clock.now()
    await first.change(boot_failed("c", "why", now))
    assert (await second.claim()).epoch == 2
    assert second.state.configs["c"].failures == 1
    with pytest.raises(Deposed, match="led by two"):
        await first.change(boot_failed("c", "again", now))
    await second.change(boot_failed("c", "again", now))
    assert second.state.configs["c"].failures == 2


async def test_a_change_whose_answer_was_lost_is_neither_lost_nor_made_twice(server: FakeServer) -> None:
    broker = server.connect()
    store = StateStore(broker.documents, "q", "one")
    await store.claim()
    town = Town()
    provider = town.cloud.open("q")
    intent = await intent_for(provider, SPEC, 1, "a")
    broker.lose_replies(1)
    with pytest.raises(BrokerUnavailable):
        await store.change(with_intent(intent))
    await store.settle()
    assert [found.id for found in store.state.intents] == ["a"]
    broker.lose_replies(1)
    with pytest.raises(BrokerUnavailable):
        await store.change(with_intent(intent.model_copy(update={"id": "b"})))
    await store.change(with_intent(intent.model_copy(update={"id": "b"})))
    assert [found.id for found in store.state.intents] == ["a", "b"]


async def test_a_document_that_is_none_is_begun_anew(server: FakeServer) -> None:
    broker = server.connect()
    revision = await broker.documents.create("state.q", b"not json")
    store = StateStore(broker.documents, "q", "one")
    assert (await store.claim()).epoch == revision + 1


async def test_a_claim_that_meets_the_last_write_of_the_one_before_is_made_all_the_same(server: FakeServer) -> None:
    first = StateStore(server.connect().documents, "q", "one")
    await first.claim()
    broker = server.connect()
    get = broker.documents.get
    writes = [1]

    async def raced(key: str) -> object:
        found = await get(key)
        if writes.pop() if writes else 0:
            await first.change(boot_failed("c", "why", server.clock.now()))
        return found

    broker.documents.get = raced  # type: ignore[method-assign,assignment]
    second = StateStore(broker.documents, "q", "two")
    await second.claim()
    assert second.state.configs["c"].failures == 1
    with pytest.raises((Deposed, Conflict)):
        await first.change(boot_failed("c", "why", server.clock.now()))
