"""Files of a manifest, brought into a folder.

The invariant: a file appears under its own name whole and verified, or not at all; nothing is written outside the
folder, whatever the manifest says and whatever links lie in the folder; nothing that differs is overwritten unless
asked for. Everything is checked before the first byte is fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from launch.core.quantity import show_memory
from launch.errors import Conflict, LaunchError, StoreError
from launch.files import ArtifactFile, Files

AT_ONCE = 4
_HASHED_BYTES = 1024**2

Fetching = Callable[[ArtifactFile, int], None]
"""Told of every piece that has come: the file, and how many bytes."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch did."""

    folder: Path
    files: tuple[ArtifactFile, ...]
    """Written."""
    kept: tuple[ArtifactFile, ...]
    """There already, whole."""


async def fetch(
    store: Files,
    files: Sequence[ArtifactFile],
    folder: Path,
    *,
    force: bool = False,
    progress: Fetching | None = None,
) -> Fetched:
    """Bring the files into the folder, made if it is not there. Their paths must have been checked.

    Raises `Conflict` if one is there and differs (unless `force`), `LaunchError` if one can't be written, and
    `StoreError`.
    """
    base, kept = await asyncio.to_thread(_prepare, folder, files, force=force)
    missing = [file for file in files if file.path not in kept]
    umask = os.umask(0o077)
    os.umask(umask)
    queue = iter(missing)

    async def work() -> None:
        for file in queue:
            await _fetch_one(store, file, base, umask, progress)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(min(AT_ONCE, len(missing))):
                group.create_task(work(), name=f"fetch {number}")
    except* LaunchError as errors:
        raise errors.exceptions[0] from None
    return Fetched(folder, tuple(missing), tuple(file for file in files if file.path in kept))


def _prepare(folder: Path, files: Sequence[ArtifactFile], *, force: bool) -> tuple[Path, set[str]]:
    """The folder, made, and the paths that need no fetching. Raises `LaunchError`."""
    with _os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        base = folder.resolve(strict=True)
        kept = _already_there(base, files, force=force)
        wanted = sum(file.size for file in files if file.path not in kept)
        free = shutil.disk_usage(base).free
    if wanted > free:
        raise LaunchError(f"{base} has room for {show_memory(free)}; the files need {show_memory(wanted)}")
    return base, kept


def _already_there(base: Path, files: Sequence[ArtifactFile], *, force: bool) -> set[str]:
    """The paths that need no fetching. Raises `Conflict` for those that are something else."""
    kept = set()
    differing = []
    for file in files:
        target = _target(base, file)
        try:
            found = target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISDIR(found.st_mode):
            raise Conflict(f"{target} is a folder; the artifact of that name is a file")
        if stat.S_ISREG(found.st_mode) and found.st_size == file.size and _sha256(target) == file.sha256:
            kept.add(file.path)
        else:
            differing.append(str(target))
    if differing and not force:
        some = ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        raise Conflict(f"{some}: there already, and not the same", hint="--force overwrites; another folder keeps both")
    return kept


def _target(base: Path, file: ArtifactFile) -> Path:
    """Where the file goes. Raises `LaunchError` if a link on the way leads out of the folder."""
    target = base / file.path
    try:
        inside = target.parent.resolve().is_relative_to(base)
    except RuntimeError:  # a link to itself
        inside = False
    if not inside:
        raise LaunchError(f"{target}: a link on this path leads out of {base}; nothing is written there")
    return target


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()


async def _fetch_one(store: Files, file: ArtifactFile, base: Path, umask: int, progress: Fetching | None) -> None:
    with _os_errors(base / file.path):
        target = _made_way(base, file)
        with _temporary(target) as part:
            digest = await _receive(store, file, part, progress)
            if digest != file.sha256:
                raise StoreError(f"'{file.path}' is not what the manifest says: its checksum is another")
            part.flush()
            os.fchmod(part.fileno(), (0o666 | (0o111 if file.mode & 0o100 else 0)) & ~umask)
            os.replace(part.name, target)  # noqa: PTH105  (a name, not a path)


def _made_way(base: Path, file: ArtifactFile) -> Path:
    """Where the file goes, its folder made."""
    _target(base, file).parent.mkdir(parents=True, exist_ok=True)
    return _target(base, file)


async def _receive(store: Files, file: ArtifactFile, part: IO[bytes], progress: Fetching | None) -> str:
    digest = hashlib.sha256()
    size = 0
    async with aclosing(store.read(file.name)) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > file.size:
                raise StoreError(f"'{file.path}' is not what the manifest says: it is larger than {file.size} bytes")
            digest.update(piece)
            await asyncio.to_thread(part.write, piece)
            if progress is not None:
                progress(file, len(piece))
    if size != file.size:
        raise StoreError(f"'{file.path}' is not what the manifest says: it has {size} bytes, not {file.size}")
    return digest.hexdigest()


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[IO[bytes]]:
    """A file beside the target, gone at the end of the block unless it was renamed."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".launch-", suffix=".part", delete=False) as part:
        try:
            yield part.file
        finally:
            Path(part.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LaunchError(f"can't write {path}: {error.strerror or error}") from error
