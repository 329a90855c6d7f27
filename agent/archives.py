"""Archives between engine and store: read entry by entry, checked, or made on the fly; memory stays flat."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing

from agent.core.tar import BadTar, Entry, Kind, TarParser, file_header, leads_out, padding, too_long
from launch.core.quantity import show_memory
from launch.errors import LaunchError, StoreError
from launch.files import Files


class TornArchive(LaunchError):
    """An archive that ends too early, or is damaged: what it was made from changed meanwhile, or its maker failed."""


class TarStream:
    """An archive, entry by entry: `next`, then its content if it is wanted."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._parser = TarParser()
        self._found = self._take_apart(pieces)
        self._ahead: Entry | None = None

    async def next(self) -> Entry | None:
        """The next entry, the rest of the one before passed over; None at the end. Raises `TornArchive`."""
        if self._ahead is not None:
            entry, self._ahead = self._ahead, None
            return entry
        async for found in self._found:
            if isinstance(found, Entry):
                return found
        return None

    async def content(self) -> AsyncGenerator[bytes]:
        """The content of the entry that `next` gave, in pieces as they came."""
        async for found in self._found:
            if isinstance(found, Entry):
                self._ahead = found
                return
            yield found

    async def close(self) -> None:
        """Let go of it, wherever it is."""
        await self._found.aclose()

    async def _take_apart(self, pieces: AsyncIterable[bytes]) -> AsyncGenerator[Entry | bytes]:
        async for piece in pieces:
            for found in _fed(self._parser, piece):
                yield found
        _check_end(self._parser)


async def checked(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes; raises `TornArchive` at the end if they are not a whole archive."""
    parser = TarParser()
    async for piece in pieces:
        _fed(parser, piece)
        yield piece
    _check_end(parser)


async def unpacked(pieces: AsyncIterable[bytes], *, max_bytes: int, max_entries: int) -> AsyncGenerator[bytes]:
    """A tar, gzipped or not, as a plain one; nothing of it is handed on that was not looked at.

    Raises `TornArchive` if it is none, or has more in it than it may, what is no file, folder or link, a path or a link
    that leads out of where it is unpacked, or a name that no file system takes.
    """
    parser = TarParser()
    size = entries = 0
    async with aclosing(_gunzipped(pieces)) as plain:
        async for piece in plain:
            size += len(piece)
            if size > max_bytes:
                raise TornArchive(f"it unpacks to more than {show_memory(max_bytes)}")
            for found in _fed(parser, piece):
                if isinstance(found, Entry):
                    entries += 1
                    _check_entry(found)
            if entries > max_entries:
                raise TornArchive(f"it has more than {max_entries} files and folders")
            yield piece
    _check_end(parser)


def _check_entry(entry: Entry) -> None:
    shown = repr(entry.path[:80])
    if entry.kind is Kind.OTHER:
        raise TornArchive(f"it has {shown}, a device, pipe or socket; allowed: files, folders and links")
    if leads_out(entry):
        raise TornArchive(f"it has {shown}, which leads out of its folder; allowed: what stays within")
    if too_long(entry.path) or too_long(entry.link):
        raise TornArchive(f"it has {shown}…, a name that is too long")


async def _gunzipped(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The bytes themselves, or what they are packed from, `_INFLATED_BYTES` at a time."""
    stream, first = None, True
    async for piece in pieces:
        if not piece:
            continue
        rest = piece
        if first:
            first = False
            stream = zlib.decompressobj(_GZIP) if rest[0] == _MAGIC else None
        if stream is None:
            yield rest
            continue
        while rest:
            if stream.eof:  # several packed ones after another are one
                stream = zlib.decompressobj(_GZIP)
            try:
                data = stream.decompress(rest, _INFLATED_BYTES)
            except zlib.error:
                raise TornArchive("it is damaged, or packed by something else than gzip") from None
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
            if data:
                yield data
    if stream is None:
        return
    while not stream.eof:  # a little may be left within
        data = stream.decompress(b"", _INFLATED_BYTES)
        if not data:
            raise TornArchive("it broke off")
        yield data


_GZIP = 31
"""What zlib calls gzip's format."""
_MAGIC = 0x1F
_INFLATED_BYTES = 256 * 1024
"""About a millisecond: no thread is worth it."""


def _fed(parser: TarParser, piece: bytes) -> list[Entry | bytes]:
    try:
        return parser.feed(piece)
    except BadTar as error:
        raise TornArchive(str(error)) from None


def _check_end(parser: TarParser) -> None:
    if not parser.complete:
        raise TornArchive("the archive broke off: the folder changed while it was read, or the engine failed")


async def from_store(files: Files, name: str, path: str, size: int, mode: int) -> AsyncGenerator[bytes]:
    """One stored file as an archive's entry. Raises `StoreError` if it has another size than it should."""
    yield file_header(path, size, mode)
    seen = 0
    async with aclosing(files.read(name)) as pieces:
        async for piece in pieces:
            seen += len(piece)
            if seen > size:
                break
            yield piece
    if seen != size:
        raise StoreError(f"'{name}' has {'more' if seen > size else seen} bytes; its list says {size}")
    yield padding(size)


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are here already, as a stream."""
    yield data
