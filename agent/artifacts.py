"""What an attempt leaves behind: from its container to the store, file by file, then the list of it.

The engine hands out folders as archives; their files are stored one by one as they come, so memory stays flat, and the
manifest is stored last: what it lists is there. Everything may be done again from the start, and gives the same names:
an agent that was killed half-way leaves the container, and the next process stores it all again. A store that does not
answer is asked again, what it has taken is not sent twice. Links that lead elsewhere, devices, pipes and sockets
are left out and listed, and so is a file that the store refuses: the others are stored all the same, unless it refuses
many, or would refuse any. A hard link is its file once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from agent.archives import TarStream, TornArchive, once
from agent.core.tar import Entry, Kind, clean_path
from agent.ports import Engine, EngineError, EngineUnavailable
from launch.core.quantity import show_memory
from launch.errors import LaunchError, StoreClosed, StoreError, StoreUnavailable
from launch.files import ArtifactFile, Files, Manifest, StoredArtifacts
from launch.subjects import ARTIFACTS_DIR, JobId, artifact_name, manifest_name

SMALL_BYTES = 256 * 1024
"""Files up to this size are read whole and stored several at a time: what they cost is the way there and back."""
AT_A_TIME = 8
LEFT_OUT_SHOWN = 100
MAX_REFUSALS = 20
"""With so many files refused, the store is not asked for the others."""
REFUSALS_SHOWN = 3
REFUSAL_KEPT = 300
"""Characters of a path, and of why it was."""
NAME_LIMIT = 1024
"""Bytes of a name in a store."""
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0

_log = structlog.get_logger(__name__)


Patience = Callable[[LaunchError, bool], bool]
"""Told of a failure, and whether anything was stored since the one before, says whether to try once more."""


class OverLimit(LaunchError):
    """An attempt left more than it may."""


class TooManyRefused(LaunchError):
    """The store refuses one file after the other."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose files: the names in the store follow from these."""

    job: JobId
    submitted_at: datetime
    attempt: int


@dataclass(slots=True)
class _Found:
    """What has been stored so far, by path."""

    files: dict[str, ArtifactFile] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """What the store does not take, and why."""
    taken: set[str] = field(default_factory=set)
    """Those, and what is on its way."""
    taken_bytes: int = 0

    def leave_out(self, path: str) -> None:
        if len(self.left_out) < LEFT_OUT_SHOWN:
            self.left_out[path] = None

    def refuse(self, path: str, why: str) -> None:
        """The store does not take this one. Raises `TooManyRefused` if it has not taken many already."""
        self.refused[path] = why
        self.left_out.pop(path, None)
        while len(self.left_out) >= LEFT_OUT_SHOWN:  # what is refused is the more important to know
            self.left_out.popitem()
        self.left_out[path] = None
        _log.warning("artifact refused", path=path, why=why)
        if len(self.refused) >= MAX_REFUSALS:
            raise TooManyRefused("the rest was not tried")

    def told(self, error: str | None) -> str | None:
        """Why something could not be stored, all in all."""
        reasons = [f"{_short(path)!r} was refused: {_short(why)}" for path, why in self.refused.items()]
        more = len(reasons) - REFUSALS_SHOWN
        if more > 0:
            reasons[REFUSALS_SHOWN:] = [f"{more} more were refused"]
        if self.missing and error is None:
            reasons.append(f"not there: {', '.join(self.missing)}")
        if error is not None:
            reasons.append(error)
        return "; ".join(reasons) or None


