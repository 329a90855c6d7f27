"""Docker: whether it answers, its disk and GPU runtime, and whether images can be had."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence

from launch.core import doctor
from launch.core.doctor import Finding, Level, fail, ok, warn
from launch.doctor.bounded import bounded
from launch.doctor.parts import Engine
from launch.doctor.queue import Wanted
from launch.errors import LaunchError

IMAGE_LIMIT_S = 15.0
START = "start it (systemctl start docker), and let this user reach its socket; DOCKER_HOST names another"


async def engine(docker: Engine, *, needed: bool, gpus: Callable[[], Sequence[str]]) -> list[Finding]:
    """The engine here. `needed`: some queue's workers run on this machine, as far as can be told."""
    try:
        details = await docker.details()
    except LaunchError as error:
        if needed:
            return [fail("docker", error.message, START)]
        return [warn("docker", error.message, f"no worker runs here, so only if one is to: {START}")]
    found = [ok("docker", f"Docker Engine {details.version} at {details.host}")]
    if details.root is not None:
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, details.root)
            found.append(doctor.disk(usage.free, details.root))
        except OSError as error:
            found.append(warn("disk", f"{details.root}: {error.strerror}", "look at it as root: df -h"))
    found.append(doctor.gpu_runtime(len(await asyncio.to_thread(gpus)), details.runtimes))
    return found


async def images(docker: Engine, wanted: Sequence[Wanted], *, here: bool) -> list[Finding]:
    """Whether each image is on the engine, or can be had: each once.

    `here`: workers run on this machine; else what fails here may work there, and is a warning.
    """
    cure = "see whether the registry can be reached"
    looks = [bounded("image", _image(docker, one), cure=cure, limit_s=IMAGE_LIMIT_S) for one in wanted]
    found = await asyncio.gather(*looks)
    lines = [line for lines in found for line in lines]
    if here:
        return lines
    note = " (asked from here; workers ask from their own machines)"
    return [
        Finding(line.check, Level.WARN, line.found + note, line.cure) if line.level is Level.FAIL else line
        for line in lines
    ]


async def _image(docker: Engine, wanted: Wanted) -> list[Finding]:
    image, by = wanted.image, wanted.by
    if await docker.has(image):
        return [ok("image", f"{image} is on this engine ({by})")]
    try:
        digest = await docker.resolve(image, wanted.spec)
    except LaunchError as error:
        return [fail("image", f"{image} ({by}): {error.message}", error.hint or "check the name, and the registry")]
    return [ok("image", f"{image} can be pulled: {digest} ({by})")]
