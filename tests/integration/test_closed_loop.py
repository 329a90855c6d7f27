"""The whole circle with the real parts: publish, instance, agent, container, idle, drained, ended.

`launch scaler` is the real command, the server and the engine are real, EC2 is moto behind the fault proxy, and what it
launches are machines that run their user data and with it the real agent.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.adapters.nats import NatsBroker, connect
from launch.aws import AwsProvider, NatsAccess
from launch.queue import QueueSpec
from tests.integration.aws_faults import invariants
from tests.support.aws_proxy import AwsProxy
from tests.support.ec2_faults import Ec2Instance, Faults
from tests.support.fleet import Fleet
from tests.support.moto import REGION, MotoServer
from tests.support.scaler_process import environment, scaler_process
from tests.support.timeline import Timeline

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]
AGENT_IMAGE = "example/agent:1"
BOOT_S = 1.0


class Circle:
    """What a test works with."""

    def __init__(self, url: str, queue: str, image: str, broker: NatsBroker, fleet: Fleet, folder: Path) -> None:
        self.url = url
        self.queue = queue
        self.image = image
        self.broker = broker
        self.fleet = fleet
        self.proxy = fleet.proxy
        self.timeline = Timeline(fleet.proxy)
        self.env = environment(folder, url, fleet.proxy.url)
        self._folder = folder

    async def apply(self, **changes: Any) -> None:
        """The queue; `changes` to its spec."""
        provider = AwsProvider(region=REGION, instance_type="m5.large", nats=NatsAccess(url=self.url))
        spec = {"max_instances": 3, "idle_timeout": 1.0, "agent_image": AGENT_IMAGE, **changes}
        await self.broker.queues.apply(QueueSpec(queue_name=self.queue, provider=provider, **spec))

    async def publish(self, *command: str, count: int = 1) -> None:
        """Jobs of one CPU."""
        body = {"image": self.image, "command": command, "resources": {"cpu": 1, "memory": "64Mi"}}
        for _ in range(count):
            await self.broker.jobs.publish(self.queue, "t", json.dumps(body).encode())

    @asynccontextmanager
    async def scaler(self, **env: str) -> AsyncIterator[Process]:
        """`launch scaler`, from its first look at EC2 to the end of the block."""
        async with scaler_process(self._folder, {**self.env, **env}, self.queue) as process:
            await self.proxy.until(lambda: bool(self.proxy.calls("DescribeInstances")))
            yield process

    async def until_shown(self, words: str) -> None:
        """Wait until the queue's report has these words in it."""
        async with asyncio.timeout(30):
            while True:
                report = await self.broker.scaling.latest(self.queue)
                if report is not None and words in report.model_dump_json():
                    return
                await asyncio.sleep(0.2)  # A report is a value, and nothing tells of a new one.

    async def said(self, *words: str) -> str:
        """What a command prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "launch", *words,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self.env,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()


@pytest.fixture
async def circle(
    moto_server: MotoServer,
    nats_url: str,
    queue_name: str,
    busybox_image: str,
    queue_containers: str,
    tmp_path: Path,
) -> AsyncIterator[Circle]:
    options = ("--cpu", "2", "--memory", "7Gi", "--presence-ttl", "3s")
    broker = await connect(nats_url, name="test")
    async with (
        AwsProxy(moto_server.url, faults=Faults(pending_s=0.5, invisible_s=0.5)) as proxy,
        Fleet(proxy, tmp_path / "fleet", boot_s=(BOOT_S, BOOT_S), agent_options=options) as fleet,
    ):
        made = Circle(nats_url, queue_name, busybox_image, broker, fleet, tmp_path)
        async with made.timeline.kept(broker, queue_name):
            yield made
    await broker.queues.delete(queue_name)
    await broker.close()


async def test_from_a_publish_to_an_instance_and_back_to_nothing(circle: Circle) -> None:
    await circle.apply()
    line = circle.timeline
    async with circle.scaler():
        line.begin()
        line.note("published")
        await circle.publish("true")
        await line.until("RunInstances")
        (instance,) = circle.proxy.live()
        await line.until(f"{instance.id} registered")
        await line.until("job 1 succeeded")
        await circle.proxy.until(lambda: not circle.proxy.live(), 90)
        await line.until(f"{instance.id} has left")
    sys.stdout.write("\n" + "\n".join(line.lines()) + "\n")
    steps = ["published", "RunInstances", f"{instance.id} registered", "job 1 running", "job 1 succeeded",
             f"{instance.id} idle", f"{instance.id} asked to drain", f"{instance.id} drained"]  # fmt: skip
    times = [line.at(step) for step in steps]
    assert times == sorted(times)
    assert instance.ended_at is not None
    assert instance.ended_at - line.began >= line.at(f"{instance.id} drained")
    assert len(circle.proxy.instances) == 1


async def test_an_image_that_cannot_be_pulled_costs_one_instance_at_a_time_and_is_told(circle: Circle) -> None:
    circle.fleet.bad_images.add(AGENT_IMAGE)
    await circle.apply()
    proxy = circle.proxy
    patience = {"LAUNCH_SCALER_BOOT_DEADLINE_S": "20", "LAUNCH_SCALER_BACKOFF_FIRST_S": "1"}
    async with circle.scaler(**patience):
        await circle.publish("sleep", "2", count=6)
        await proxy.until(lambda: bool(proxy.calls("TerminateInstances")), 60)
        (first,) = proxy.instances
        assert circle.fleet.machines[first].agents == []
        await circle.until_shown("its console ends with")
        shown = await circle.said("queue", "show", circle.queue)
        assert f"can't pull {AGENT_IMAGE}" in shown
        assert "never registered" in shown
        await proxy.until(lambda: len(proxy.instances) == 2, 60)
        circle.fleet.bad_images.clear()
        await circle.timeline.until("job 6 succeeded", 90)
        assert invariants.peak(list(proxy.instances.values())[:2]) == 1
        assert invariants.peak(proxy.instances.values()) == 3
        await proxy.until(lambda: not proxy.live(), 60)
    sys.stdout.write("\n" + shown + "\n".join(circle.timeline.lines()) + "\n")


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_leaks_or_doubles_when_things_die(circle: Circle, seed: int) -> None:
    """The same circle with EC2's faults: a scaler killed in the middle, an instance taken away, an agent that dies."""
    proxy, line = circle.proxy, circle.timeline
    proxy.faults = Faults(
        seed=seed, throttled=0.1, lost_reply=0.4, lost_request=0.2, partial=0.5, invisible_s=2.0, pending_s=1.0
    )
    held: dict[str, list[str]] = {}
    end = proxy.on_terminate

    def ended(instance: Ec2Instance) -> None:
        held[instance.id] = line.holds(instance.id)
        end(instance)

    proxy.on_terminate = ended
    await circle.apply()
    async with circle.scaler() as scaler:
        await circle.publish("sleep", "2", count=8)
        await proxy.until(lambda: bool(proxy.calls("RunInstances")))
        scaler.kill()
        await scaler.wait()
    async with circle.scaler():
        await line.until("job 2 running", 90)
        first, *others = proxy.live()
        await circle.fleet.kill_agent(first.id)
        for other in others[:1]:
            await circle.fleet.lose(other.id)
        for job in range(1, 9):
            await line.until(f"job {job} succeeded", 120)
        await proxy.until(lambda: not proxy.live(), 90)
    sys.stdout.write("\n" + "\n".join(line.lines()) + "\n")
    instances = list(proxy.instances.values())
    assert invariants.above_max(instances, 3) == []
    assert invariants.double_launches(proxy.log) == []
    assert invariants.busy_ended(instances, held) == []