class ArtifactPass:
    """Stores one attempt's artifacts: `await ArtifactPass(...).store(patient)`."""

    def __init__(
        self,
        engine: Engine,
        files: Files,
        owner: Owner,
        container: str,
        paths: Sequence[str],
        *,
        now: Callable[[], datetime],
        max_files: int,
        max_bytes: int,
    ) -> None:
        """`paths` are what is looked into, `ARTIFACTS_DIR` among them if there is something in it."""
        self._engine = engine
        self._files = files
        self._owner = owner
        self._container = container
        self._paths = paths
        self._now = now
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._found = _Found()

    async def store(self, patient: Patience) -> StoredArtifacts | None:
        """Store everything; None if nothing was left. Asks again while the store is away, as long as `patient` says so.

        Raises nothing of the store's or the engine's: why something could not be stored is in what is returned.
        """
        error = await self._until_done(self._store_files, patient)
        found, manifest = self._found, None
        if found.files or found.left_out:
            listed = await self._until_done(self._store_manifest, patient if error is None else _impatient)
            error = error or listed
            manifest = self._name_of_manifest() if listed is None else None
        error = found.told(error)
        if not (found.files or found.left_out or error):
            return None
        return StoredArtifacts(
            where=self._files.where,
            manifest=manifest,
            files=len(found.files),
            size=sum(file.size for file in found.files.values()),
            error=error,
        )

    async def _until_done(self, work: Callable[[], Awaitable[None]], patient: Patience) -> str | None:
        """Do it, again while that may help; returns why it could not be done."""
        delay_s, stored = FIRST_DELAY_S, 0  # what was stored by the work before this counts as progress, too
        while True:
            try:
                await work()
                return None
            except (StoreUnavailable, EngineUnavailable, TornArchive) as error:
                progress, stored = len(self._found.files) > stored, len(self._found.files)
                if not patient(error, progress):
                    return str(error)
                if progress:
                    delay_s = FIRST_DELAY_S
                _log.warning("artifacts not stored yet", job=str(self._owner.job), error=error.message)
            except (StoreError, EngineError, OverLimit, TooManyRefused) as error:
                return str(error)
            await asyncio.sleep(delay_s)
            delay_s = min(MAX_DELAY_S, delay_s * 2)

    # -- files ------------------------------------------------------------------------------------------------------

    async def _store_files(self) -> None:
        for path in self._paths:
            try:
                async with aclosing(self._engine.get(self._container, path)) as pieces:
                    archive = TarStream(pieces)
                    try:
                        await self._store_archive(archive, "" if path == ARTIFACTS_DIR else path.strip("/"))
                    finally:
                        await archive.close()
            except EngineError as error:
                if error.status != _NOT_FOUND:
                    raise
                self._found.missing[path] = None

    async def _store_archive(self, archive: TarStream, prefix: str) -> None:
        """Store an archive's files under `prefix`, which stands for the name that all its paths begin with."""
        links: list[tuple[str, str]] = []
        over: str | None = None
        room = asyncio.Semaphore(AT_A_TIME)
        try:
            async with asyncio.TaskGroup() as puts:
                while (entry := await archive.next()) is not None:
                    path = _moved(entry.path, prefix)
                    if entry.kind is Kind.HARD_LINK and path is not None:
                        links.append((path, _moved(entry.link, prefix) or ""))
                    elif entry.kind in (Kind.SYMBOLIC_LINK, Kind.OTHER) or (entry.kind is Kind.FILE and path is None):
                        self._found.leave_out(path or clean_path(entry.path) or entry.path)
                    elif entry.kind is Kind.FILE and path is not None:
                        if (over := self._over_limit(entry, path)) is not None:
                            break  # what was found so far is still stored
                        await self._store_entry(archive, entry, path, puts, room)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        for path, target in links:
            original = self._found.files.get(target)
            if original is None:
                self._found.leave_out(path)
            else:
                self._found.files[path] = original.model_copy(update={"path": path})
        if over is not None:
            raise OverLimit(over)

    async def _store_entry(
        self, archive: TarStream, entry: Entry, path: str, puts: asyncio.TaskGroup, room: asyncio.Semaphore
    ) -> None:
        known = self._found.files.get(path)
        if (known is not None and known.size == entry.size) or path in self._found.refused:
            return  # by an earlier try
        if entry.size > SMALL_BYTES:
            async with aclosing(archive.content()) as content:
                await self._put(entry, path, content)
            return
        data = b"".join([piece async for piece in archive.content()])
        await room.acquire()

        async def put() -> None:
            try:
                await self._put(entry, path, once(data))
            finally:
                room.release()

        puts.create_task(put(), name=f"store {path}")

    async def _put(self, entry: Entry, path: str, content: AsyncIterable[bytes]) -> None:
        name = artifact_name(self._owner.job, self._owner.submitted_at, self._owner.attempt, path)
        if len(name.encode()) > NAME_LIMIT:
            self._found.refuse(path, "its path is too long for the store")
            return
        try:
            stored = await self._files.put(name, content, size=entry.size)
        except (StoreUnavailable, StoreClosed):
            raise
        except StoreError as error:
            self._found.refuse(path, str(error))
            return
        self._found.files[path] = ArtifactFile(
            path=path, size=stored.size, sha256=stored.sha256, mode=entry.mode & 0o777, name=name
        )

    def _over_limit(self, entry: Entry, path: str) -> str | None:
        """Why this file can't be stored; otherwise it counts from now on."""
        taken = self._found.taken
        if path in taken:
            return None
        if len(taken) >= self._max_files:
            return f"more than {self._max_files} files were left: the rest was not stored"
        if self._found.taken_bytes + entry.size > self._max_bytes:
            return f"more than {show_memory(self._max_bytes)} were left: the rest was not stored"
        taken.add(path)
        self._found.taken_bytes += entry.size
        return None

    # -- the list -----------------------------------------------------------------------------------------------------

    def _name_of_manifest(self) -> str:
        return manifest_name(self._owner.job, self._owner.submitted_at, self._owner.attempt)

    async def _store_manifest(self) -> None:
        found = self._found
        manifest = Manifest(
            job=str(self._owner.job),
            attempt=self._owner.attempt,
            stored_at=self._now(),
            files=tuple(found.files[path] for path in sorted(found.files)),
            left_out=tuple(sorted(found.left_out)),
        )
        data = manifest.model_dump_json().encode()
        await self._files.put(self._name_of_manifest(), once(data), size=len(data))


_NOT_FOUND = 404


def _short(text: str) -> str:
    return text if len(text) <= REFUSAL_KEPT else f"{text[:REFUSAL_KEPT]}…"


def _impatient(_: LaunchError, __: bool) -> bool:
    return False


def _moved(path: str, prefix: str) -> str | None:
    """What a path in an archive is to be called; its first part is the name of what was asked for. None: nothing."""
    inside = path.partition("/")[2]
    return clean_path("/".join(part for part in (prefix, inside) if part))
