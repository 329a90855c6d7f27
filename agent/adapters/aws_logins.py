"""Logins to Amazon's registries, with what asks for them read only once a job names one.

AWS's client takes 9 MB of an agent's memory, and most agents never need it.
"""

from __future__ import annotations

import asyncio
import importlib

from agent.ports import Login, LoginSource
from launch.core.registry import ecr_region


class AwsLogins:
    """A `agent.ports.LoginSource` for `*.dkr.ecr.*.amazonaws.com`; of any other registry it knows nothing."""

    def __init__(self) -> None:
        self._logins: LoginSource | None = None
        self._reading = asyncio.Lock()

    async def login(self, registry: str) -> Login | None:
        if ecr_region(registry) is None:
            return None
        async with self._reading:
            if self._logins is None:
                ecr = await asyncio.to_thread(importlib.import_module, "agent.adapters.ecr")
                self._logins = ecr.EcrLogins()
        return await self._logins.login(registry)

    async def close(self) -> None:
        if self._logins is not None:
            await self._logins.close()
