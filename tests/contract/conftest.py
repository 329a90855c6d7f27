"""Fixtures of the contract suites: each test of the broker runs once on the fake and once on a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from launch.ports import Broker
from tests.contract.broker_world import FakeWorld, NatsWorld, World, queue_spec
from tests.support.nats_server import NatsServer

BOTH = [pytest.param("fake"), pytest.param("nats", marks=pytest.mark.nats)]


@pytest.fixture(params=BOTH)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A server that other tests use too; keep apart by `queue_name`."""
    made: World = FakeWorld() if request.param == "fake" else NatsWorld(request.getfixturevalue("nats_url"))
    yield made
    await made.close()


@pytest.fixture(params=BOTH)
async def own_world(request: pytest.FixtureRequest, fresh_nats: Callable[..., NatsServer]) -> AsyncIterator[World]:
    """A server of the test's own, which it may stop."""
    made: World
    if request.param == "fake":
        made = FakeWorld()
    else:
        server = fresh_nats()
        made = NatsWorld(server.url, server)
    yield made
    await made.close()


@pytest.fixture
async def broker(world: World) -> Broker:
    """A connection."""
    return await world.connect()


@pytest.fixture
async def other(world: World) -> Broker:
    """Another connection to the same server."""
    return await world.connect("other")


@pytest.fixture
async def queue(broker: Broker, queue_name: str) -> AsyncIterator[str]:
    """A queue of this test's own, deleted at its end."""
    await broker.queues.apply(queue_spec(queue_name))
    yield queue_name
    if queue_name in [spec.queue_name for spec in await broker.queues.list()]:
        await broker.queues.delete(queue_name)
