"""The Docker Engine as `launch doctor` looks at it: what it is, and whether it could pull an image. Changes nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiodocker.exceptions import DockerError

from agent.adapters.docker import DockerEngine
from agent.adapters.docker_answers import message_of
from agent.adapters.docker_link import LOOK_LIMIT_S
from agent.adapters.image_logins import ImageLogins
from agent.ports import EngineError
from launch.doctor.parts import EngineDetails
from launch.errors import LaunchError
from launch.queue import QueueSpec

RESOLVE_LIMIT_S: Final = 12.0


class EngineLook(DockerEngine):
    """One engine, looked at."""

    def __init__(self, host: str | None = None) -> None:
        """`host` is as in `EngineLink`."""
        super().__init__(host)
        self._logins = ImageLogins()

    async def close(self) -> None:
        """Release the connection. Idempotent."""
        await self._logins.close()
        await super().close()

    async def details(self) -> EngineDetails:
        """What it is."""
        with self._translated("answer"):
            async with asyncio.timeout(LOOK_LIMIT_S):
                found = await self._client().system.info()
            runtimes = [*(found.get("Runtimes") or {})]
            runtimes += [str(device.get("ID", "")) for device in found.get("DiscoveredDevices") or []]
            root = str(found.get("DockerRootDir") or "")
            here = self.host.startswith("unix://") and Path(root).is_absolute()
            known = here and await asyncio.to_thread(Path(root).exists)
            return EngineDetails(str(found["ServerVersion"]), self.host, root if known else None, tuple(runtimes))

    async def has(self, image: str) -> bool:
        """Whether the image is on it."""
        return await self.image(image) is not None

    async def resolve(self, image: str, spec: QueueSpec | None) -> str:
        """The digest that the registry has under that name. Raises `LaunchError`."""
        header = await self._logins.header(image, spec)
        headers = {"X-Registry-Auth": header} if header else {}
        try:
            with self._translated("resolve"):
                async with asyncio.timeout(RESOLVE_LIMIT_S):
                    docker = self._client()
                    await docker.version()  # settles which API is spoken
                    name = quote(image, safe="/:@")
                    url = f"{docker.docker_host}/{docker.api_version}/distribution/{name}/json"
                    async with docker.session.get(url, headers=headers) as reply:
                        said = await reply.text()
                        if not reply.ok:
                            raise DockerError(reply.status, message_of(said))
                        return str(json.loads(said)["Descriptor"]["digest"])
        except EngineError as error:
            raise _told(error) from None


def _told(error: EngineError) -> LaunchError:
    """What the engine says of the registry, in words."""
    text = " ".join(error.reply.split())
    low = text.lower()
    if error.status in (401, 403) or "unauthorized" in low or "denied" in low or "no basic auth" in low:
        hint = "does it exist? docker login REGISTRY as the agent's user, or name credentials in the queue"
        return LaunchError(f"the registry refuses it: {text}", hint=hint)
    if error.status == 404 or "manifest unknown" in low or "not found" in low:
        return LaunchError(f"there is no such image: {text}", hint="push it, or correct its name and tag")
    return LaunchError(f"can't be resolved: {text}", hint="can the engine reach the registry? docker pull says more")
