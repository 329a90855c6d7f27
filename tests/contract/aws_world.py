"""EC2 for the suite of providers: moto behind the fault proxy, which knows tokens and is slow to show what is new."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack

from launch.adapters.clock import SystemClock
from launch.aws import NatsAccess
from launch.core.capacity import Amount
from launch.queue import AwsProvider as AwsSpec
from launch.queue import QueueSpec
from scaler.adapters.aws.provider import AwsProvider
from scaler.adapters.aws.watch import Pace
from tests.support.aws_proxy import AwsProxy
from tests.support.ec2_faults import Faults
from tests.support.moto import REGION, MotoServer

PACE = Pace(fast_s=0.05, slow_s=0.2, hurry_s=0.0)
PROVIDER = AwsSpec(region=REGION, instance_type="m5.large", nats=NatsAccess(url="nats://nats.example:4222"))


class AwsWorld:
    """One account; `cluster` keeps it apart from those of other tests, which share moto."""

    outlives = True

    def __init__(self, moto: MotoServer, faults: Faults | None = None) -> None:
        self.cluster = f"c-{secrets.token_hex(4)}"
        self.proxy = AwsProxy(moto.url, faults=faults or Faults(invisible_s=0.3, pending_s=0.2, shutting_s=0.2))
        self.spec = QueueSpec(
            queue_name="work", max_instances=5, max_jobs_per_agent=3, agent_image="example/agent:1", provider=PROVIDER
        )
        self.changed_spec = self.spec.model_copy(
            update={"provider": PROVIDER.model_copy(update={"instance_type": ("g4dn.xlarge",)})}
        )
        self.capacity = Amount(cpu_milli=2000, memory_bytes=7408818585, slots=3)
        self._busy = False
        self._open = AsyncExitStack()

    async def open(self, queue: str = "work", *, busy: bool = False) -> AwsProvider:
        self._busy = self._busy or busy
        provider = await AwsProvider.open(
            self.spec.model_copy(update={"queue_name": queue}),
            cluster=self.cluster,
            server_url="nats://127.0.0.1:4222",
            clock=SystemClock(),
            pace=PACE,
        )
        self._open.push_async_callback(provider.close)
        return provider

    async def start(self) -> None:
        """The proxy must be there before the environment names it."""
        await self._open.enter_async_context(self.proxy)

    async def until_up(self, agent_id: str) -> None:
        """An instance whose agent runs is one that EC2 shows: the proxy does from this moment on."""
        await asyncio.sleep(max(0.0, self.proxy.instances[agent_id].visible_at - time.time()))

    async def heed(self, agent_id: str) -> None:
        if not self._busy:
            await self.proxy.shut_down(agent_id)

    async def end(self, agent_id: str) -> None:
        await self.proxy.lose(agent_id)

    async def close(self) -> None:
        await self._open.aclose()
