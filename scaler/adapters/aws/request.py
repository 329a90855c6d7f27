"""From a queue's spec to one call of RunInstances, and back from what EC2 tells to what an instance is.

Pure. Invariants: the same spec, place and facts make the same request, to the letter; with the same intent it is sent
with the same token and tags. The tags are the truth about what exists: queue, cluster, intent, configuration, capacity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.aws import AwsProvider as AwsSpec
from launch.aws import Market
from launch.core.capacity import Amount
from launch.queue import QueueSpec
from scaler.adapters.aws.userdata import Boot, user_data
from scaler.core.intent import Intent

TAG = "nats-launch:"
MIB = 1024**2
KERNEL_SHARE = 0.075
"""Of a type's nominal memory, what the firmware and the kernel keep: 3 to 7 % were seen, this is the careful end."""
RESERVE_BYTES = 512 * MIB
"""What the rest of the system, the engine and the agent need (measured: about 150 MiB each); no job gets it."""
MAX_COUNT = 100
"""Instances a call."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An instance type. `gpus` counts those that the agent can see, which are NVIDIA's."""

    name: str
    cpus: int
    memory_mib: int
    gpus: int
    architecture: str


@dataclass(frozen=True, slots=True)
class MachineImage:
    """An AMI: its root device, if that is a volume, and how large that is at least."""

    id: str
    architecture: str
    root_device: str | None
    root_gib: int = 0


class Place(BaseModel):
    """What instances are asked for, and where."""

    model_config = ConfigDict(frozen=True)

    instance_type: str
    market: Market
    subnet: str | None = None
    zone: str | None = None

    def __str__(self) -> str:
        where = self.zone or self.subnet
        return f"{self.instance_type} {self.market}" + (f" in {where}" if where else "")


class Request(BaseModel):
    """What goes into an intent."""

    model_config = ConfigDict(frozen=True)

    region: str
    place: Place
    run: dict[str, Any]
    """The parameters of RunInstances, all but the token and the intent's tag."""

    def with_intent(self, intent: Intent) -> dict[str, Any]:
        """The call itself."""
        run = json.loads(json.dumps(self.run))
        for specification in run["TagSpecifications"]:
            specification["Tags"].append({"Key": f"{TAG}intent", "Value": intent.id})
        return {**run, "ClientToken": intent.token[:64]}


def places(spec: AwsSpec, zones: Mapping[str, str]) -> list[Place]:
    """Where instances may come from, in the order of trying: zone by zone, then the next type, then the next market."""
    markets = [Market.SPOT, Market.ON_DEMAND] if spec.market is Market.SPOT_THEN_ON_DEMAND else [spec.market]
    subnets = spec.subnets or (None,)
    return [
        Place(instance_type=name, market=market, subnet=subnet, zone=zones.get(subnet) if subnet else None)
        for market in markets
        for name in spec.instance_type
        for subnet in subnets
    ]


