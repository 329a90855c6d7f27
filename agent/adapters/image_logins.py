"""The login that an agent on this machine would pull an image with, and where that is from: for `launch doctor`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from launch.queue import QueueSpec

if TYPE_CHECKING:
    from agent.ports import Login
    from agent.registries import Registries
    from agent.secrets import Secrets


class ImageLogins:
    """Where logins are found, opened when first needed: what asks AWS is slow to load."""

    def __init__(self, sources: str | None = None) -> None:
        """`sources`: where secrets are looked up, as LAUNCH_SECRETS has it (which it is unless given)."""
        self._sources = (sources or os.environ.get("LAUNCH_SECRETS") or "env").split()
        self._registries: Registries | None = None
        self._opening = asyncio.Lock()

    async def find(self, image: str, spec: QueueSpec | None) -> Login:
        """The login, and where it is from. Raises `Unready` if the queue names one that can't be had."""
        from launch.core.registry import registry_of

        registries = await self._open()
        return await registries.login(registry_of(image), spec.registry_auth if spec is not None else {})

    async def close(self) -> None:
        """Let go. Idempotent."""
        registries, self._registries = self._registries, None
        if registries is not None:
            await registries.close()

    async def _open(self) -> Registries:
        from agent.secrets import open_secrets

        async with self._opening:
            if self._registries is None:
                secrets = await open_secrets(self._sources)
                self._registries = await asyncio.to_thread(_registries, secrets)
            return self._registries


def _registries(secrets: Secrets) -> Registries:
    from agent.adapters.docker_config import DockerConfig
    from agent.adapters.ecr import EcrLogins
    from agent.registries import Registries

    return Registries(secrets, DockerConfig(), EcrLogins())
