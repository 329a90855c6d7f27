"""Ships a folder as a job's code: packed into one file, named by its content, sent to the store once.

The invariant: the same content gives the same bytes (names sorted; no owners, no times but one fixed), so
the same SHA-256, so nothing to send. Everything in it may be read and written by any user: which one an image runs as
is not known here, and the container is the boundary. Memory stays flat: the pack grows in a temporary file.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.core.quantity import show_memory
from launch.errors import LaunchError, StoreError
from launch.files import Files
from launch.folder import Contents, Entry, largest, shown, survey, unreadable
from launch.gitstate import git_state
from launch.job import CodeRef

DEFAULT_LIMIT_BYTES = 256 << 20
"""What a folder may take, packed, unless told otherwise."""

PIECE_BYTES = 256 << 10

_LEVEL = 3
"""Little is won above for code, and much time lost."""

_TIME = 315_619_200
"""What every entry's time is: the second day of 1980, since zip files made of such a folder know none before 1980, and
some tools fail over it."""

Progress = Callable[[int, int], None]
"""Hears while a pack is sent: how many bytes have gone, and how many there are."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A folder as one file, a gzipped tar."""

    path: Path
    sha256: str
    size: int
    warnings: tuple[str, ...]
    """What is worth saying about the folder; for people."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A folder that is in the store."""

    ref: CodeRef
    sent: bool
    """Whether it had to be sent; else it was there."""
    warnings: tuple[str, ...]


class _Stopped(Exception):
    """Nobody waits for the result any more."""


async def ship(
    store: Files, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES, progress: Progress | None = None
) -> Shipped:
    """Put `folder` into the store, unless it is there. Raises `LaunchError`, and what the store raises."""
    state = await git_state(folder)
    with tempfile.TemporaryDirectory(prefix="launch-code-") as place:
        packed = await _pack_in_thread(folder, Path(place) / "code.tar.gz", limit_bytes)
        ref = CodeRef(sha256=packed.sha256, size=packed.size, commit=state.commit, dirty=state.dirty)
        there = await store.info(packed.sha256)
        if there is not None and there.size == packed.size:
            return Shipped(ref, sent=False, warnings=packed.warnings)
        stored = await store.put(packed.sha256, _pieces(packed, progress), size=packed.size)
        if stored.sha256 != packed.sha256:
            raise StoreError("the store holds something else than what was sent", hint="try again")
    return Shipped(ref, sent=True, warnings=packed.warnings)


def pack(
    folder: Path, into: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES, keep_on: Callable[[], None] = lambda: None
) -> Packed:
    """Pack `folder` into the file `into`; `keep_on` is called all the while and may raise to end it.

    Raises `LaunchError` if something can't be read, changes meanwhile or leads outside, or it gets too large.
    """
    found = survey(folder, keep_on)
    with into.open("wb") as file:
        out = _Out(file, limit_bytes)
        try:
            with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=out, mtime=0) as zipped:
                _write_tar(found, zipped, keep_on)
        except _TooLarge:
            raise _too_large(folder, found, limit_bytes) from None
    return Packed(into, out.digest.hexdigest(), out.size, tuple(found.warnings))


async def _pack_in_thread(folder: Path, into: Path, limit_bytes: int) -> Packed:
    """`pack` beside the loop; a cancel ends it at its next step, so that nothing outlives its temporary folder."""
    stopped = threading.Event()

    def keep_on() -> None:
        if stopped.is_set():
            raise _Stopped

    packing = asyncio.ensure_future(asyncio.to_thread(pack, folder, into, limit_bytes=limit_bytes, keep_on=keep_on))
    try:
        return await asyncio.shield(packing)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([packing])
        packing.exception()
        raise


async def _pieces(packed: Packed, progress: Progress | None) -> AsyncGenerator[bytes]:
    sent = 0
    with packed.path.open("rb") as file:  # just written, so in the page cache
        while piece := file.read(PIECE_BYTES):
            yield piece
            sent += len(piece)
            if progress:
                progress(sent, packed.size)


# -- writing --------------------------------------------------------------------------------------------------------


class _TooLarge(Exception):
    """The pack has outgrown its limit."""


class _Out:
    """Where the compressed bytes go: counted, hashed, bounded."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._file = file
        self._limit = limit_bytes
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > self._limit:
            raise _TooLarge
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


class _Watched:
    """A file that is read to its end and no further, while `keep_on` lets it."""

    def __init__(self, file: IO[bytes], keep_on: Callable[[], None]) -> None:
        self._file = file
        self._keep_on = keep_on

    def read(self, size: int = -1, /) -> bytes:
        self._keep_on()
        return self._file.read(size)


def _write_tar(found: Contents, into: gzip.GzipFile, keep_on: Callable[[], None]) -> None:
    # GNU's format: it takes names of any length and any bytes, and has no header that depends on the machine.
    with tarfile.open(
        fileobj=into, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        tar.addfile(_header("./", tarfile.DIRTYPE, 0o777))
        for entry in found.entries:
            keep_on()
            if entry.link is not None:
                header = _header(f"./{entry.path}", tarfile.SYMTYPE, 0o777)
                header.linkname = entry.link
                tar.addfile(header)
            elif stat.S_ISDIR(entry.status.st_mode):
                tar.addfile(_header(f"./{entry.path}", tarfile.DIRTYPE, 0o777))
            else:
                _add_file(tar, found.root, entry, keep_on)


def _header(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # its owners are 0, their names empty
    header.mtime = _TIME
    header.type = kind
    header.mode = mode
    return header


def _add_file(tar: tarfile.TarFile, root: Path, entry: Entry, keep_on: Callable[[], None]) -> None:
    path = root / entry.path
    try:
        # What was a file when it was listed may be a pipe by now: never wait for one, never follow a link.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise unreadable(error, root) from None
    with file:
        before = os.fstat(file.fileno())
        if _changed(entry.status, before):
            raise _changing(entry)
        header = _header(f"./{entry.path}", tarfile.REGTYPE, 0o666 | (0o111 if before.st_mode & 0o111 else 0))
        header.size = before.st_size
        try:
            tar.addfile(header, _Watched(file, keep_on))
        except _TooLarge:
            raise
        except OSError as error:
            if error.errno is None:  # tarfile's own: the file ended too early
                raise _changing(entry) from None
            raise LaunchError(f"{shown(str(path))} can't be packed: {error.strerror}") from None
        if file.read(1) or _changed(before, os.fstat(file.fileno())):
            raise _changing(entry)


def _changed(one: os.stat_result, other: os.stat_result) -> bool:
    def marks(status: os.stat_result) -> tuple[int, ...]:
        return status.st_ino, status.st_dev, stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns

    return marks(one) != marks(other)


def _changing(entry: Entry) -> LaunchError:
    return LaunchError(
        f"{shown(entry.path)} changed while the folder was packed",
        hint="try again when nothing writes there, or leave it out by a line in .gitignore",
    )


def _too_large(folder: Path, found: Contents, limit_bytes: int) -> LaunchError:
    whole = sum(entry.status.st_size for entry in found.entries if stat.S_ISREG(entry.status.st_mode))
    return LaunchError(
        f"{shown(str(folder))} ({show_memory(whole)} unpacked) is more than {show_memory(limit_bytes)} when packed; "
        "the largest in it:\n  " + "\n  ".join(largest(found.entries)) + "\nleave what is no code out by lines in "
        ".gitignore or .dockerignore, give data as --input, or allow more with --code-limit"
    )
