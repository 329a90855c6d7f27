"""`scaler.ports.Provider` on EC2: what is asked of it, and how that becomes calls.

Invariants: `list` and `propose` wait for nothing once the provider is open; an intent becomes one RunInstances with the
request that it holds and its own token, however often it is launched; only instances that carry this queue's and this
cluster's tags are seen or ended.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import urlsplit

import structlog
from pydantic import ValidationError

from launch.aws import AwsProvider as AwsSpec
from launch.core.capacity import Amount
from launch.ports import Clock
from launch.queue import QueueSpec
from scaler.adapters.aws.client import Ec2, Refused, open_ec2
from scaler.adapters.aws.console import story_of
from scaler.adapters.aws.errors import Fault, Kind, refusal
from scaler.adapters.aws.images import Catalog
from scaler.adapters.aws.mirror import VISIBLE_S, Mirror, instance_of
from scaler.adapters.aws.request import Request, build, capacity_of, places, smallest
from scaler.adapters.aws.shortages import Shortages
from scaler.adapters.aws.watch import Pace, Watch
from scaler.core.instance import Instance, StopMode
from scaler.core.intent import Intent
from scaler.ports import Launched, Proposal, ProviderRefused, ProviderUnavailable, ProviderUnsuitable

_log = structlog.get_logger(__name__)


class AwsProvider:
    """The EC2 instances of one queue. Make it with `open`."""

    def __init__(self, queue: str, ec2: Ec2, *, cluster: str, server_url: str, clock: Clock, pace: Pace) -> None:
        self._queue = queue
        self._ec2 = ec2
        self._cluster = cluster
        self._server_url = server_url
        self._clock = clock
        self._catalog = Catalog(ec2, clock)
        self._shortages = Shortages()
        self._mirror = Mirror()
        self._watch = Watch(ec2, self._mirror, self._catalog, queue=queue, cluster=cluster, pace=pace)
        self._closed = False

    @classmethod
    async def open(
        cls, spec: QueueSpec, *, cluster: str, server_url: str, clock: Clock, pace: Pace | None = None
    ) -> AwsProvider:
        """Look at what exists, and up what launches need. Raises `ProviderUnavailable` or `ProviderUnsuitable`.

        `cluster` tells installations that share an AWS account apart, and must stay the same; `server_url` is where
        the scaler finds NATS: it counts for instances whose spec names no other.
        """
        aws = _aws(spec)
        ec2 = open_ec2(aws.region)
        provider = cls(spec.queue_name, ec2, cluster=cluster, server_url=server_url, clock=clock, pace=pace or Pace())
        try:
            await provider._watch.start(aws)
        except BaseException:
            await provider.close()
            raise
        return provider

    async def list(self) -> Sequence[Instance]:
        """See `Provider`. From memory."""
        self._check_open()
        self._watch.check()
        return self._mirror.instances()

    async def capacity(self, spec: QueueSpec) -> Amount:
        """See `Provider`. Of several types the smallest in each dimension."""
        self._check_open()
        machines = await self._catalog.machines(self._chosen(spec).instance_type)
        return smallest([capacity_of(machine, spec) for machine in machines])

    async def propose(self, spec: QueueSpec, count: int) -> Proposal:
        """See `Provider`. Raises `ProviderRefused` while every place is known to have no capacity."""
        self._check_open()
        aws = self._chosen(spec)
        options = places(aws, await self._catalog.zones(aws.subnets))
        place, wait_s = self._shortages.choose(options, self._clock.now())
        if place is None:
            tried = ", ".join(map(str, options[:6])) + (" …" if len(options) > 6 else "")
            raise ProviderRefused(f"EC2 has no capacity for {tried}", retry_after_s=wait_s)
        (machine,) = await self._catalog.machines([place.instance_type])
        image = await self._catalog.image(aws, machine)
        try:
            request, config = build(
                spec, aws, place, machine, image, server=self._server(aws), cluster=self._cluster, count=count
            )
        except ValueError as error:
            raise ProviderUnsuitable(f"can't launch for queue {spec.queue_name}: {error}") from None
        asked = int(request.run["MaxCount"])
        return Proposal(
            count=asked,
            request=request.model_dump_json(exclude_none=True),
            config=config,
            capacity=capacity_of(machine, spec),
            note=f"{asked} {place}",
        )

    async def launch(self, intent: Intent) -> Launched:
        """See `Provider`."""
        self._check_open()
        try:
            request = Request.model_validate_json(intent.request)
        except ValidationError:
            raise ProviderUnsuitable(f"the intent {intent.id} holds no request to EC2") from None
        if request.region != self._ec2.region:
            raise ProviderUnsuitable(f"the intent {intent.id} is for {request.region}, not for {self._ec2.region}")
        known = self._mirror.of_intent(intent.id)
        if len(known) >= intent.count:
            return Launched(known)
        try:
            answer = await self._ec2.launch(request.with_intent(intent))
        except Refused as refused:
            return await self._not_launched(intent, request, refused.fault)
        items = answer["Instances"]
        made = self._mirror.launched(items, asyncio.get_running_loop().time())
        self._watch.hurry()
        if len(items) >= int(request.run["MaxCount"]):
            self._shortages.clear(request.place)
            return Launched(made)
        self._shortages.note(request.place, self._clock.now())
        return Launched(made, f"EC2 had {len(items)} of {request.run['MaxCount']} {request.place}")

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        """See `Provider`. To drain is for the agent, which the loop asks: the instance ends with it."""
        self._check_open()
        entry = self._mirror.entries.get(instance_id)
        if entry is None:
            return
        if mode is StopMode.DRAIN:
            self._mirror.draining(instance_id)
            return
        if not entry.ended:
            await self._watch.terminate(instance_id)
        self._watch.hurry()

    def agent_left(self, instance_id: str) -> None:
        """See `Provider`: the machine shuts itself down with its agent, and fills a place until EC2 has shown that."""
        if instance_id in self._mirror.entries:
            self._watch.expect()

    async def explain(self, instance_id: str) -> str:
        """See `Provider`: why it is in its state, and the end of what it wrote to its console."""
        self._check_open()
        known = self._mirror.stories.get(instance_id)
        entry = self._mirror.entries.get(instance_id)
        if known is None and entry is None:
            return ""
        ours = entry is not None and entry.end_asked_s is not None
        return await story_of(self._ec2, instance_id, known, ours=ours)

    async def changes(self) -> AsyncGenerator[None]:
        """See `Provider`."""
        changed = self._mirror.listen()
        try:
            while True:
                yield
                await changed.wait()
                changed.clear()
        finally:
            self._mirror.unlisten(changed)

    async def drain(self, timeout_s: float) -> Sequence[str]:  # noqa: ARG002 - the port's signature
        """See `Provider`: instances outlive the scaler."""
        return []

    async def force(self, timeout_s: float) -> Sequence[str]:  # noqa: ARG002 - as above
        """See `Provider`: instances outlive the scaler."""
        return []

    async def close(self) -> None:
        """See `Provider`."""
        if not self._closed:
            self._closed = True
            await self._watch.stop()
            await self._ec2.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable(f"the AWS provider of queue {self._queue} is closed")

    def _chosen(self, spec: QueueSpec) -> AwsSpec:
        """The section that counts now; what it needs is looked up in the background from here on."""
        aws = _aws(spec)
        if aws.region != self._ec2.region:
            raise ProviderUnsuitable(
                f"queue {spec.queue_name} was moved from {self._ec2.region} to {aws.region}",
                hint="start the scaler anew once its instances there have ended",
            )
        self._watch.spec = aws
        return aws

    def _server(self, aws: AwsSpec) -> str:
        """Where an instance's agent finds NATS. Raises `ValueError` if only this machine could."""
        if aws.nats.url is not None:
            return aws.nats.url
        for url in self._server_url.split(","):
            host = urlsplit(url if "://" in url else f"nats://{url}").hostname or ""
            if re.fullmatch(r"localhost|127\..*|::1|0\.0\.0\.0|", host):
                raise ValueError(f"provider.nats.url is not set, and an instance can't reach the scaler's own {host}")
        if "@" in self._server_url:
            raise ValueError("provider.nats.url is not set, and the scaler's own address has a login in it")
        return self._server_url

    async def _not_launched(self, intent: Intent, request: Request, fault: Fault) -> Launched:
        """What a refused launch comes to."""
        if fault.encoded:
            _log.warning("not authorized", queue=self._queue, code=fault.code, encoded=fault.encoded)
        if fault.kind is Kind.CAPACITY:
            self._shortages.note(request.place, self._clock.now())
            return Launched((), f"EC2 has no {request.place} ({fault})")
        if fault.kind is Kind.MISMATCH:
            return await self._launched_before(intent, fault)
        raise refusal(fault, f"can't launch {request.place}", "ec2:RunInstances")

    async def _launched_before(self, intent: Intent, fault: Fault) -> Launched:
        """The token was used with another request: what it started then carries the intent's tag."""
        items = await self._watch.of_intent(intent.id)
        now_s = asyncio.get_running_loop().time()
        if made := self._mirror.launched([item for item in items if instance_of(item)], now_s):
            return Launched(made)
        young = (self._clock.now() - intent.created_at).total_seconds() < VISIBLE_S
        if not items and young:
            raise ProviderUnavailable(f"what intent {intent.id} started is not visible yet: {fault}")
        return Launched(())


def _aws(spec: QueueSpec) -> AwsSpec:
    if not isinstance(spec.provider, AwsSpec):
        raise ProviderUnsuitable(f"queue {spec.queue_name} is not one of the AWS provider")
    return spec.provider
