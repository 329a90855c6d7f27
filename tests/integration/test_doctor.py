"""`launch doctor` on the real server and engine: a healthy set-up, and broken ones; it changes nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from launch.adapters.clock import SystemClock
from launch.adapters.nats import NatsBroker, connect
from launch.adapters.nats.connection import Connection
from launch.aws import NatsAccess
from launch.core.capacity import Amount
from launch.core.quantity import parse_memory
from launch.presence import AgentPresence
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.scaling import ScalingReport
from scaler.adapters.aws.checkup import Checkup
from scaler.ports import ProviderRefused, ProviderUnsuitable
from tests.e2e.world import World
from tests.support.moto import REGION, MotoServer
from tests.support.nats_server import NatsServer
from tests.support.registry import Registry

pytestmark = [pytest.mark.nats, pytest.mark.docker]

NOWHERE = "127.0.0.1:1/nothing/here:9"
ROLES = """
authorization {
  users: [
    {user: viewer, password: v, permissions: {
      publish: ["$JS.API.INFO", "$JS.API.STREAM.INFO.>", "$JS.API.DIRECT.GET.>", "$JS.API.CONSUMER.CREATE.>",
                "$JS.API.CONSUMER.LIST.>", "$JS.API.STREAM.MSG.GET.>", "$JS.FC.>"]
      subscribe: ["_INBOX.>"]}}
    {user: admin, password: a}
  ]
}
"""


@pytest.fixture
def nats(fresh_nats: Callable[..., NatsServer]) -> NatsServer:
    return fresh_nats()


@pytest.fixture
def world(tmp_path: Path, nats: NatsServer, engine_url: str) -> Iterator[World]:
    home = tmp_path / "home"
    home.mkdir()
    world = World(home, url=nats.url)
    yield world
    world.close()


@asynccontextmanager
async def broker_at(url: str) -> AsyncIterator[NatsBroker]:
    broker = await connect(url, name="test")
    try:
        yield broker
    finally:
        await broker.close()


async def stock(url: str, spec: QueueSpec, *images: str, agent: bool = False) -> None:
    """A queue with a job of each image, and perhaps an agent and a scaler's report."""
    now = datetime.now(UTC)
    async with broker_at(url) as broker:
        await broker.queues.apply(spec)
        for image in images:
            await broker.jobs.publish(spec.queue_name, "train", json.dumps({"image": image}).encode())
        if agent:
            room = Amount(cpu_milli=64_000, memory_bytes=parse_memory("64Gi"), slots=8)
            presence = AgentPresence(
                agent_id="a-1", queue=spec.queue_name, capacity=room, free=room, host="h", started_at=now,
                version=version("nats-launch"),
            )  # fmt: skip
            await broker.agents.put(presence, ttl_s=60)
            await broker.scaling.report(ScalingReport(queue=spec.queue_name, at=now, leader="s-1"))


def findings(world: World, *args: str, code: int | None) -> list[dict[str, Any]]:
    told = json.loads("\n".join(world.run("doctor", *args, "--json", code=code).out))
    assert all(one["cure"] for one in told["findings"] if one["level"] != "ok"), told
    return list(told["findings"])


def bad(found: list[dict[str, Any]], check: str) -> str:
    """What is wrong of one check, and the only thing that fails."""
    assert {one["check"] for one in found if one["level"] == "fail"} == {check}, found
    return " ".join(f"{one['found']} — {one['cure']}" for one in found if one["level"] == "fail")


async def contents(url: str) -> dict[str, tuple[int, dict[str, Any]]]:
    """Each stream's last sequence and configuration."""
    connection = Connection(url)
    await connection.open(name="test", credentials=None, timeout_s=5)
    try:
        listed = (await connection.api("STREAM.LIST")).get("streams") or []
        return {one["config"]["name"]: (one["state"]["last_seq"], one["config"]) for one in listed}
    finally:
        await connection.close()


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
    assert f"{NOWHERE} (image of q/2): can't be resolved" in told
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


async def test_what_this_user_may_do(world: World, fresh_nats: Callable[..., NatsServer]) -> None:
    url = fresh_nats(config=ROLES).url.replace("nats://", "nats://{}@")
    await stock(url.format("admin:a"), QueueSpec(queue_name="q", provider=LocalProvider()), agent=True)
    before = await contents(url.format("admin:a"))
    for user, told in (
        ("viewer:v", "may look; may not submit, work, scale, administer"),
        ("admin:a", "may look, submit, work, scale, administer"),
    ):
        world.env["NATS_URL"] = url.format(user)
        (line,) = [one for one in findings(world, "-q", "q", code=None) if one["check"] == "permissions"]
        assert line["found"].endswith(told)
    assert await contents(url.format("admin:a")) == before
    world.env["NATS_URL"] = url.format("viewer:wrong")
    said = bad(findings(world, code=1), "nats")
    assert "wrong" not in said


async def test_aws_by_dry_run(moto_server: MotoServer, nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in moto_server.env.items():
        monkeypatch.setenv(key, value)
    provider = AwsProvider(region=REGION, instance_type="m5.large", nats=NatsAccess(url="nats://n.example"))
    spec = QueueSpec(queue_name="doctor", max_instances=1, agent_image="example/agent:1", provider=provider)
    checkup = Checkup(server_url=nats.url, clock=SystemClock())
    async with broker_at(nats.url) as broker:
        assert "in account 123456789012" in await checkup.identity(spec)
        count = len(moto_server.client("ec2").describe_instances()["Reservations"])
        assert await checkup.dry_run(spec, broker.documents) == "1 m5.large on-demand"
        assert len(moto_server.client("ec2").describe_instances()["Reservations"]) == count
        assert await broker.documents.get("cluster") is None
        wrong = provider.model_copy(update={"instance_type": ("x9.none",)})
        with pytest.raises((ProviderUnsuitable, ProviderRefused), match=r"x9\.none"):
            await checkup.dry_run(spec.model_copy(update={"provider": wrong}), broker.documents)
