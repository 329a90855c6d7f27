"""`launch doctor` on the real server and engine: a healthy set-up, and broken ones; it changes nothing."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.docker_look import EngineLook
from launch.adapters.clock import SystemClock
from launch.adapters.nats import NatsBroker, connect
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.look import Look
from launch.aws import NatsAccess
from launch.core.capacity import Amount
from launch.core.quantity import parse_memory
from launch.doctor import server
from launch.doctor.parts import Resolved
from launch.login import Login
from launch.presence import AgentPresence
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.scaling import ScalingReport
from launch.server_users import USERS_FILE, secure
from scaler.adapters.aws.checkup import Checkup
from scaler.ports import ProviderRefused, ProviderUnsuitable
from tests.e2e.world import LIMIT_S, World
from tests.support.moto import REGION, MotoServer
from tests.support.nats_server import NatsServer
from tests.support.registry import PASSWORD, USER, Registry, docker_config

pytestmark = [pytest.mark.nats, pytest.mark.docker]

NOWHERE = "127.0.0.1:1/nothing/here:9"


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
async def broker_at(url: str, login: Login | None = None) -> AsyncIterator[NatsBroker]:
    broker = await connect(url, name="test", credentials=login)
    try:
        yield broker
    finally:
        await broker.close()


async def stock(
    url: str,
    spec: QueueSpec,
    *images: str,
    agent: bool = False,
    policy: dict[str, Any] | None = None,
    login: Login | None = None,
) -> None:
    """A queue with a job of each image, and perhaps an agent and a scaler's report."""
    now = datetime.now(UTC)
    async with broker_at(url, login) as broker:
        await broker.queues.apply(spec)
        for image in images:
            await broker.jobs.publish(spec.queue_name, "train", json.dumps({"image": image}).encode())
        if agent:
            room = Amount(cpu_milli=64_000, memory_bytes=parse_memory("64Gi"), slots=8)
            presence = AgentPresence(
                agent_id="a-1", queue=spec.queue_name, capacity=room, free=room, host="h", started_at=now,
                version=version("nats-launch"), at=now, policy=policy,
            )  # fmt: skip
            await broker.agents.put(presence, ttl_s=60)
            await broker.scaling.report(ScalingReport(queue=spec.queue_name, at=now, leader="s-1"))


def findings(world: World, *args: str, code: int | None) -> list[dict[str, Any]]:
    told = json.loads("\n".join(world.run("doctor", *args, "--json", code=code).out))
    assert set(told) == {"worst", "findings"}
    assert all(set(one) == {"check", "level", "found", "cure"} for one in told["findings"])
    assert all(one["cure"] for one in told["findings"] if one["level"] != "ok"), told
    levels = [one["level"] for one in told["findings"]]
    assert told["worst"] == next(level for level in ("fail", "warn", "ok") if level in levels)
    return list(told["findings"])


def bad(found: list[dict[str, Any]], *checks: str) -> str:
    """What fails, which are these checks and no others."""
    assert {one["check"] for one in found if one["level"] == "fail"} == set(checks), found
    return " ".join(f"{one['found']} — {one['cure']}" for one in found if one["level"] == "fail")


async def contents(url: str, login: Login | None = None) -> dict[str, tuple[int, dict[str, Any]]]:
    """Each stream's last sequence and configuration."""
    connection = Connection(url)
    await connection.open(name="test", credentials=login, timeout_s=5)
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


MAY = {
    "publisher": "may look, submit in q; may not cancel, work, scale, administer: the role publisher",
    "operator": "may look, submit, cancel in q; may not work, scale, administer: the role operator",
    "agent": "may look, cancel, work in q; may not submit, scale, administer: the role agent",
    "scaler": "may look, cancel, scale in q; may not submit, work, administer: the role scaler",
    "viewer": "may look in q; may not submit, cancel, work, scale, administer: the role viewer",
    "admin": "may look, submit, cancel, work, scale, administer in q: the role admin",
}


