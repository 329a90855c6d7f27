"""`launch doctor` on who may do what: NATS roles, logins to registries, agents' policies, AWS; all of them real."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.docker_look import EngineLook
from launch.adapters.clock import SystemClock
from launch.adapters.nats.look import Look
from launch.aws import NatsAccess
from launch.doctor import server
from launch.doctor.parts import Resolved
from launch.login import Login
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.server_users import USERS_FILE, secure
from scaler.adapters.aws.checkup import Checkup
from scaler.ports import ProviderRefused, ProviderUnsuitable
from tests.e2e.world import World
from tests.integration.doctor.lab import bad, broker_at, contents, findings, stock
from tests.support.moto import REGION, MotoServer
from tests.support.nats_server import NatsServer
from tests.support.registry import PASSWORD, USER, Registry, docker_config

pytestmark = [pytest.mark.nats, pytest.mark.docker]


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
