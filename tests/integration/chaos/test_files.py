"""Agents, brokers and engines that go away while a job's files are being stored: all is there in the end, once."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing

import pytest

from launch.core.states import State
from launch.files import Manifest
from launch.record import JobRecord
from launch.subjects import ARTIFACTS_STORE, JobId, object_stream
from tests.integration.chaos.lab import LEASE_S, Chaos
from tests.integration.chaos.own_engine import OwnEngine
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow, pytest.mark.timeout(200)]

MIB = 1024**2
BIG = 192 * MIB
"""Takes the engine some seconds to hand out."""
LEAVE = f"cd $LAUNCH_ARTIFACTS; echo first >a; head -c {BIG} /dev/zero >big; sha256sum big; echo last >z"


async def until_storing(lab: Chaos, job: JobId) -> None:
    """Wait until a part of the big file is in the store, and some of it is not."""
    stream = object_stream(ARTIFACTS_STORE)
    async with asyncio.timeout(60):
        while (await lab.raw.jetstream().stream_info(stream)).state.bytes < 4 * MIB:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # a store tells nobody how far a put is
    assert (await lab.raw.jetstream().stream_info(stream)).state.bytes < BIG


async def check(lab: Chaos, job: JobId, record: JobRecord) -> None:
    """The job ran once, and everything that it left is there."""
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert record.artifacts is not None
    assert record.artifacts.error is None
    assert record.artifacts.manifest is not None
    store = lab.client.artifacts
    async with aclosing(store.read(record.artifacts.manifest)) as pieces:
        manifest = Manifest.model_validate_json(b"".join([piece async for piece in pieces]))
    assert [file.path for file in manifest.files] == ["a", "big", "z"]
    said = (await lab.output(job)).split()[0].decode()
    for file in manifest.files:
        digest, size = hashlib.sha256(), 0
        async with aclosing(store.read(file.name)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                size += len(piece)
        assert (size, digest.hexdigest()) == (file.size, file.sha256)
    assert {file.path: file.sha256 for file in manifest.files}["big"] == said
    await lab.nothing_left()


async def test_an_agent_that_is_killed_while_it_stores_goes_on_when_it_is_back(lab: Chaos) -> None:
    agent = await lab.started("a")
    job = await lab.submit(command=["sh", "-c", LEAVE])
    await until_storing(lab, job)
    await agent.kill()
    await agent.start()
    await check(lab, job, await lab.ended(job))
    assert len(lab.runs.of(job)) == 1


async def test_a_server_that_goes_away_while_files_are_stored_gets_them_when_it_is_back(
    lab: Chaos, server: NatsServer
) -> None:
    await lab.started("a")
    job = await lab.submit(command=["sh", "-c", LEAVE])
    await until_storing(lab, job)
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(LEASE_S + 1)  # the fault lasts longer than the lease
    await asyncio.to_thread(server.start)
    await check(lab, job, await lab.ended(job))
    assert len(lab.runs.of(job)) == 1


async def test_an_engine_that_is_restarted_while_it_hands_out_files_is_asked_again(
    lab: Chaos, other_engine: OwnEngine
) -> None:
    await lab.started("a", DOCKER_HOST=other_engine.host)
    job = await lab.submit(command=["sh", "-c", LEAVE])
    await until_storing(lab, job)
    await other_engine.stop()
    await other_engine.start()
    await check(lab, job, await lab.ended(job))
    assert await other_engine.containers() == []
