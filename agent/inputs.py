"""What goes into a container before it starts: shipped code, other jobs' artifacts, what lies under an `s3://` prefix.

Everything streams from store to engine. What a spec names and is not there is the submitter's to mend, and fails the
job at once with a message that says how; a store that does not answer is the infrastructure's fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import ValidationError

from agent.archives import TornArchive, from_store, unpacked
from agent.core.outcome import Unready
from agent.core.tar import END, clean_path, folder_header, too_long
from agent.ports import Engine, EngineError
from launch.core.states import Reason
from launch.errors import NotFound, StoreError, StoreUnavailable, Unreadable
from launch.files import Files, Manifest
from launch.job import CodeRef, Input, JobSpec
from launch.ports import Records
from launch.stores import Stores
from launch.subjects import INPUTS_DIR, JobId

MAX_MANIFEST_BYTES = 64 * 1024**2
MAX_CODE_BYTES = 16 * 1024**3
"""Unpacked: so much, and no more, a small file can become on the worker's disk."""
MAX_CODE_ENTRIES = 1_000_000
FOLDER_MODE = 0o777
"""Any user of the container may add to what came in; its files anybody may read."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file on its way: its name in the store, where it goes (relative to the input's folder)."""

    name: str
    path: str
    size: int
    mode: int


async def put_code(engine: Engine, files: Files, container: str, code: CodeRef, folder: str) -> None:
    """Unpack the job's code in its working directory."""
    try:
        async with aclosing(files.read(code.sha256)) as pieces, aclosing(_as_named(pieces, code)) as named:
            # It is checked at the end what the store gave; before that nothing is started.
            archive = unpacked(named, max_bytes=MAX_CODE_BYTES, max_entries=MAX_CODE_ENTRIES)
            try:
                async with aclosing(archive):
                    await engine.put(container, folder, archive)
            except TornArchive as error:
                async for _ in named:
                    pass  # that somebody has replaced it would be the reason to tell
                raise StoreError(error.message) from None
    except NotFound:
        raise Unready(
            Reason.INVALID_SPEC,
            f"the job's code ({code.sha256[:12]}) is not in the code store: submit the job again with --code, "
            "which sends it",
        ) from None
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise Unready(Reason.INVALID_SPEC, f"the job's code can't be used: {error.message}") from None


async def _as_named(pieces: AsyncGenerator[bytes], code: CodeRef) -> AsyncGenerator[bytes]:
    """The same pieces; raises `StoreError` if they are not what the job names: whoever may store may replace."""
    digest = hashlib.sha256()
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > code.size:
            raise StoreError(f"it is larger than the {code.size} bytes that the job says")
        digest.update(piece)
        yield piece
    if digest.hexdigest() != code.sha256:
        raise StoreError("its checksum is not the one that the job names: somebody has replaced it")


async def put_inputs(engine: Engine, stores: Stores, records: Records, container: str, spec: JobSpec) -> None:
    """Put every input where the job expects it."""
    for number, given in enumerate(spec.inputs):
        source = given.job or given.s3 or ""
        folder = (given.path or f"{INPUTS_DIR}/{_own_name(given)}").strip("/")
        try:
            if given.job is not None:
                files, wanted = await _of_job(stores, records, JobId.parse(given.job))
            else:
                files, wanted = await _of_prefix(stores, source)
            new = await engine.stat(container, f"/{folder}") is None
            async with aclosing(_archive(files, folder, wanted, new=new)) as archive:
                await engine.put(container, "/", archive)
        except StoreUnavailable:
            raise
        except (StoreError, Unreadable) as error:
            raise Unready(Reason.INVALID_SPEC, f"inputs.{number} ({source}): {error.message}") from None
        except EngineError as error:
            if "not a directory" not in error.reply.lower():
                raise
            why = f"inputs.{number} ({source}) can't go to /{folder}: {error.reply}"
            raise Unready(Reason.INVALID_SPEC, why) from None


def _own_name(given: Input) -> str:
    """An input's own folder in `$LAUNCH_INPUTS`."""
    if given.job is not None:
        return given.job.replace("/", "-")
    return (given.s3 or "").rpartition("/")[2]


async def _of_job(stores: Stores, records: Records, job: JobId) -> tuple[Files, list[_File]]:
    """Another job's artifacts. Raises `StoreError` if there are none to be had."""
    known = await records.get(job)
    if known is None or not known.value.state.terminal:
        state = known.value.state if known is not None else "queued, or there is no such job"
        raise StoreError(f"that job has not ended ({state}): submit this one when it has")
    stored = known.value.artifacts
    if stored is None or stored.manifest is None:
        why = f": {stored.error}" if stored is not None and stored.error else ""
        raise StoreError(f"that job left no artifacts{why}")
    files = await stores.open(stored.where)
    body = bytearray()
    try:
        async with aclosing(files.read(stored.manifest)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > MAX_MANIFEST_BYTES:
                    raise StoreError("the list of its artifacts is too large")
        manifest = Manifest.model_validate_json(bytes(body))
    except NotFound:
        raise StoreError("its artifacts have been deleted") from None
    except ValidationError:
        raise StoreError("the list of its artifacts can't be read") from None
    found = ((file.name, file.path, file.size, file.mode) for file in manifest.files)
    return files, list(_checked(found))


async def _of_prefix(stores: Stores, where: str) -> tuple[Files, list[_File]]:
    """What lies under a prefix."""
    files = await stores.open(where)
    listed = await files.list("")
    if not listed:
        raise StoreError("there is nothing under that prefix")
    # A name that ends in a slash stands for a folder, which some tools store as an empty file.
    found = ((file.name, file.name, file.size, 0o644) for file in listed if not file.name.endswith("/"))
    return files, list(_checked(found))


def _checked(found: Iterable[tuple[str, str, int, int]]) -> Iterable[_File]:
    """Only paths that stay where they are put: a list may have been written by anybody."""
    seen = set()
    for name, path, size, mode in found:
        clean = clean_path(path)
        if clean is None or path.startswith("/"):
            raise StoreError(f"the list names a path that leads out of its folder: {path[:80]!r}")
        if clean in seen:
            raise StoreError(f"the list names a path twice: {path[:80]!r}")
        if too_long(clean):
            raise StoreError(f"the list names a path that is too long for a file system: {path[:80]!r}…")
        seen.add(clean)
        yield _File(name, clean, size, mode & 0o777 | 0o444)


async def _archive(files: Files, folder: str, wanted: list[_File], *, new: bool) -> AsyncGenerator[bytes]:
    """All of it as an archive, made while it is read; `new` says that the folder itself is not there yet."""
    if new:
        yield folder_header(folder, FOLDER_MODE)
    made: set[str] = set()
    for file in wanted:
        parts = file.path.split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            if above not in made:
                made.add(above)
                yield folder_header(f"{folder}/{above}", FOLDER_MODE)
        async with aclosing(from_store(files, file.name, f"{folder}/{file.path}", file.size, file.mode)) as pieces:
            async for piece in pieces:
                yield piece
    yield END
