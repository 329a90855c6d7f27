"""Docker: whether it answers, its disk and GPU runtime, and whether images can be had."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence

from launch.core import doctor
from launch.core.doctor import Finding, Level, fail, ok, warn
from launch.core.registry import ecr_region, registry_of
from launch.doctor.bounded import bounded
from launch.doctor.parts import Engine
from launch.doctor.queue import Wanted
from launch.job import Pull
from launch.queue import AwsProvider

IMAGE_LIMIT_S = 15.0
SHORT_DIGEST = len("sha256:") + 12
REGISTRY = "check the image's name, and whether the registry can be reached"
START = "start it (systemctl start docker), and let this user reach its socket; DOCKER_HOST names another"


async def engine(docker: Engine, *, gpus: Callable[[], Sequence[str]]) -> list[Finding]:
    """The engine here."""
    details = await docker.details()
    found = [ok("docker", f"Docker Engine {details.version} at {details.host}")]
    if details.root is not None:
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, details.root)
            found.append(doctor.disk(usage.free, details.root))
        except OSError as error:
            found.append(warn("disk", f"{details.root}: {error.strerror}", "look at it as root: df -h"))
    found.append(doctor.gpu_runtime(len(await asyncio.to_thread(gpus)), details.runtimes))
    return found


def unneeded(found: Sequence[Finding]) -> list[Finding]:
    """The same where no worker runs on this machine, as far as can be told: what fails is only worth a warning."""
    return [
        warn(line.check, line.found, f"no worker runs here, so only if one is to: {line.cure}")
        if line.level is Level.FAIL
        else line
        for line in found
    ]


async def images(docker: Engine, wanted: Sequence[Wanted]) -> list[Finding]:
    """Whether each image is on the engine, or can be had: each once."""
    cure = "see whether the registry can be reached"
    looks = [bounded("image", _image(docker, one), cure=cure, limit_s=IMAGE_LIMIT_S) for one in wanted]
    found = await asyncio.gather(*looks)
    return [
        line if one.here else _elsewhere(line, one) for one, lines in zip(wanted, found, strict=True) for line in lines
    ]


async def _image(docker: Engine, wanted: Wanted) -> list[Finding]:
    """Where workers are on other machines, an image on this one proves nothing, and the registry is asked."""
    image, by = wanted.image, wanted.by
    if wanted.here and wanted.pull is not Pull.ALWAYS and await docker.has(image):
        return [ok("image", f"{image} is on this engine ({by})")]
    if wanted.pull is Pull.NEVER:
        text = f"{image} ({by}): the job says pull: never, and it is not on this engine"
        return [fail("image", text, f"load it on every worker: docker pull {image}")]
    resolved = await docker.resolve(image, wanted.spec)
    asked = f"asked {resolved.registry} with {resolved.login}"
    if resolved.trouble is not None:
        return [fail("image", f"{image} ({by}): {resolved.trouble} ({asked})", resolved.cure or REGISTRY)]
    return [ok("image", f"{image} can be pulled: {resolved.digest[:SHORT_DIGEST]} ({by}; {asked})")]


def _elsewhere(line: Finding, wanted: Wanted) -> Finding:
    """What was found here, with what it says of workers on other machines."""
    provider = wanted.spec.provider if wanted.spec is not None else None
    if not isinstance(provider, AwsProvider):
        note = "asked from here; workers ask from their own machines"
    elif provider.iam_profile is not None:
        note = f"asked from here, with this machine's AWS credentials; workers have the profile {provider.iam_profile}"
    else:
        note = "asked from here; workers have no AWS credentials, as the queue names no iam_profile"
        if line.level is Level.OK and ecr_region(registry_of(wanted.image)) is not None:
            return fail("image", f"{line.found} ({note})", "set provider.iam_profile to one that may read ECR")
    level = Level.WARN if line.level is Level.FAIL else line.level
    return Finding(line.check, level, f"{line.found} ({note})", line.cure)
