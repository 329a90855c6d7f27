"""What a job left: its manifest found and read, whichever store it is in.

A manifest comes from outside: its paths are checked here, once, before anything is made of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from launch.core.states import State
from launch.errors import NotFound, StoreError
from launch.files import IN_NATS, ArtifactFile, Files, Manifest
from launch.ports import Broker
from launch.record import JobRecord
from launch.stores import open_store
from launch.subjects import manifest_name

MAX_MANIFEST_BYTES = 64 * 1024**2
"""Room for some hundred thousand files."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What one attempt left, and where it lies; `store` is open as long as whoever gave this says."""

    manifest: Manifest
    store: Files
    error: str | None = None
    """Why not everything could be stored, if that is so."""


@asynccontextmanager
async def open_artifacts(broker: Broker, record: JobRecord, attempt: int | None = None) -> AsyncGenerator[Artifacts]:
    """What an attempt of the job left; without `attempt` the last one that left something.

    Raises `NotFound`, which says why there is nothing, and `StoreError`.
    """
    where, name, error = await _stored(broker, record, attempt)
    store = await open_store(where, broker)
    try:
        try:
            manifest = await read_manifest(store, name)
        except NotFound as missing:
            if attempt is not None and (record.artifacts is None or record.artifacts.manifest != name):
                raise NotFound(f"attempt {attempt} of {record.id} left no artifacts") from missing
            raise NotFound(f"the artifacts of {record.id} are no longer in {_shown(where)}") from missing
        yield Artifacts(manifest, store, error)
    finally:
        await store.close()


async def _stored(broker: Broker, record: JobRecord, attempt: int | None) -> tuple[str, str, str | None]:
    """The store, the manifest's name in it, and what went wrong when it was stored.

    Raises `NotFound` or `StoreError`.
    """
    last = record.artifacts
    if attempt is not None:
        if not 1 <= attempt <= record.attempt:
            tried = "none" if record.attempt == 0 else f"1 to {record.attempt}"
            raise NotFound(f"{record.id} has no attempt {attempt}; there are: {tried}")
        name = manifest_name(record.id, record.submitted_at, attempt)
        past = [found.artifacts for found in await broker.records.history(record.id)]
        known = [found for found in (*past, last) if found is not None and found.manifest == name]
        if known:
            return known[-1].where, name, known[-1].error
        if attempt == record.attempt and not record.state.terminal:
            raise NotFound(_nothing_yet(record))
        return last.where if last else IN_NATS, name, None
    if last is None:
        if record.state.terminal:
            hint = "a job leaves what it puts into the folder named in $LAUNCH_ARTIFACTS, and what artifacts: names"
            raise NotFound(f"{record.id} left no artifacts", hint=hint)
        raise NotFound(_nothing_yet(record))
    if last.manifest is None:
        if last.error:
            raise StoreError(f"the artifacts of {record.id} could not be stored: {last.error}")
        raise NotFound(f"{record.id} left no artifacts")
    return last.where, last.manifest, last.error


def _nothing_yet(record: JobRecord) -> str:
    state = "has not started" if record.state is State.QUEUED else f"is {record.state}"
    return f"{record.id} {state}; artifacts are stored when it ends"


def _shown(where: str) -> str:
    return "NATS" if where == IN_NATS else where


async def read_manifest(store: Files, name: str) -> Manifest:
    """A manifest by its name in the store, its paths checked. Raises `NotFound` and `StoreError`."""
    body = bytearray()
    async with aclosing(store.read(name)) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MAX_MANIFEST_BYTES:
                raise StoreError(f"the manifest {name} has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = Manifest.model_validate_json(bytes(body))
    except ValueError as error:
        raise StoreError(f"the manifest {name} can't be read: it is none") from error
    check_paths(manifest.files)
    return manifest


def check_paths(files: Sequence[ArtifactFile]) -> None:
    """Raises `StoreError` unless each path is relative, stays below where it starts, and is there once."""
    seen = set()
    for file in files:
        parts = file.path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in file.path:
            raise StoreError(f"a manifest names the path {file.path[:200]!r}; allowed: relative ones without '..'")
        if file.path in seen:
            raise StoreError(f"a manifest names the path {file.path[:200]!r} twice")
        seen.add(file.path)


def matching(files: Sequence[ArtifactFile], patterns: Sequence[str]) -> list[ArtifactFile]:
    """The files that any pattern means: shell wildcards over the whole path, or a folder; all if there is none.

    Raises `NotFound` for a pattern that means nothing.
    """
    if not patterns:
        return list(files)
    taken = set()
    for pattern in patterns:
        folder = pattern.rstrip("/") + "/"
        found = [f.path for f in files if fnmatch.fnmatchcase(f.path, pattern) or f.path.startswith(folder)]
        if not found:
            some = ", ".join(f.path for f in files[:5]) + (", …" if len(files) > 5 else "")
            raise NotFound(f"no artifact matches '{pattern}'", hint=f"there are: {some}" if files else "there are none")
        taken.update(found)
    return [file for file in files if file.path in taken]
