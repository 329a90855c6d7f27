"""Which store a record or a queue means by `where`, and how it is opened."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from launch.files import IN_NATS, Files
from launch.ports import Broker


class Stores:
    """The stores that one process uses, each opened when it is first asked for; they share one S3 client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._opening = asyncio.Lock()
        self._opened: dict[str, Files] = {}
        self._s3_client: Any = None

    async def open(self, where: str | None) -> Files:
        """The store at `where`: `IN_NATS` (or None, as a queue has it), else an `s3://` URL.

        It is closed with this object, not by who asked for it. Raises `StoreError` if `where` is no store.
        """
        if where is None or where == IN_NATS:
            return self._broker.artifacts
        async with self._opening:
            found = self._opened.get(where)
            if found is None:
                # In a thread: the import reads a lot, and most processes never need it.
                s3 = await asyncio.to_thread(importlib.import_module, "launch.adapters.s3")
                if self._s3_client is None:
                    self._s3_client = s3.S3Client()
                found = self._opened[where] = s3.S3Files(where, self._s3_client)
            return found

    async def close(self) -> None:
        """Release the connections that are not the broker's. Idempotent."""
        async with self._opening:
            self._opened.clear()
            client, self._s3_client = self._s3_client, None
            if client is not None:
                await client.close()


async def open_store(where: str | None, broker: Broker) -> Files:
    """One store for one use: `close` it. Whoever opens several, or opens them again, keeps a `Stores`."""
    if where is None or where == IN_NATS:
        return broker.artifacts
    s3 = await asyncio.to_thread(importlib.import_module, "launch.adapters.s3")
    store: Files = s3.S3Files(where)
    return store
