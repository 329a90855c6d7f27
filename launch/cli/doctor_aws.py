"""The doctor's look at AWS, loaded only where a queue has its workers there: the SDK is slow to load."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launch.doctor.parts import Cloud
    from launch.ports import Clock, Documents
    from launch.queue import QueueSpec


class LazyCloud:
    """`launch.doctor.parts.Cloud`."""

    def __init__(self, *, server_url: str, clock: Clock) -> None:
        self._server_url = server_url
        self._clock = clock

    async def identity(self, spec: QueueSpec) -> str:
        """See `Cloud`."""
        return await (await self._real()).identity(spec)

    async def dry_run(self, spec: QueueSpec, documents: Documents) -> str:
        """See `Cloud`."""
        return await (await self._real()).dry_run(spec, documents)

    async def _real(self) -> Cloud:
        def load() -> Cloud:
            from scaler.adapters.aws.checkup import Checkup

            return Checkup(server_url=self._server_url, clock=self._clock)

        return await asyncio.to_thread(load)
