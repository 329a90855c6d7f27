"""The Docker Engine as `launch doctor` looks at it: what it is, and whether it could pull an image. Changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiodocker.exceptions import DockerError

from agent.adapters.docker import DockerEngine
from agent.adapters.docker_answers import message_of
from agent.adapters.docker_link import LOOK_LIMIT_S
from agent.adapters.image_logins import ImageLogins
from agent.core.outcome import Unready, reason_of_engine_error
from agent.core.registry_login import header_of
from agent.ports import EngineError
from launch.core.registry import registry_of
from launch.core.states import Reason
from launch.doctor.parts import EngineDetails, Resolved
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

    async def resolve(self, image: str, spec: QueueSpec | None) -> Resolved:
        """What the registry has under that name, asked with the login that an agent here would pull it with.

        What it refuses is told as that agent's record would.
        """
        registry = registry_of(image)
        try:
            login = await self._logins.find(image, spec)
        except Unready as error:
            cure = "put it where LAUNCH_SECRETS or --secrets names, or correct the queue's registry_auth"
            return Resolved(registry, "no login", trouble=error.message, cure=error.hint or cure)
        told = f"{login.source}; {login.trouble}" if login.trouble else login.source
        header = header_of(login.credential, registry) if login.credential is not None else None
        try:
            return Resolved(registry, told, await self._digest(image, {"X-Registry-Auth": header} if header else {}))
        except EngineError as error:
            fault = reason_of_engine_error(error)
            return Resolved(registry, told, trouble=fault.message, cure=_CURES.get(fault.reason))

    async def _digest(self, image: str, headers: Mapping[str, str]) -> str:
        # As the step "pull": what the registry says to the engine is the same.
        with self._translated("pull"):
            async with asyncio.timeout(RESOLVE_LIMIT_S):
                path = f"distribution/{quote(image, safe='/:@')}/json"
                async with self._request("GET", path, {}, headers=headers) as reply:
                    said = await reply.text()
                    if not reply.ok:
                        raise DockerError(reply.status, message_of(said))
                    return str(json.loads(said)["Descriptor"]["digest"])


_CURES: Final = {
    Reason.IMAGE_UNAUTHORIZED: "name a login in the queue's registry_auth, or docker login as the agent's user",
    Reason.IMAGE_NOT_FOUND: "push it, or correct its name and tag",
    Reason.IMAGE_PULL_FAILED: "docker pull says more",
    Reason.INVALID_SPEC: "correct the image's name",
}
