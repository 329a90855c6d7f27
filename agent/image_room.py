"""Room for images: remembers which ones this agent has pulled, and removes unused ones when the disk is short.

Invariant: nothing is removed but what this agent has pulled; nothing that a job which it holds wants, nor (the engine
sees to that) what any container needs. Whoever is about to use an image waits for a removal of it that is under way.
What is remembered lies in a file, so that a restarted agent still knows its own; without the file it removes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from agent.core.image_use import KEPT, key_of, parse_pulled, removable, show_pulled, spare_bytes
from agent.ports import DiskSpace, Engine, EngineError
from agent.steady import seen_through
from launch.core.quantity import show_memory
from launch.errors import LaunchError
from launch.ports import Clock

LOOK_GAP_S: Final = 5.0
"""However often jobs come and go, the disk is looked at no more often than this."""
USED_STEP_S: Final = 60.0
"""How exact the time of last use is kept."""

_log = structlog.get_logger(__name__)


class ImageRoom:
    """The images of one engine that are this agent's to remove."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        in_use: Callable[[], Iterable[str]],
        changed: asyncio.Event,
        *,
        keep_free_bytes: int | None = None,
        file: Path | None = None,
    ) -> None:
        """`in_use` are the references that jobs here want; `changed` is set when a job comes or goes, and read here."""
        self._engine = engine
        self._clock = clock
        self._in_use = in_use
        self._changed = changed
        self._keep_free_bytes = keep_free_bytes
        self._file = file
        self._pulled: dict[str, float] = {}
        self._unsaved = False
        self._removing = asyncio.Lock()
        self.removals = 0
        """How many images were removed so far: whoever saw one before it counted up has to look again."""
        self._going: str | None = None
        self._gone = asyncio.Event()
        self._was_short = False

    # -- what is known ------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what an earlier process of this agent has pulled."""
        if self._file is None:
            return
        try:
            self._pulled = parse_pulled(await asyncio.to_thread(self._file.read_text))
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            _log.warning("images pulled earlier are not known, and stay", file=str(self._file), error=str(error))

    def note_pulled(self, reference: str) -> None:
        """This agent has brought the image here."""
        self._pulled[key_of(reference)] = self._now_s()
        while len(self._pulled) > KEPT:
            del self._pulled[min(self._pulled, key=lambda key: self._pulled[key])]
        self._unsaved = True
        self._changed.set()

    def note_used(self, reference: str) -> None:
        """A job uses the image."""
        key = key_of(reference)
        if key in self._pulled and self._now_s() - self._pulled[key] >= USED_STEP_S:
            self._pulled[key] = self._now_s()
            self._unsaved = True

    def is_own(self, reference: str) -> bool:
        """Whether this agent has pulled it."""
        return key_of(reference) in self._pulled

    async def until_not_going(self, reference: str) -> None:
        """Wait for a removal of this image that is under way; none begins while a job wants it."""
        while self._going == key_of(reference):
            await self._gone.wait()

    # -- the disk -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the disk's spare room, looking whenever a pull has ended or a job has come or gone."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._unsaved and self._file is not None:
                    # Whole: the last save, when this is cancelled, must not run beside it.
                    await seen_through(asyncio.to_thread(self._save))
                try:
                    await self.make(0)
                except LaunchError as error:
                    _log.warning("can't look after the disk", error=error.message)
                await asyncio.sleep(LOOK_GAP_S)
        finally:
            self._save()

    async def short(self) -> bool:
        """Whether less of the disk is free than is to be; False if that can't be known."""
        disk = await self._engine.disk()
        return disk is not None and disk.free_bytes < self._spare_bytes(disk)

    async def make(self, need_bytes: int | None) -> int:
        """Remove unused images, least recently used first, until so much more than the spare room is free.

        None: all of them. Returns how many were removed. Where the disk's room is not known, only None removes any.
        """
        removed, refused = 0, set[str]()
        async with self._removing:
            while True:
                disk = await self._engine.disk()
                if need_bytes is not None:
                    if disk is None:
                        return removed
                    if disk.free_bytes >= self._spare_bytes(disk) + need_bytes:
                        self._was_short = False
                        return removed
                left = [key for key in removable(self._pulled, self._in_use()) if key not in refused]
                if not left:
                    if disk is not None and not self._was_short and disk.free_bytes < self._spare_bytes(disk):
                        self._was_short = True
                        free = show_memory(disk.free_bytes)
                        _log.warning("the disk is short, and no image is left to remove", free=free)
                    return removed
                if await self._remove(left[0]):
                    removed += 1
                    self.removals += 1
                    self._pulled.pop(left[0], None)
                    self._unsaved = True
                    _log.info("unused image removed", image=left[0], free=disk and show_memory(disk.free_bytes))
                else:
                    refused.add(left[0])

    async def _remove(self, key: str) -> bool:
        self._going = key
        self._gone.clear()
        try:
            return await self._engine.remove_image(key)
        except EngineError as error:
            _log.warning("can't remove an image", image=key, error=error.reply)
            return False
        finally:
            self._going = None
            self._gone.set()

    # -- inside -------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self._unsaved or self._file is None:
            return
        self._unsaved = False
        partial = self._file.with_suffix(".partial")
        try:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
            partial.write_text(show_pulled(self._pulled.copy()))  # others go on with it meanwhile
            partial.replace(self._file)
        except OSError as error:  # a full disk, perhaps: then these images stay after a restart
            _log.warning("can't note which images were pulled", file=str(self._file), error=str(error))

    def _spare_bytes(self, disk: DiskSpace) -> int:
        return spare_bytes(disk, self._keep_free_bytes)

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
