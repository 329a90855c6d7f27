"""The whole circle with the real parts: publish, instance, agent, container, idle, drained, ended.

`launch scaler` is the real command, the server and the engine are real, EC2 is moto behind the fault proxy, and what it
launches are machines that run their user data and with it the real agent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.adapters.nats import NatsBroker, connect
from launch.aws import AwsProvider, NatsAccess
from launch.queue import QueueSpec
from tests.support.aws_proxy import AwsProxy
from tests.support.ec2_faults import Faults
from tests.support.fleet import Fleet
from tests.support.moto import REGION, MotoServer
from tests.support.timeline import Timeline

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow, pytest.mark.timeout(180)]
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
        self._folder = folder

    @property
    def env(self) -> dict[str, str]:
        """What a command is run with."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "AWS_"))}
        return {
            **kept,
            "HOME": str(self._folder),
            "LAUNCH_DATA_DIR": str(self._folder),
            "NATS_URL": self.url,
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

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
    async def scaler(self, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`launch scaler`, from its first line to the end of the block."""
        with (self._folder / "scaler.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "launch", "scaler", "-q", self.queue,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env={**self.env, **env},
            )  # fmt: skip
        try:
            await self.proxy.until(lambda: bool(self.proxy.calls("DescribeInstances")))
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()

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
