"""`launch doctor` on the real server and engine: a healthy set-up, and broken ones; it changes nothing."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from launch.adapters.nats.connection import Connection
from launch.core.states import State
from launch.job import JobSpec
from launch.queue import LocalProvider, QueueSpec, StaticProvider
from launch.record import JobRecord
from tests.e2e.world import LIMIT_S, World
from tests.integration.doctor.lab import bad, broker_at, contents, findings, stock
from tests.support.nats_server import NatsServer
from tests.support.registry import Registry

pytestmark = [pytest.mark.nats, pytest.mark.docker]

NOWHERE = "127.0.0.1:1/nothing/here:9"


async def test_a_healthy_set_up_is_ok_in_every_line_and_unchanged(
    world: World, nats: NatsServer, busybox_image: str
) -> None:
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), busybox_image, agent=True)
    before = await contents(nats.url)
    lines = world.run("doctor").out
    assert [line for line in lines if not line.startswith(("ok    ", "warn  disk"))] == []
    checks = {line.split()[1] for line in lines}
    assert checks == {
        "nats", "version", "jetstream", "permissions", "streams", "clocks", "docker", "disk", "gpu",
        "queue", "agents", "scaler", "waiting", "image",
    }  # fmt: skip
    assert any(f"{busybox_image} is on this engine" in line for line in lines)
    assert await contents(nats.url) == before


async def test_an_empty_server_stays_empty(world: World, nats: NatsServer) -> None:
    found = findings(world, code=0)
    assert ("warn", "there are none yet") in [(one["level"], one["found"]) for one in found]
    assert await contents(nats.url) == {}


def test_no_nats(world: World) -> None:
    world.env["NATS_URL"] = "nats://127.0.0.1:1"
    found = findings(world, code=1)
    assert "can't reach NATS at nats://127.0.0.1:1" in bad(found, "nats")
    assert "docker" in {one["check"] for one in found if one["level"] == "ok"}


def test_settings_that_can_not_be_used(world: World) -> None:
    world.env["NATS_CREDS"] = "/no/such.creds"
    assert "/no/such.creds" in bad(findings(world, code=1), "nats")


def test_nats_without_jetstream(world: World, fresh_nats: Callable[..., NatsServer]) -> None:
    world.env["NATS_URL"] = fresh_nats(config="jetstream: disabled").url
    assert "start nats-server with -js" in bad(findings(world, code=1), "jetstream")


async def test_docker_that_can_not_be_reached(world: World, nats: NatsServer) -> None:
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), agent=True)
    world.env["DOCKER_HOST"] = "unix:///no/such.sock"
    assert "/no/such.sock" in bad(findings(world, code=1), "docker")
    world.env["DOCKER_HOST"] = "ftp://what"
    assert "is not an engine's address" in bad(findings(world, code=1), "docker")


async def test_an_image_that_can_not_be_had_and_one_that_can(
    world: World, nats: NatsServer, busybox_image: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry").start()
    try:
        there = registry.push(busybox_image, "doctor/there:1")
        missing = f"{registry.address}/doctor/missing:1"
        spec = QueueSpec(queue_name="q", provider=LocalProvider())
        await stock(nats.url, spec, there, NOWHERE, missing, agent=True)
        found = findings(world, "-q", "q", code=1)
        told = bad(found, "image")
    finally:
        registry.stop()
    assert f"{NOWHERE} (image of q/2): the registry could not be reached" in told
    assert "(asked 127.0.0.1:1 with no login)" in told
    assert f"{missing} (image of q/3): there is no such image" in told
    assert any(f"{there} can be pulled: sha256:" in one["found"] for one in found if one["level"] == "ok")
    only = findings(world, "--job", "q/2", code=1)
    assert [one["found"].split()[0] for one in only if one["check"] == "image"] == [NOWHERE]


async def test_nobody_to_run_jobs_and_a_paused_queue(world: World, nats: NatsServer, busybox_image: str) -> None:
    await stock(nats.url, QueueSpec(queue_name="q", provider=StaticProvider()), busybox_image)
    assert bad(findings(world, code=1), "agents") == ("q: no agents are present, and 1 job waits — launch agent -q q")
    world.run("queue", "pause", "q")
    warned = [one["found"] for one in findings(world, code=1) if one["level"] == "warn"]
    assert "q is paused, with 1 job in it" in warned
    assert "q/1 waits: the queue is paused" in warned
    assert "no queue 'other'" in bad(findings(world, "-q", "other", code=1), "queue")


async def test_streams_that_are_not_as_they_should_be(world: World, nats: NatsServer) -> None:
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), agent=True)
    connection = Connection(nats.url)
    await connection.open(name="test", credentials=None, timeout_s=5)
    try:
        config = (await connection.api("STREAM.INFO.queue_q"))["config"]
        await connection.api("STREAM.UPDATE.queue_q", {**config, "discard": "old"})
        told = bad(findings(world, code=1), "streams")
        assert told == "stream queue_q: discard is old, should be new — launch queue apply FILE repairs it"
        assert (await connection.api("STREAM.INFO.queue_q"))["config"]["discard"] == "old"
        await connection.api("STREAM.DELETE.metrics")
        await connection.api(
            "STREAM.CREATE.metrics", {"name": "metrics", "subjects": ["metrics.>"], "storage": "memory"}
        )
        await connection.api("STREAM.DELETE.KV_leases")
        told = bad(findings(world, code=1), "streams")
    finally:
        await connection.close()
    assert "there is no stream KV_leases" in told
    assert "storage is memory, should be file" in told
    assert "delete the stream metrics" in told


def test_an_interrupt_ends_it_at_once(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        world.env["NATS_URL"] = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        command = world.start("doctor")
        silent.settimeout(LIMIT_S)
        silent.accept()[0].close()  # somebody looks whether anybody listens
        connection, _ = silent.accept()
        with connection:
            command.signal(signal.SIGINT)
            assert command.ended() == 130
    assert command.out == []
    assert not any("Traceback" in line for line in command.err)


async def test_the_image_of_a_job_whose_agent_is_still_at_it(world: World, nats: NatsServer) -> None:
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), NOWHERE, agent=True)
    now = datetime.now(UTC)
    async with broker_at(nats.url) as broker:
        (agent,) = await broker.agents.list("q")
        await broker.agents.put(agent.model_copy(update={"holds": ("q/1",)}), ttl_s=60)
        record = JobRecord(
            queue="q", seq=1, job_type="train", spec=JobSpec(image=NOWHERE), state=State.PREPARING, attempt=7,
            message=f"pulling {NOWHERE}", submitted_at=now, updated_at=now,
        )  # fmt: skip
        await broker.records.create(record)
    found = findings(world, code=1)
    assert f"{NOWHERE} (image of q/1): the registry could not be reached" in bad(found, "image")
    assert f"q/1 waits: pulling {NOWHERE}" in [one["found"] for one in found]
