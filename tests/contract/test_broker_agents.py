"""Presence, leases and cancel hints, by the text of `launch.ports.Agents`, `Leases` and `Cancels`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

from launch.core.capacity import Amount
from launch.ports import SYNCED, Broker, Changed
from launch.presence import AgentPresence, AgentState
from launch.subjects import JobId
from tests.contract.broker_world import NOW, World, presence

# -- presence -------------------------------------------------------------------------------------------------------


async def test_an_agent_is_as_it_describes_itself(broker: Broker, other: Broker, queue: str) -> None:
    name = f"{queue}-a1"
    described = presence(
        name,
        queue,
        job_types=("train", "evaluate"),
        state=AgentState.DRAINING,
        free=Amount(),
        holds=(f"{queue}/1", f"{queue}/2"),
        instance="i-0123",
        labels={"zone": "a"},
        idle_since=NOW + timedelta(seconds=1),
    )
    await broker.agents.put(described, ttl_s=30)
    assert await other.agents.get(name) == described
    assert await other.agents.list(queue) == [described]
    await broker.agents.remove(name)
    assert await other.agents.get(name) is None


async def test_an_absent_agent_is_none_and_may_leave_again(broker: Broker, queue: str) -> None:
    name = f"{queue}-never"
    assert await broker.agents.get(name) is None
    await broker.agents.remove(name)
    assert await broker.agents.get(name) is None
    assert await broker.agents.list(queue) == []


async def test_list_is_of_one_queue_by_id(broker: Broker, queue: str) -> None:
    for name in ("c", "a", "b"):
        await broker.agents.put(presence(f"{queue}-{name}", queue), ttl_s=30)
    elsewhere = presence(f"{queue}-z", f"{queue}-2")
    await broker.agents.put(elsewhere, ttl_s=30)
    assert [a.agent_id for a in await broker.agents.list(queue)] == [f"{queue}-{name}" for name in "abc"]
    everyone = [a.agent_id for a in await broker.agents.list()]
    assert everyone == sorted(everyone)
    assert elsewhere.agent_id in everyone


async def test_who_stops_renewing_is_lost_at_once(broker: Broker, other: Broker, queue: str) -> None:
    stays, leaves, renews = (f"{queue}-{name}" for name in ("stays", "leaves", "renews"))
    loop = asyncio.get_running_loop()
    await other.agents.put(presence(stays, queue), ttl_s=3)
    await other.agents.put(presence(stays, queue), ttl_s=60)  # It outlives its first word by the end.
    await other.agents.put(presence(renews, queue), ttl_s=60)
    async with asyncio.timeout(20), aclosing(broker.agents.watch()) as watch:
        before = set()
        while (item := await anext(watch)) is not SYNCED:
            assert isinstance(item, Changed)
            before.add(item.key)
        assert {stays, renews} <= before
        began_s = loop.time()  # before the puts: a time to live begins with one
        await other.agents.put(presence(leaves, queue), ttl_s=1)
        await other.agents.put(presence(renews, queue), ttl_s=3)
        lost: dict[str, float] = {}
        while len(lost) < 2:
            item = await anext(watch)
            assert isinstance(item, Changed)
            if item.value is None and item.key.startswith(queue):
                lost[item.key] = loop.time() - began_s
    assert list(lost) == [leaves, renews]
    assert lost[renews] > 2.5
    assert [a.agent_id for a in await broker.agents.list(queue)] == [stays]


async def test_watch_tells_of_arrivals_changes_and_leaving(broker: Broker, other: Broker, queue: str) -> None:
    name, gone = f"{queue}-a1", f"{queue}-gone"
    await other.agents.put(presence(gone, queue), ttl_s=30)
    await other.agents.remove(gone)
    async with asyncio.timeout(10), aclosing(broker.agents.watch()) as watch:
        while (item := await anext(watch)) is not SYNCED:
            assert isinstance(item, Changed)
            assert item.key != gone
            assert item.value is not None
        draining = presence(name, queue, state=AgentState.DRAINING)
        await other.agents.put(presence(name, queue), ttl_s=30)
        await other.agents.put(draining, ttl_s=30)
        await other.agents.remove(name)
        events: list[Changed[AgentPresence]] = []
        while len(events) < 3:
            item = await anext(watch)
            assert isinstance(item, Changed)
            if item.key == name:
                events.append(item)
    assert [event.value for event in events] == [presence(name, queue), draining, None]
    assert [event.revision for event in events] == sorted(event.revision for event in events)


async def test_a_drain_request_reaches_the_agent_that_listens(broker: Broker, other: Broker, queue: str) -> None:
    async with asyncio.timeout(10), aclosing(broker.agents.drain_asked(f"{queue}-a1")) as asked:
        assert await anext(asked) is None
        await other.agents.ask_to_drain(f"{queue}-another")
        await other.agents.ask_to_drain(f"{queue}-a1")
        assert await anext(asked) == f"{queue}-a1"


# -- leases ---------------------------------------------------------------------------------------------------------


async def test_one_holder_at_a_time(broker: Broker, other: Broker, queue: str) -> None:
    assert await broker.leases.holder(queue) is None
    revision = await broker.leases.acquire(queue, "one", ttl_s=30)
    assert revision is not None
    assert await other.leases.acquire(queue, "two", ttl_s=30) is None
    assert await other.leases.holder(queue) == "one"
    await broker.leases.release(queue, revision)
    assert await other.leases.holder(queue) is None
    assert await other.leases.acquire(queue, "two", ttl_s=30) is not None
    assert await broker.leases.holder(queue) == "two"


async def test_a_lease_is_inherited_from_the_one_that_is_named(broker: Broker, other: Broker, queue: str) -> None:
    first = await broker.leases.acquire(queue, "one", ttl_s=30)
    assert first is not None
    assert await other.leases.inherit(queue, "two", of="three", ttl_s=30) is None
    second = await other.leases.inherit(queue, "two", of="one", ttl_s=30)
    assert second is not None
    assert await broker.leases.renew(queue, "one", first, ttl_s=30) is None
    assert await broker.leases.inherit(queue, "one", of="one", ttl_s=30) is None
    assert await other.leases.renew(queue, "two", second, ttl_s=30) is not None
    assert await other.leases.inherit("nobody-" + queue, "two", of="one", ttl_s=30) is None


async def test_of_many_candidates_one_wins(broker: Broker, other: Broker, queue: str) -> None:
    tries = [who.leases.acquire(queue, f"{n}", ttl_s=30) for n, who in enumerate((broker, other) * 5)]
    won = [n for n, revision in enumerate(await asyncio.gather(*tries)) if revision is not None]
    assert len(won) == 1
    assert await broker.leases.holder(queue) == str(won[0])


async def test_a_renewal_needs_the_last_revision(broker: Broker, other: Broker, queue: str) -> None:
    first = await broker.leases.acquire(queue, "one", ttl_s=30)
    assert first is not None
    second = await broker.leases.renew(queue, "one", first, ttl_s=30)
    assert second is not None
    assert second > first
    assert await broker.leases.renew(queue, "one", first, ttl_s=30) is None
    await other.leases.release(queue, first)
    assert await other.leases.holder(queue) == "one"
    await broker.leases.release(queue, second)
    assert await broker.leases.renew(queue, "one", second, ttl_s=30) is None
    assert await broker.leases.holder(queue) is None


async def test_a_lease_that_is_not_renewed_is_lost(broker: Broker, other: Broker, world: World, queue: str) -> None:
    kept = f"{queue}-kept"
    keeps = await broker.leases.acquire(kept, "one", ttl_s=3)
    assert keeps is not None
    keeps = await broker.leases.renew(kept, "one", keeps, ttl_s=30)
    assert keeps is not None
    # For as long, and later: when it is lost, the other would be too but for its renewal.
    lost = await broker.leases.acquire(queue, "one", ttl_s=3)
    assert lost is not None
    async with asyncio.timeout(10):
        while (taken := await other.leases.acquire(queue, "two", ttl_s=30)) is None:
            pass
    assert await broker.leases.renew(queue, "one", lost, ttl_s=30) is None
    await broker.leases.release(queue, lost)
    assert await broker.leases.holder(queue) == "two"
    assert await broker.leases.holder(kept) == "one"
    await other.leases.release(queue, taken)
    await broker.leases.release(kept, keeps)


# -- cancel hints ---------------------------------------------------------------------------------------------------


async def test_a_hint_reaches_whoever_listens_to_the_queue(broker: Broker, other: Broker, queue: str) -> None:
    async with asyncio.timeout(10), aclosing(broker.cancels.heard(queue)) as heard:
        assert await anext(heard) is None
        await broker.jobs.depth(queue)  # "look at all that you hold": any answer means that the server has us listed
        await other.cancels.announce(JobId(f"{queue}-2", 1))
        await other.cancels.announce(JobId(queue, 7))
        await other.cancels.announce(JobId(queue, 9))
        assert [await anext(heard), await anext(heard)] == [JobId(queue, 7), JobId(queue, 9)]


async def test_a_hint_to_nobody_is_no_error(broker: Broker, queue: str) -> None:
    await broker.cancels.announce(JobId(queue, 7))
