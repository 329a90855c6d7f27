"""The scaler's own small documents (KV `scaler`): bytes, changed only by compare-and-set."""

from __future__ import annotations

from launch import subjects
from launch.adapters.nats.bucket import Bucket
from launch.adapters.nats.connection import Connection
from launch.ports import Versioned


class NatsDocuments:
    """`launch.ports.Documents`."""

    def __init__(self, connection: Connection) -> None:
        self._bucket = Bucket(connection, subjects.SCALER_BUCKET)

    async def get(self, key: str) -> Versioned[bytes] | None:
        entry = await self._bucket.get(key)
        return None if entry is None else Versioned(entry.value or b"", entry.revision)

    async def create(self, key: str, value: bytes) -> int:
        return await self._bucket.create(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._bucket.update(key, value, revision)

    async def delete(self, key: str) -> None:
        if await self._bucket.get(key) is not None:
            await self._bucket.delete(key)
