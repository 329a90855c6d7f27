"""Documents: compare-and-set on their revision, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from launch.errors import BrokerUnavailable, Conflict
from launch.ports import Broker
from tests.contract.broker_world import World


async def test_what_was_created_is_there_for_everybody(broker: Broker, other: Broker, queue_name: str) -> None:
    key = f"state.{queue_name}"
    assert await broker.documents.get(key) is None
    revision = await broker.documents.create(key, b"one")
    found = await other.documents.get(key)
    assert found is not None
    assert (found.value, found.revision) == (b"one", revision)


async def test_it_is_created_once(broker: Broker, other: Broker, queue_name: str) -> None:
    key = f"state.{queue_name}"
    tries = (one.documents.create(key, b"x") for one in (broker, other, broker, other))
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Conflict", "Conflict", "Conflict", "int"]


async def test_a_write_on_an_old_revision_is_refused(broker: Broker, other: Broker, queue_name: str) -> None:
    key = f"state.{queue_name}"
    first = await broker.documents.create(key, b"one")
    second = await other.documents.update(key, b"two", first)
    assert second > first
    with pytest.raises(Conflict):
        await broker.documents.update(key, b"stale", first)
    found = await broker.documents.get(key)
    assert found is not None
    assert (found.value, found.revision) == (b"two", second)


async def test_a_removed_one_is_not_there_and_can_be_made_again(broker: Broker, queue_name: str) -> None:
    key = f"state.{queue_name}"
    await broker.documents.delete(key)
    first = await broker.documents.create(key, b"one")
    await broker.documents.delete(key)
    assert await broker.documents.get(key) is None
    with pytest.raises(Conflict):
        await broker.documents.update(key, b"stale", first)
    assert await broker.documents.create(key, b"again") > first


async def test_keys_are_kept_apart(broker: Broker, queue_name: str) -> None:
    await broker.documents.create(f"state.{queue_name}", b"one")
    await broker.documents.create(f"report.{queue_name}", b"two")
    found = await broker.documents.get(f"state.{queue_name}")
    assert found is not None
    assert found.value == b"one"


async def test_without_a_connection_nothing_is_known(own_world: World) -> None:
    broker = await own_world.connect()
    revision = await broker.documents.create("state.q", b"one")
    await own_world.stop()
    with pytest.raises(BrokerUnavailable):
        await broker.documents.get("state.q")
    with pytest.raises(BrokerUnavailable):
        await broker.documents.update("state.q", b"two", revision)
