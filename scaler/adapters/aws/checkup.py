"""AWS as `launch doctor` looks at it: who we are, and a launch that is only tried. Starts nothing."""

from __future__ import annotations

import asyncio

from aiobotocore.config import AioConfig

from launch.adapters.aws import prepared_session
from launch.aws import AwsProvider as AwsSpec
from launch.errors import LaunchError
from launch.ports import Clock, Documents
from launch.queue import QueueSpec
from scaler.adapters.aws.client import CONFIG, Refused, open_ec2
from scaler.adapters.aws.errors import VENDOR_ERRORS, fault_of, refusal
from scaler.adapters.aws.provider import AwsProvider
from scaler.adapters.aws.request import Request
from scaler.main import CLUSTER_KEY
from scaler.ports import ProviderUnsuitable

WOULD_HAVE = "DryRunOperation"
"""EC2's word for a dry run that would have succeeded."""


class Checkup:
    """`launch.doctor.parts.Cloud`."""

    def __init__(self, *, server_url: str, clock: Clock) -> None:
        """`server_url` is where the scaler would find NATS."""
        self._server_url = server_url
        self._clock = clock

    async def identity(self, spec: QueueSpec) -> str:
        """Account and ARN, from STS."""
        region = _aws(spec).region
        try:
            session = await asyncio.to_thread(prepared_session, "sts", region=region)
            if session is None:
                raise LaunchError(f"no AWS region is known for queue {spec.queue_name}", hint="set provider.region")
            async with session.client("sts", config=AioConfig(**CONFIG)) as sts:
                found = await sts.get_caller_identity()
        except (*VENDOR_ERRORS, ValueError) as error:
            raise refusal(fault_of(error), "can't tell who we are to AWS", "sts:GetCallerIdentity") from None
        return f"{found['Arn']} in account {found['Account']}, {region}"

    async def dry_run(self, spec: QueueSpec, documents: Documents) -> str:
        """Ask EC2 for one instance as the scaler would, as a dry run."""
        _aws(spec)
        known = await documents.get(CLUSTER_KEY)
        cluster = known.value.decode(errors="replace") if known is not None else "none-yet"
        provider = await AwsProvider.open(spec, cluster=cluster, server_url=self._server_url, clock=self._clock)
        try:
            proposal = await provider.propose(spec, 1)
        finally:
            await provider.close()
        asked = Request.model_validate_json(proposal.request)
        ec2 = open_ec2(asked.region)
        try:
            await ec2.call("run_instances", tries=2, **asked.run, DryRun=True)
        except Refused as refused:
            if refused.fault.code != WOULD_HAVE:
                raise refusal(refused.fault, f"EC2 would not launch {proposal.note}", "ec2:RunInstances") from None
        finally:
            await ec2.close()
        return proposal.note


def _aws(spec: QueueSpec) -> AwsSpec:
    if not isinstance(spec.provider, AwsSpec):
        raise ProviderUnsuitable(f"queue {spec.queue_name} is not one of the AWS provider")
    return spec.provider
