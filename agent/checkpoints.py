"""What a job keeps for its next attempt: the folder `$LAUNCH_CHECKPOINT`, stored as one archive an attempt.

While the job runs, the folder is looked at every `checkpoint_every`, and stored when something in it was made, renamed
or removed since the last time (its modification time tells; writing into a file that is there does not change it). So:
write to a temporary name, and rename it into its place. That also keeps half-written files out: the container is not
paused while it is read. At the end of an attempt that did not succeed the folder is stored as it then is, whatever its
modification time says: a job that writes into the same file again loses no more than what an attempt that is lost with
its worker had.

Before the start of a later attempt, on whatever machine, the folder is filled from the newest earlier attempt that has
stored one. Names carry the attempt, so one that has been taken over and does not know it yet spoils nothing. An attempt
that has stored a checkpoint deletes those before it; a job that succeeds deletes all; of one that fails or is cancelled
the last is kept, to be looked at. All are in the queue's artifact store: after the queue has got another one, the
next attempt starts without.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from agent.archives import TornArchive, checked
from agent.artifacts import Owner
from agent.core.tar import Entry, TarParser
from agent.ports import Engine, EngineError, EngineUnavailable
from launch.errors import NotFound, StoreError
from launch.files import Files
from launch.subjects import CHECKPOINT_DIR, checkpoint_name

LOOKED_BACK = 100
"""How many attempts before this one are asked for a checkpoint: the newest that has one deleted those before it."""

LEAST_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


class Checkpoints:
    """One attempt's."""

    def __init__(self, engine: Engine, files: Files, owner: Owner, container: str) -> None:
        self._engine = engine
        self._files = files
        self._owner = owner
        self._container = container
        self._seen: str | None = None
        """When the folder had changed last, as it was stored, or restored."""
        self._earlier: list[int] = []
        """Attempts that may have one which is to be deleted."""
        self._saved = False
        self._filled = False
        """Whether there is something in the folder, as far as is known."""

    def resume(self) -> None:
        """The attempt was begun by an earlier process: nobody knows what that one did."""
        attempt = self._owner.attempt
        self._earlier = list(range(max(1, attempt - LOOKED_BACK), attempt))
        self._saved = self._filled = True

    async def restore(self) -> int | None:
        """Fill the folder from the newest earlier attempt that stored one; says which. Raises as both sides do."""
        for attempt in range(self._owner.attempt - 1, max(0, self._owner.attempt - 1 - LOOKED_BACK), -1):
            name = self._name(attempt)
            if await self._files.info(name) is None:
                continue
            try:
                async with aclosing(self._files.read(name)) as pieces, aclosing(checked(pieces)) as archive:
                    await self._engine.put(self._container, CHECKPOINT_DIR.rpartition("/")[0], archive)
            except NotFound:
                continue  # deleted just now, by an attempt that saved a newer one
            self._earlier, self._filled = [attempt], True
            self._seen = await self._modified()
            return attempt
        return None

    async def run(self, every_s: float) -> None:
        """Look every `every_s`, and store what has changed, until cancelled."""
        while True:
            await asyncio.sleep(max(LEAST_EVERY_S, every_s))
            try:
                await self.save()
            except (StoreError, EngineError, EngineUnavailable, TornArchive) as error:
                # What could not be saved now is saved the next time.
                _log.warning("checkpoint not saved", job=str(self._owner.job), error=error.message)

    async def save(self, *, last: bool = False) -> bool:
        """Store the folder if something in it has changed; whether it was. Raises as store and engine do.

        `last`: the container has exited, so store it also if only what is within its files may have changed.
        """
        modified = await self._modified()
        if modified is None or (modified == self._seen and not (last and self._filled)):
            return False
        async with aclosing(self._engine.get(self._container, CHECKPOINT_DIR)) as pieces:
            head, empty = await _look_into(pieces)
            if not empty:
                async with aclosing(_again(head, pieces)) as whole, aclosing(checked(whole)) as archive:
                    stored = await self._files.put(self._name(self._owner.attempt), archive)
                _log.info("checkpoint saved", job=str(self._owner.job), size_bytes=stored.size)
        self._seen = modified
        self._filled = not empty
        if empty:
            return False
        self._saved = True
        while self._earlier:
            await self._files.delete(self._name(self._earlier[-1]))
            self._earlier.pop()
        return True

    async def forget(self) -> None:
        """The job has succeeded: delete all."""
        if self._saved:
            self._earlier.append(self._owner.attempt)
        while self._earlier:
            await self._files.delete(self._name(self._earlier[-1]))
            self._earlier.pop()
        self._saved = False

    async def _modified(self) -> str | None:
        folder = await self._engine.stat(self._container, CHECKPOINT_DIR)
        return folder.modified if folder is not None else None

    def _name(self, attempt: int) -> str:
        return checkpoint_name(self._owner.job, self._owner.submitted_at, attempt)


async def _look_into(pieces: AsyncGenerator[bytes]) -> tuple[list[bytes], bool]:
    """The first pieces of a folder's archive, and whether there is nothing but the folder."""
    parser, head, entries = TarParser(), [], 0
    async for piece in pieces:
        head.append(piece)
        entries += sum(isinstance(found, Entry) for found in parser.feed(piece))
        if entries > 1:
            return head, False
    return head, parser.complete


async def _again(head: list[bytes], rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    for piece in head:
        yield piece
    async for piece in rest:
        yield piece
