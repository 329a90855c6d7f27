"""The test fleet itself: machines that boot, run user data, have real agents, and die with everything on them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from launch.adapters.nats import NatsBroker, connect
from launch.core.states import Reason, State
from launch.job import JobSpec
from launch.policy import AgentPolicy
from launch.ports import Synced
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from scaler.adapters.aws.userdata import Boot, user_data
from tests.support.aws_proxy import AwsProxy
from tests.support.fleet import Fleet
from tests.support.moto import REGION, MotoServer

pytestmark = [pytest.mark.nats]
LIMIT_S = 30.0
IMAGE = "example/agent:1"


@pytest.fixture
async def proxy(moto_server: MotoServer) -> AsyncIterator[AwsProxy]:
    async with AwsProxy(moto_server.url) as made:
        yield made


@pytest.fixture
async def fleet(proxy: AwsProxy, tmp_path: Path) -> AsyncIterator[Fleet]:
    options = ("--cpu", "2", "--memory", "4Gi", "--presence-ttl", "2s", "--ack-wait", "2s")
    async with Fleet(proxy, tmp_path / "fleet", agent_options=options) as made:
        yield made


@pytest.fixture
async def broker(nats_url: str, queue_name: str) -> AsyncIterator[NatsBroker]:
    link = await connect(nats_url, name="test")
    await link.queues.apply(QueueSpec(queue_name=queue_name))
    yield link
    await link.queues.delete(queue_name)
    await link.close()


async def launch(proxy: AwsProxy, script: str) -> str:
    """One instance that ends when it shuts itself down; its id."""
    session = aioboto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing")
    async with session.client("ec2", endpoint_url=proxy.url, region_name=REGION) as ec2:
        asked: dict[str, Any] = {"ImageId": "ami-12c6146b", "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}
        answer = await ec2.run_instances(**asked, UserData=script)
        return str(answer["Instances"][0]["InstanceId"])


async def until(broker: NatsBroker, agent_id: str, wanted: Callable[[AgentPresence | None], bool]) -> None:
    async with asyncio.timeout(LIMIT_S), aclosing(broker.agents.watch()) as changes:
        async for change in changes:
            if isinstance(change, Synced):
                if wanted(await broker.agents.get(agent_id)):
                    return
            elif change.key == agent_id and wanted(change.value):
                return


def script(queue: str, server: str, **more: Any) -> str:
    return user_data(Boot(queue=queue, image=IMAGE, region=REGION, server=server, **more))


async def test_an_instance_becomes_an_agent_and_ends_when_that_has_left(
    proxy: AwsProxy, fleet: Fleet, broker: NatsBroker, nats_url: str, queue_name: str
) -> None:
    extra = 'mkdir -p /etc/owner; echo "hello from $PWD" >/etc/owner/file; cat /etc/owner/file'
    instance = await launch(proxy, script(queue_name, nats_url, extra=extra))
    await until(broker, instance, lambda presence: presence is not None)
    (call,) = fleet.machines[instance].agents
    assert call.run.image == IMAGE
    assert f"hello from {fleet.machines[instance].folder}" in fleet.machines[instance].said
    assert (fleet.machines[instance].folder / "root/etc/owner/file").is_file()
    present = await broker.agents.get(instance)
    assert present is not None
    os.kill(int(present.labels["pid"]), signal.SIGTERM)
    await proxy.until(lambda: not proxy.instances[instance].live)
    assert proxy.log[-1].action == "shutdown"
    assert "the agent has left" in proxy.console[instance]


@pytest.mark.docker
async def test_what_runs_on_an_instance_dies_with_it(
    proxy: AwsProxy,
    fleet: Fleet,
    broker: NatsBroker,
    nats_url: str,
    queue_name: str,
    busybox_image: str,
    queue_containers: str,
) -> None:
    instance = await launch(proxy, script(queue_name, nats_url))
    spec = JobSpec(job_type="t", image=busybox_image, command=("sleep", "1000"))
    await broker.jobs.publish(queue_name, "t", spec.model_dump_json(exclude_unset=True).encode())
    await running(broker, queue_name)
    assert len(containers(queue_containers)) == 1
    await proxy.lose(instance)
    await fleet.machines[instance].end()
    assert containers(queue_containers) == []
    await until(broker, instance, lambda presence: presence is None)
    assert fleet.running == []


@pytest.mark.docker
async def test_an_instances_agent_keeps_the_queues_policy(
    proxy: AwsProxy, fleet: Fleet, broker: NatsBroker, nats_url: str, queue_name: str, busybox_image: str
) -> None:
    policy = AgentPolicy.model_validate({"images": {"allow": ["ghcr.io/acme/*"]}})
    await launch(proxy, script(queue_name, nats_url, policy=policy.text()))
    spec = JobSpec(job_type="t", image=busybox_image)
    await broker.jobs.publish(queue_name, "t", spec.model_dump_json(exclude_unset=True).encode())
    async with asyncio.timeout(LIMIT_S), aclosing(broker.records.watch(queue=queue_name)) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.value is not None and change.value.state.terminal:
                assert change.value.reason is Reason.POLICY_DENIED
                assert "allowed: ghcr.io/acme/*" in (change.value.message or "")
                return


async def test_an_image_that_is_not_there_shows_on_the_console(
    proxy: AwsProxy, fleet: Fleet, nats_url: str, queue_name: str
) -> None:
    fleet.bad_images.add(IMAGE)
    instance = await launch(proxy, script(queue_name, nats_url))
    await proxy.until(lambda: f"can't pull {IMAGE}" in fleet.machines[instance].said)
    assert "manifest unknown" in fleet.machines[instance].said
    assert fleet.machines[instance].agents == []


async def test_an_agent_that_dies_is_started_again_and_the_machine_lives_on(
    fleet: Fleet, proxy: AwsProxy, broker: NatsBroker, nats_url: str, queue_name: str
) -> None:
    instance = await launch(proxy, script(queue_name, nats_url))
    await until(broker, instance, lambda presence: presence is not None)
    first = await broker.agents.get(instance)
    await fleet.kill_agent(instance)
    await until(broker, instance, lambda one: one is not None and one.labels != (first and first.labels))
    assert len(fleet.machines[instance].agents) == 2


async def running(broker: NatsBroker, queue: str) -> None:
    async with asyncio.timeout(LIMIT_S), aclosing(broker.records.watch(queue=queue)) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.value is not None and change.value.state is State.RUNNING:
                return


def containers(label: str) -> list[str]:
    listed = subprocess.run(
        [shutil.which("docker") or "docker", "ps", "-aq", "--filter", f"label={label}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return listed.stdout.split()