def reserve_bytes(machine: Machine) -> int:
    """Memory that jobs don't get, over what the kernel keeps."""
    return min(RESERVE_BYTES, machine.memory_mib * MIB // 4)


def capacity_of(machine: Machine, spec: QueueSpec) -> Amount:
    """What the agent of such an instance will offer at least. Its own measure, once it is there, is the truth."""
    memory_bytes = int(machine.memory_mib * MIB * (1 - KERNEL_SHARE)) - reserve_bytes(machine)
    return Amount(
        cpu_milli=machine.cpus * 1000,
        memory_bytes=memory_bytes,
        gpus=machine.gpus,
        slots=spec.max_jobs_per_agent or max(1, machine.cpus),
    )


def smallest(amounts: list[Amount]) -> Amount:
    """The least of each dimension."""
    return Amount(
        cpu_milli=min(amount.cpu_milli for amount in amounts),
        memory_bytes=min(amount.memory_bytes for amount in amounts),
        gpus=min(amount.gpus for amount in amounts),
        slots=min(amount.slots for amount in amounts),
    )


def build(
    spec: QueueSpec, aws: AwsSpec, place: Place, machine: Machine, image: MachineImage,
    *, server: str, cluster: str, count: int,
) -> tuple[Request, str]:  # fmt: skip
    """The request, and the fingerprint of its launch configuration: everything but place, number and tags.

    Raises `ValueError` for what can't be asked of EC2.
    """
    if image.architecture != machine.architecture:
        raise ValueError(f"{image.id} is made for {image.architecture}, and {machine.name} is {machine.architecture}")
    configuration = _configuration(spec, aws, machine, image, server)
    fingerprint = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]
    run: dict[str, Any] = {
        **configuration,
        "MinCount": 1,
        "MaxCount": min(count, MAX_COUNT),
        "TagSpecifications": _tags(spec, aws, machine, cluster=cluster, config=fingerprint),
    }
    if place.subnet is not None:
        run["SubnetId"] = place.subnet
    if place.market is Market.SPOT:
        run["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return Request(region=aws.region, place=place, run=run), fingerprint


def _configuration(spec: QueueSpec, aws: AwsSpec, machine: Machine, image: MachineImage, server: str) -> dict[str, Any]:
    if spec.agent_image is None:
        raise ValueError("agent_image is not set; allowed: the image that an instance runs the agent from")
    script = user_data(
        Boot(
            queue=spec.queue_name,
            image=spec.agent_image,
            region=aws.region,
            server=server,
            credentials=aws.nats.credentials,
            job_types=spec.job_types or (),
            max_jobs=spec.max_jobs_per_agent,
            secrets=aws.secrets,
            labels=aws.labels,
            gpus=machine.gpus,
            reserve_bytes=reserve_bytes(machine),
            policy=None if aws.agent_policy is None else aws.agent_policy.text(),
            extra=aws.user_data or "",
        )
    )
    asked: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": machine.name,
        "UserData": script,
        "InstanceInitiatedShutdownBehavior": "terminate",
        # Hop limit 1: the agent, in the host's network, gets the machine's role; a job's container does not.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
    }
    if image.root_device is not None:
        volume: dict[str, Any] = {"DeleteOnTermination": True, "VolumeType": aws.volume_type or "gp3"}
        if aws.volume_size is not None and aws.volume_size < image.root_gib:
            raise ValueError(f"volume_size is {aws.volume_size} GiB; {image.id} needs at least {image.root_gib}")
        if size := aws.volume_size or image.root_gib:
            volume["VolumeSize"] = size
        asked["BlockDeviceMappings"] = [{"DeviceName": image.root_device, "Ebs": volume}]
    if aws.security_groups:
        asked["SecurityGroupIds"] = list(aws.security_groups)
    if aws.key_name is not None:
        asked["KeyName"] = aws.key_name
    if aws.iam_profile is not None:
        asked["IamInstanceProfile"] = {"Arn" if aws.iam_profile.startswith("arn:") else "Name": aws.iam_profile}
    return asked


def _tags(spec: QueueSpec, aws: AwsSpec, machine: Machine, *, cluster: str, config: str) -> list[dict[str, Any]]:
    capacity = capacity_of(machine, spec)
    tags = {
        "Name": f"nats-launch {spec.queue_name}",
        **aws.tags,
        f"{TAG}queue": spec.queue_name,
        f"{TAG}cluster": cluster,
        f"{TAG}config": config,
        f"{TAG}capacity": f"{capacity.cpu_milli}/{capacity.memory_bytes}/{capacity.gpus}/{capacity.slots}",
    }
    return [
        {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind in ("instance", "volume")
    ]


def capacity_in(tag: str | None) -> Amount:
    """What `nats-launch:capacity` says; nothing, if it is not there or spoilt."""
    parts = (tag or "").split("/")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return Amount()
    cpu_milli, memory_bytes, gpus, slots = map(int, parts)
    return Amount(cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=gpus, slots=slots)
