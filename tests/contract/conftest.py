"""Fixtures of the contract suites: each test of the broker runs once on the fake and once on a real nats-server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from agent.adapters.docker import DockerEngine
from agent.ports import Engine
from launch.ports import Broker
from tests.contract.broker_world import LONG_ACK_WAIT_S, FakeWorld, NatsWorld, World, queue_spec
from tests.contract.engine_world import PROGRAMS, Lab
from tests.fakes.engine import FakeEngine
from tests.support.nats_server import NatsServer

BOTH = [pytest.param("fake"), pytest.param("nats", marks=pytest.mark.nats)]


@pytest.fixture
def ack_wait_s() -> float:
    """How long what a connection has taken may go without an answer; `lapses` makes it short."""
    return LONG_ACK_WAIT_S


@pytest.fixture(params=BOTH)
async def world(request: pytest.FixtureRequest, ack_wait_s: float) -> AsyncIterator[World]:
    """A server that other tests use too; keep apart by `queue_name`."""
    made: World
    if request.param == "fake":
        made = FakeWorld(ack_wait_s)
    else:
        made = NatsWorld(request.getfixturevalue("nats_url"), ack_wait_s)
    yield made
    await made.close()


@pytest.fixture(params=BOTH)
async def own_world(
    request: pytest.FixtureRequest, fresh_nats: Callable[..., NatsServer], ack_wait_s: float
) -> AsyncIterator[World]:
    """A server of the test's own, which it may stop."""
    made: World
    if request.param == "fake":
        made = FakeWorld(ack_wait_s)
    else:
        server = fresh_nats()
        made = NatsWorld(server.url, ack_wait_s, server)
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


@pytest.fixture(params=[pytest.param("fake"), pytest.param("docker", marks=pytest.mark.docker)])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """An engine of either kind; what the test made on it is removed."""
    mark = f"launch-test-{secrets.token_hex(5)}"
    engine: Engine
    if request.param == "fake":
        image = "busybox:1"
        fake = engine = FakeEngine(images=[image])
        fake.scripts.update(PROGRAMS)
    else:
        image = request.getfixturevalue("busybox_image")
        engine = DockerEngine(request.getfixturevalue("docker_host"))
    yield Lab(engine, image, mark)
    for container in await engine.list({"launch.test": mark}):
        await engine.remove(container.id)
    assert await engine.list({"launch.test": mark}) == []
    await engine.close()
    await engine.close()
