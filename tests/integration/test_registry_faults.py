"""Registries that are slow, away, or have an image for others only; and images fetched ahead on a real engine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from launch.client import Client
from launch.core.states import Reason, State
from launch.record import JobRecord
from launch.subjects import container_name
from tests.integration.agent_lab import HOLD, LIMIT_S, Lab
from tests.support.proxy import Proxy
from tests.support.registry import Registry, forget

pytestmark = [pytest.mark.docker, pytest.mark.nats]

SIZE = 4 * 2**20
PIECE_DELAY_S = 0.15
"""The proxy's, for each 64 KiB: about 400 KiB a second."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of this module's own."""
    made = Registry(tmp_path_factory.mktemp("registry")).start()
    yield made
    made.stop()


@pytest.fixture
def image(lab: Lab, registry: Registry) -> Iterator[str]:
    """An image with a layer that only the registry has."""
    reference = registry.push_new(lab.image, f"tool-{secrets.token_hex(4)}:1", size=SIZE)
    yield reference
    forget(reference)


def has_told(record: JobRecord) -> bool:
    """Whether progress has arrived."""
    return "%" in (record.message or "")


async def test_a_slow_registrys_progress_arrives_and_a_cancel_ends_the_pull(
    lab: Lab, registry: Registry, image: str
) -> None:
    proxy = await Proxy(int(registry.address.partition(":")[2])).start()
    proxy.delay_s = PIECE_DELAY_S
    slow = image.replace(registry.address, f"127.0.0.1:{proxy.port}")
    try:
        async with lab.agent():
            job = await lab.submit(image=slow, command=["true"])
            told = await lab.until(job, has_told)
            assert told.state is State.PREPARING
            assert str(told.message).startswith(f"pulling {slow}: ")
            await Client(lab.client).job(job).cancel()
            record = await lab.ended(job)
            async with asyncio.timeout(LIMIT_S):
                await proxy.until_quiet()
        assert (record.state, record.container) == (State.CANCELLED, None)
        assert await lab.engine.image(slow) is None
    finally:
        await proxy.cut()


async def test_a_registry_that_is_away_is_waited_for(
    lab: Lab, registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.images.RETRY_AFTER_S", (0.1,))
    registry.stop()
    async with lab.agent():
        job = await lab.submit(image=image, command=["true"])
        try:
            away = await lab.until(job, lambda record: record.reason is not None)
        finally:
            registry.start()
        assert (away.state, away.reason) == (State.QUEUED, Reason.IMAGE_PULL_FAILED)
        assert "the registry could not be reached; check" in str(away.message)
        record = await lab.ended(job)
    assert (record.state, record.digest is not None) == (State.SUCCEEDED, True), record.message


async def test_an_image_for_another_platform_says_so(lab: Lab, registry: Registry, image: str) -> None:
    other = registry.push_for("s390x", image)
    async with lab.agent():
        job = await lab.submit(image=other, command=["true"])
        record = await lab.until(job, lambda record: record.reason is not None)
        assert record.reason is Reason.IMAGE_PULL_FAILED
        assert "not built for this worker's platform; build it for that too, or run it elsewhere" in str(record.message)
        await Client(lab.client).job(job).cancel()
        await lab.ended(job)


async def test_the_next_jobs_image_is_here_before_its_turn(
    lab: Lab, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ahead.LOOK_GAP_S", 0.1)
    async with lab.agent(max_jobs=1):
        first = await lab.submit(command=HOLD)
        await lab.said(first, b"ready")
        second = await lab.submit(image=image, command=["true"])
        async with asyncio.timeout(LIMIT_S):
            while await lab.engine.image(image) is None:  # noqa: ASYNC110  (it tells nobody that an image has come)
                await asyncio.sleep(0.05)
        assert await lab.client.records.get(second) is None
        await lab.engine.signal(container_name(first, 1), "SIGUSR1")
        record = await lab.ended(second)
        history = await lab.client.records.history(second)
    assert (record.state, record.digest is not None) == (State.SUCCEEDED, True)
    assert not [one.message for one in history if "pulling" in (one.message or "")]
