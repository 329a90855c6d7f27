"""AWS: who we are there, and whether what the scaler would launch could be launched."""

from __future__ import annotations

from launch.core.doctor import Finding, Level, ok
from launch.doctor.bounded import bounded
from launch.doctor.parts import Cloud
from launch.ports import Documents
from launch.queue import QueueSpec

LIMIT_S = 12.0
"""For each of the two."""
CREDENTIALS = "give AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
POLICY = "see docs/operating.md for what the scaler's role must be allowed"


async def cloud(aws: Cloud, spec: QueueSpec, documents: Documents) -> list[Finding]:
    """Both, one after the other: without an identity the dry run would only say the same again."""

    async def identity() -> list[Finding]:
        return [ok("aws", f"{spec.queue_name}: {await aws.identity(spec)}")]

    async def dry_run() -> list[Finding]:
        return [ok("aws", f"{spec.queue_name}: could launch {await aws.dry_run(spec, documents)}")]

    found = await bounded("aws", identity(), cure=CREDENTIALS, limit_s=LIMIT_S)
    if found[0].level is Level.OK:
        found += await bounded("aws", dry_run(), cure=POLICY, limit_s=LIMIT_S)
    return found
