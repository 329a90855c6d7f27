"""A file store in memory, true to `launch.files.Files`."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from launch.errors import BrokerUnavailable, NotFound, StoreClosed, StoreError, StoreUnavailable
from launch.files import IN_NATS, StoredFile
from tests.fakes.broker_link import Link

PIECE_BYTES = 64 * 1024


class FileShelf:
    """What one store holds, whoever is connected; `max_bytes` is when it is full."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.max_bytes = 2**40

    def damage(self, name: str) -> None:
        """Fault: a byte of the file is turned over, or one appears in an empty one; its checksum stays."""
        data = self.files[name]
        self.files[name] = _Damaged(bytes([data[0] ^ 1]) + data[1:] if data else b"?", _sha256(data))


class _Damaged(bytes):
    """Bytes that remember the checksum of what they were."""

    sha256: str

    def __new__(cls, data: bytes, sha256: str) -> _Damaged:
        made = super().__new__(cls, data)
        made.sha256 = sha256
        return made


def _sha256(data: bytes) -> str:
    return data.sha256 if isinstance(data, _Damaged) else hashlib.sha256(data).hexdigest()


class FakeFiles:
    """`launch.files.Files`; with a link, a connection that can fail."""

    def __init__(self, shelf: FileShelf, link: Link | None = None, *, where: str = IN_NATS) -> None:
        self._shelf = shelf
        self._link = link
        self._where = where

    @property
    def where(self) -> str:
        """`IN_NATS`, or what the test says."""
        return self._where

    async def put(self, name: str, data: AsyncIterable[bytes], *, size: int | None = None) -> StoredFile:
        """Whole or not at all; takes time, and may fail, at every piece."""
        del size
        async with self._request():
            _check_name(name)
        taken = bytearray()
        kept = sum(len(held) for held in self._shelf.files.values())
        async for piece in data:
            async with self._request():
                taken += piece
            if kept + len(taken) > self._shelf.max_bytes:
                raise StoreClosed(f"store {name}: the store is full")
        async with self._request():
            self._shelf.files[name] = bytes(taken)
        return self._stored(name)

    async def info(self, name: str) -> StoredFile | None:
        """What is there."""
        async with self._request():
            _check_name(name)
            return self._stored(name) if name in self._shelf.files else None

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        """In pieces."""
        async with self._request():
            _check_name(name)
            data = self._shelf.files.get(name)
        if data is None:
            raise NotFound(f"there is no file '{name}'")
        for start in range(0, len(data), PIECE_BYTES):
            async with self._request():
                piece = data[start : start + PIECE_BYTES]
            yield piece
        if hashlib.sha256(data).hexdigest() != _sha256(data):
            raise StoreError(f"'{name}' is damaged: its checksum is wrong")

    async def list(self, prefix: str) -> builtins.list[StoredFile]:
        """By name."""
        async with self._request():
            return [self._stored(name) for name in sorted(self._shelf.files) if name.startswith(prefix)]

    async def delete(self, name: str) -> None:
        """Gone, if it was there."""
        async with self._request():
            _check_name(name)
            self._shelf.files.pop(name, None)

    async def close(self) -> None:
        """Nothing of its own."""

    def _stored(self, name: str) -> StoredFile:
        data = self._shelf.files[name]
        return StoredFile(name, len(data), _sha256(data))

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[None]:
        try:
            async with self._link.request() if self._link is not None else contextlib.nullcontext():
                yield
        except BrokerUnavailable as error:
            raise StoreUnavailable(error.message) from error


def _check_name(name: str) -> None:
    if not 0 < len(name.encode()) <= 1024:
        raise StoreError(f"a file's name has {len(name.encode())} bytes; allowed: 1 to 1024")
