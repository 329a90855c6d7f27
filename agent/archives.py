"""Archives between engine and store: read entry by entry, checked, or made on the fly; memory stays flat."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing

from agent.core.tar import BadTar, Entry, TarParser, file_header, padding
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
