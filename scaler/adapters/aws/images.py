"""What is known of instance types, machine images and subnets: looked up once, so that a launch waits for none of it.

An AMI that no spec names is a public one that AWS keeps current, found by its Systems Manager parameter. Images for ECS
are taken because they bring Docker, and with GPUs the driver and the container toolkit, which halves the boot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from launch.aws import AwsProvider as AwsSpec
from launch.ports import Clock
from scaler.adapters.aws.client import Ec2, Refused
from scaler.adapters.aws.errors import Fault, Kind, refusal
from scaler.adapters.aws.request import Machine, MachineImage
from scaler.ports import ProviderUnsuitable

IMAGE_KEPT = timedelta(hours=1)
"""How long a public image counts as the current one."""
_ECS = "/aws/service/ecs/optimized-ami"
_LEARNING = "/aws/service/deeplearning/ami"
PARAMETERS: Mapping[tuple[str, bool], Sequence[str]] = {
    ("x86_64", False): [
        f"{_ECS}/amazon-linux-2023/recommended/image_id",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    ],
    ("arm64", False): [
        f"{_ECS}/amazon-linux-2023/arm64/recommended/image_id",
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
    ],
    ("x86_64", True): [
        f"{_ECS}/amazon-linux-2023/gpu/recommended/image_id",
        f"{_ECS}/amazon-linux-2/gpu/recommended/image_id",
        f"{_LEARNING}/x86_64/base-oss-nvidia-driver-gpu-al2023/latest/ami-id",
    ],
    ("arm64", True): [f"{_LEARNING}/arm64/base-oss-nvidia-driver-gpu-al2023/latest/ami-id"],
}
"""By architecture and whether there are GPUs: the names under which AWS keeps its images, the best first."""


class Catalog:
    """Facts of one region, as far as they were asked for. Raises `ProviderUnavailable` and `ProviderUnsuitable`."""

    def __init__(self, ec2: Ec2, clock: Clock) -> None:
        self._ec2 = ec2
        self._clock = clock
        self._machines: dict[str, Machine] = {}
        self._images: dict[str, MachineImage] = {}
        self._public: dict[tuple[str, bool], tuple[datetime, str]] = {}
        self._zones: dict[str, str] = {}

    async def warm(self, spec: AwsSpec) -> None:
        """Look up all that launches of this spec need, and renew what has become old."""
        machines = await self.machines(spec.instance_type)
        await self.zones(spec.subnets)
        for machine in machines:
            await self.image(spec, machine, renew=True)

    async def machines(self, names: Sequence[str]) -> list[Machine]:
        """What these types are."""
        if missing := [name for name in names if name not in self._machines]:
            answer = await self._ask("describe_instance_types", "instance types", InstanceTypes=missing)
            for item in answer["InstanceTypes"]:
                machine = _machine(item)
                self._machines[machine.name] = machine
            if unknown := [name for name in missing if name not in self._machines]:
                raise ProviderUnsuitable(
                    f"{self._ec2.region} has no instance type {', '.join(unknown)}",
                    hint="set provider.instance_type to a type of this region",
                )
        return [self._machines[name] for name in names]

    async def zones(self, subnets: Sequence[str]) -> Mapping[str, str]:
        """The zone of each of these subnets."""
        if missing := [subnet for subnet in subnets if subnet not in self._zones]:
            answer = await self._ask("describe_subnets", "subnets", SubnetIds=missing)
            self._zones |= {item["SubnetId"]: item["AvailabilityZone"] for item in answer["Subnets"]}
        return self._zones

    async def image(self, spec: AwsSpec, machine: Machine, *, renew: bool = False) -> MachineImage:
        """The image to boot. `renew`: ask anew for a public one that may be old; else what is known is good enough."""
        if spec.ami is not None:
            return await self._described(spec.ami, "set provider.ami to an image of this region, or leave it out")
        kind = machine.architecture, machine.gpus > 0
        known = self._public.get(kind)
        now = self._clock.now()
        if known is None or (renew and now - known[0] > IMAGE_KEPT):
            known = now, await self._find_public(machine, kind)
            self._public[kind] = known
        return await self._described(known[1], "set provider.ami")

    async def _find_public(self, machine: Machine, kind: tuple[str, bool]) -> str:
        fault = Fault(Kind.PARAMETERS, "no image", "none is known")
        for name in PARAMETERS.get(kind, ()):
            try:
                return await self._ec2.parameter(name)
            except Refused as refused:
                fault = refused.fault
                if fault.kind is not Kind.PARAMETERS:
                    raise refusal(fault, f"can't look up an image for {machine.name}", "ssm:GetParameter") from None
        raise ProviderUnsuitable(
            f"{self._ec2.region} has no public image for {machine.name} ({machine.architecture}): {fault}",
            hint="set provider.ami",
        )

    async def _described(self, ami: str, hint: str) -> MachineImage:
        if ami not in self._images:
            answer = await self._ask("describe_images", f"the image {ami}", ImageIds=[ami])
            if not answer["Images"]:
                raise ProviderUnsuitable(f"{self._ec2.region} has no image {ami}", hint=hint)
            self._images[ami] = _image(answer["Images"][0])
        return self._images[ami]

    async def _ask(self, operation: str, what: str, **parameters: Any) -> Any:
        try:
            return await self._ec2.call(operation, tries=3, **parameters)
        except Refused as refused:
            action = "ec2:" + "".join(part.capitalize() for part in operation.split("_"))
            raise refusal(refused.fault, f"can't look up {what}", action) from None


def _machine(item: Any) -> Machine:
    """From DescribeInstanceTypes."""
    architectures = item.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    found = next((name for name in ("x86_64", "arm64") if name in architectures), next(iter(architectures), "x86_64"))
    gpus = item.get("GpuInfo", {}).get("Gpus", [])
    return Machine(
        name=item["InstanceType"],
        cpus=item["VCpuInfo"]["DefaultVCpus"],
        memory_mib=item["MemoryInfo"]["SizeInMiB"],
        gpus=sum(gpu.get("Count", 0) for gpu in gpus if gpu.get("Manufacturer", "NVIDIA").upper() == "NVIDIA"),
        architecture=found,
    )


def _image(item: Any) -> MachineImage:
    """From DescribeImages."""
    root = item.get("RootDeviceName")
    volumes = {
        mapping.get("DeviceName"): mapping["Ebs"] for mapping in item.get("BlockDeviceMappings", []) if "Ebs" in mapping
    }
    return MachineImage(
        id=item["ImageId"],
        architecture=item.get("Architecture", "x86_64"),
        root_device=root if item.get("RootDeviceType", "ebs") == "ebs" else None,
        root_gib=int(volumes.get(root, {}).get("VolumeSize") or 0),
    )