async def test_what_each_role_may_do(
    world: World, fresh_nats: Callable[..., NatsServer], tmp_path: Path, busybox_image: str
) -> None:
    seeds = {file.stem.removesuffix("-q"): file for file in secure(tmp_path, ["q"])}
    users = (tmp_path / USERS_FILE).read_text()
    poor = 'users = [{user: poor, password: p, permissions: {publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"]}}\n'
    nats = fresh_nats(config=users.replace("users = [", poor))
    world.env["NATS_URL"] = nats.url
    admin = Login(nkey=seeds["admin"])
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), busybox_image, agent=True, login=admin)
    await stock(nats.url, QueueSpec(queue_name="zother", provider=StaticProvider()), login=admin)
    before = await contents(nats.url, admin)
    for role, told in MAY.items():
        look = await Look.open(nats.url, credentials=Login(nkey=seeds[role]))
        try:
            (line,) = await server.permissions(look, "q")
        finally:
            await look.close()
        assert (line.level, line.found.endswith(told)) == ("ok", True), line
    world.env["NATS_NKEY"] = str(seeds["publisher"])
    found = [one["found"] for one in findings(world, code=0)]
    assert "zother: not looked at, this user has no role for it" in found
    world.env["NATS_NKEY"] = str(seeds["agent"])
    said = bad(findings(world, "-q", "zother", code=1), "queue", "permissions")
    assert "this user may not publish" in said
    assert "NATS roles" in said
    assert await contents(nats.url, admin) == before
    del world.env["NATS_NKEY"]
    world.env |= {"NATS_USER": "poor", "NATS_PASSWORD": "p"}
    assert "may do nothing" in bad(findings(world, code=1), "queue", "permissions")
    world.env["NATS_PASSWORD"] = "wrong-one"
    assert "wrong-one" not in bad(findings(world, code=1), "nats")


async def test_an_image_is_asked_for_with_the_login_that_a_worker_would_use(
    world: World, nats: NatsServer, busybox_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "registry", private=True).start()
    try:
        image = registry.push(busybox_image, "doctor/secret:1")
        await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), image, agent=True)
        told = bad(findings(world, code=1), "image")
        assert "the registry wants other credentials" in told
        assert f"(asked {registry.address} with no login) — name a login in the queue's registry_auth" in told

        async def asked(config: Path, spec: QueueSpec | None = None) -> Resolved:
            monkeypatch.setenv("DOCKER_CONFIG", str(config))
            look = EngineLook()
            try:
                return await look.resolve(image, spec)
            finally:
                await look.close()

        refused = await asked(docker_config(tmp_path / "wrong", registry.address, "wrong-one"))
        assert refused.trouble is not None
        assert refused.trouble.startswith("the registry wants other credentials")
        assert "config.json" in refused.login
        assert "wrong-one" not in repr(refused)
        allowed = await asked(docker_config(tmp_path / "right", registry.address))
        assert allowed.trouble is None
        assert allowed.digest.startswith("sha256:")

        login = {"username": USER, "password": {"secret": "registry"}}
        spec = QueueSpec(queue_name="q", provider=LocalProvider(), registry_auth={registry.address: login})
        without = await asked(tmp_path / "right", spec)
        assert "secret 'registry'" in (without.trouble or "")
        assert "LAUNCH_SECRETS" in (without.cure or "")
        await stock(nats.url, spec)
        world.env["LAUNCH_SECRET_REGISTRY"] = PASSWORD
        (line,) = [one["found"] for one in findings(world, code=0) if one["check"] == "image"]
        assert f"asked {registry.address} with the queue's registry_auth" in line
    finally:
        registry.stop()


async def test_jobs_that_agents_would_refuse_and_agents_with_other_clocks(
    world: World, nats: NatsServer, busybox_image: str
) -> None:
    strict = {"images": {"allow": ["ghcr.io/x/**"]}}
    await stock(nats.url, QueueSpec(queue_name="q", provider=LocalProvider()), busybox_image, agent=True, policy=strict)
    told = bad(findings(world, code=1), "policy")
    assert told.startswith("q/1 would be refused by every agent that could take it: images.allow: found docker.io/")
    async with broker_at(nats.url) as broker:
        (one,) = await broker.agents.list("q")
        newer = {"policy": {"rule-of-tomorrow": True}, "at": datetime.now(UTC) - timedelta(minutes=3)}
        await broker.agents.put(one.model_copy(update=newer), ttl_s=60)
    told = bad(findings(world, code=1), "clocks")
    assert re.match(r"q: agents' clocks: a-1 [23]m\d\ds behind the server's — set them by NTP", told)


async def test_a_queue_of_ec2(
    world: World, nats: NatsServer, moto_server: MotoServer, busybox_image: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry").start()
    try:
        image = registry.push(busybox_image, "doctor/agent:1")
        provider = AwsProvider(region=REGION, instance_type="m5.large", nats=NatsAccess(url="nats://n.example"))
        spec = QueueSpec(queue_name="q", max_instances=1, agent_image=image, provider=provider)
        # An image that is here proves nothing for workers that are elsewhere.
        await stock(nats.url, spec, busybox_image, agent=True)
        world.env |= moto_server.env
        found = findings(world, code=0)
        by_check = [(one["check"], one["level"], one["found"]) for one in found]
        assert ("aws", "ok", "q: could launch 1 m5.large on-demand") in by_check
        images = {one["found"].split()[0]: one for one in found if one["check"] == "image"}
        assert images[image]["level"] == "ok"
        assert "workers have no AWS credentials" in images[image]["found"]
        assert images[busybox_image]["level"] == "warn"
    finally:
        registry.stop()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del world.env[key]
    assert "can't tell who we are to AWS" in bad(findings(world, code=1), "aws")


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
