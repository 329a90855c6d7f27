"""What the file stores' contract suite runs on: each implementation behind one face, with what outsiders can do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Protocol

import nats
import pytest

from launch.adapters.nats.connection import Connection
from launch.adapters.nats.objects import NatsFiles
from launch.adapters.nats.streams import object_store_config
from launch.adapters.s3 import S3Files
from launch.files import Files
from launch.subjects import object_stream
from tests.fakes.broker_link import Link
from tests.fakes.clock import LoopClock
from tests.fakes.files import FakeFiles, FileShelf
from tests.support.moto import REGION, MotoServer
from tests.support.proxy import Proxy


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """The data as a stream; lets others run between two pieces."""
    for start in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[start : start + size]


class FilesWorld(Protocol):
    """One store, empty when opened, that nobody else uses."""

    store: Files
    can_be_full: bool

    async def open(self) -> None:
        """Make it."""
        ...

    async def held_bytes(self) -> int:
        """About how much is stored, what no file needs included."""
        ...

    async def damage(self, name: str) -> None:
        """Change the stored bytes of a file behind everybody's back."""
        ...

    async def limit(self, max_bytes: int) -> None:
        """Let it be full at this size."""
        ...

    async def cut(self) -> None:
        """Make the store unreachable."""
        ...

    async def mend(self) -> None:
        """Make it reachable again."""
        ...

    async def close(self) -> None:
        """Remove it."""
        ...


class FakeFilesWorld:
    """The store in memory."""

    can_be_full = True

    async def open(self) -> None:
        self._shelf = FileShelf()
        self._link = Link("test", LoopClock(), latency_s=0)
        self.store: Files = FakeFiles(self._shelf, self._link)

    async def held_bytes(self) -> int:
        return sum(map(len, self._shelf.files.values()))

    async def damage(self, name: str) -> None:
        self._shelf.damage(name)

    async def limit(self, max_bytes: int) -> None:
        self._shelf.max_bytes = max_bytes

    async def cut(self) -> None:
        self._link.down()

    async def mend(self) -> None:
        self._link.up()

    async def close(self) -> None:
        await self.store.close()


class NatsFilesWorld:
    """An object store on a real server, over a connection that can be cut."""

    can_be_full = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.bucket = f"test-{secrets.token_hex(4)}"

    async def open(self) -> None:
        self._proxy = await Proxy(int(self.url.rpartition(":")[2])).start()
        self.connection = Connection(self._proxy.url)
        await self.connection.open(name="test", credentials=None, timeout_s=5)
        self._outside = await nats.connect(self.url)
        config = object_store_config(self.bucket, 1, max_bytes=2**30)
        await self.connection.api(f"STREAM.CREATE.{config['name']}", config)
        self.store: Files = NatsFiles(self.connection, self.bucket)

    async def held_bytes(self) -> int:
        return (await self._outside.jetstream().stream_info(object_stream(self.bucket))).state.bytes

    async def damage(self, name: str) -> None:  # noqa: ARG002  (the last file stored is the one)
        jetstream, stream = self._outside.jetstream(), object_stream(self.bucket)
        last = await jetstream.get_last_msg(stream, f"$O.{self.bucket}.C.>")
        assert last.seq is not None
        assert last.subject is not None
        assert last.data
        await jetstream.delete_msg(stream, last.seq)
        await jetstream.publish(last.subject, bytes([last.data[0] ^ 1]) + last.data[1:])

    async def limit(self, max_bytes: int) -> None:
        info = await self._outside.jetstream().stream_info(object_stream(self.bucket))
        info.config.max_bytes = max_bytes
        await self._outside.jetstream().update_stream(info.config)

    async def cut(self) -> None:
        await self._proxy.cut()
        await self._until_connected(False)

    async def mend(self) -> None:
        await self._proxy.start()
        await self._until_connected(True)

    async def close(self) -> None:
        await self.store.close()
        await self.connection.close()
        await self._proxy.cut()
        await self._outside.jetstream().delete_stream(object_stream(self.bucket))
        await self._outside.close()

    async def _until_connected(self, wanted: bool) -> None:
        async with asyncio.timeout(20):
            # The connection tells whether it stands, not when that changes.
            while (self.connection.connected_since is not None) is not wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


class S3FilesWorld:
    """A bucket on moto's server, over a connection that can be cut."""

    can_be_full = False

    def __init__(self, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moto = moto
        self.bucket = f"test-{secrets.token_hex(4)}"
        self.plain = moto.client("s3")
        self._monkeypatch = monkeypatch

    async def open(self) -> None:
        self._proxy = await Proxy(int(self.moto.url.rpartition(":")[2])).start()
        for name, value in self.moto.env.items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self._proxy.port}")
        await asyncio.to_thread(
            self.plain.create_bucket,
            Bucket=self.bucket,
            CreateBucketConfiguration={"LocationConstraint": REGION},
        )
        self.store: Files = S3Files(f"s3://{self.bucket}/some/prefix")

    async def held_bytes(self) -> int:
        return await asyncio.to_thread(self._held_bytes)

    def _held_bytes(self) -> int:
        held = sum(item["Size"] for item in self.plain.list_objects_v2(Bucket=self.bucket).get("Contents", ()))
        for upload in self.plain.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ()):
            parts = self.plain.list_parts(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            held += sum(part["Size"] for part in parts.get("Parts", ()))
        return int(held)

    async def damage(self, name: str) -> None:
        await asyncio.to_thread(self._damage, f"some/prefix/{name}")

    def _damage(self, key: str) -> None:
        was = self.plain.get_object(Bucket=self.bucket, Key=key)
        data = was["Body"].read()
        self.plain.put_object(
            Bucket=self.bucket, Key=key, Body=bytes([data[0] ^ 1]) + data[1:], Metadata=was["Metadata"]
        )

    async def limit(self, max_bytes: int) -> None:
        raise NotImplementedError

    async def cut(self) -> None:
        await self._proxy.cut()

    async def mend(self) -> None:
        await self._proxy.start()

    async def close(self) -> None:
        await self.store.close()
        await self._proxy.cut()
        self.plain.close()
