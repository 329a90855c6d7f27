"""Images for jobs: pulled once for all who want the same one at a time, with the login that their registry wants.

A pull belongs to the jobs that wait for it: the last that leaves ends it. Only faults of the network are tried again
here, and once a full disk, if room could be made; the rest goes to the job, with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import structlog

from agent.core.image_use import room_for
from agent.core.outcome import Fault, Unready, reason_of_engine_error
from agent.core.pulls import percent, show_pull
from agent.image_room import ImageRoom
from agent.ports import Engine, EngineError, ImageInfo, Login, PullProgress
from agent.registries import Registries
from launch.core.registry import registry_of
from launch.core.states import Reason
from launch.job import Pull
from launch.queue import RegistryAuth

RETRY_AFTER_S: Final = (1.0, 2.0, 4.0)
"""The pauses before the further tries of a pull that the network broke; then the job's own retries take over."""
TELL_EVERY_S: Final = 2.0
TELL_STEP: Final = 10
"""Progress is told at most so often, and in steps of so many percent: a record keeps 64 changes in all."""

FRESH_S: Final = 1.0
"""What was seen of an image that a job was expected to want counts for so long at most."""
EXPECTED: Final = 64

_log = structlog.get_logger(__name__)


class _Pulling:
    """One pull under way, how many wait for it, and how many of those are jobs."""

    def __init__(self) -> None:
        self.waiting = 0
        self.jobs = 0
        self.progress: PullProgress | None = None
        self.task: asyncio.Task[None] | None = None

    def note(self, progress: PullProgress) -> None:
        self.progress = progress


class Images:
    """The images of one engine. `given` is the queue's `registry_auth` as it is now."""

    def __init__(
        self,
        engine: Engine,
        registries: Registries,
        given: Callable[[], Mapping[str, RegistryAuth]],
        room: ImageRoom,
    ) -> None:
        self._engine = engine
        self._registries = registries
        self._given = given
        self._room = room
        self._pulls: dict[str, _Pulling] = {}
        self._looks: dict[str, tuple[int, asyncio.Task[ImageInfo | None]]] = {}
        self._under_way: set[asyncio.Task[ImageInfo | None]] = set()

    def expect(self, reference: str) -> None:
        """A job that is being claimed will want this image: look it up meanwhile. Never raises."""
        loop = asyncio.get_running_loop()
        if reference not in self._looks and len(self._looks) < EXPECTED:
            look = asyncio.create_task(self._engine.image(reference), name=f"look at {reference}")
            look.add_done_callback(self._seen)
            self._under_way.add(look)
            self._looks[reference] = (self._room.removals, look)
            loop.call_later(FRESH_S, self._looks.pop, reference, None)

    async def fetch(self, reference: str, pull: Pull, tell: Callable[[str], Awaitable[None]]) -> ImageInfo:
        """The image, pulled if `pull` says so; `tell` hears how far that is, at a bounded rate.

        Raises `Unready` with the reason if it can't be had, and `EngineUnavailable`.
        """
        await self._room.until_not_going(reference)
        image = await self._look(reference) if pull is not Pull.ALWAYS else None
        if image is None and pull is Pull.NEVER:
            message = f"{reference} is not on this worker, and the job says pull: never; load it there, or allow pulls"
            raise Unready(Reason.IMAGE_NOT_FOUND, message)
        if image is None:
            await self._share(reference, tell)
            image = await self._engine.image(reference)
        if image is None:
            message = f"the image {reference} was removed as soon as it was there"
            raise Unready(Reason.IMAGE_PULL_FAILED, message)
        self._room.note_used(reference)
        return image

    async def fetch_ahead(self, reference: str) -> bool:
        """Pull an image that no job wants yet, unless it is here, when nothing else is pulled and there is room.

        Gives way as soon as a job wants another one pulled, and is False then; whoever wants this one shares the pull.
        Raises as `fetch`.
        """
        while tasks := self._running():
            await asyncio.wait(tasks)
        await self._room.until_not_going(reference)
        if await self._room.short() or await self._engine.image(reference) is not None:
            return True
        if self._running():
            return False
        async with self._joined(reference) as (pulling, task):
            await asyncio.wait({task})
            if task.cancelled():
                _log.info("fetching ahead gives way", image=reference)
                return False
            if not pulling.jobs:
                task.result()
            return True

    def _running(self) -> set[asyncio.Task[None]]:
        """The pulls under way; jobs may still be telling of others that have ended."""
        return {one.task for one in self._pulls.values() if one.task is not None and not one.task.done()}

    async def close(self) -> None:
        """End what was begun ahead: an engine that is closed must not be asked any more. Idempotent."""
        for look in self._under_way:
            look.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _seen(self, look: asyncio.Task[ImageInfo | None]) -> None:
        """Perhaps nobody asks for it any more: then its failure is none to complain of."""
        self._under_way.discard(look)
        if not look.cancelled():
            look.exception()

    async def _look(self, reference: str) -> ImageInfo | None:
        """The image if it is present; a look that was taken ahead serves one job."""
        look = self._looks.pop(reference, None)
        if look is None or look[0] != self._room.removals:  # what was seen may be gone
            return await self._engine.image(reference)
        return await asyncio.shield(look[1])

    async def _share(self, reference: str, tell: Callable[[str], Awaitable[None]]) -> None:
        """Wait for the pull of this image, begun by whoever wanted it first."""
        self._clear_the_way(reference)
        async with self._joined(reference) as (pulling, task):
            pulling.jobs += 1
            try:
                told = percent(pulling.progress)
                await tell(show_pull(reference, pulling.progress))
                while not (await asyncio.wait({task}, timeout=TELL_EVERY_S))[0]:
                    now = percent(pulling.progress)
                    if now >= told + TELL_STEP:
                        told = now
                        await tell(show_pull(reference, pulling.progress))
                task.result()
            finally:
                pulling.jobs -= 1

    def _clear_the_way(self, reference: str) -> None:
        """End what no job waits for, so that a job's pull has the network to itself."""
        for name, pulling in list(self._pulls.items()):
            if name != reference and not pulling.jobs and pulling.task is not None:
                del self._pulls[name]  # nobody joins it any more
                pulling.task.cancel()

    @asynccontextmanager
    async def _joined(self, reference: str) -> AsyncIterator[tuple[_Pulling, asyncio.Task[None]]]:
        """Wait for an image's pull while in here; the last to leave ends it."""
        pulling = self._pulls.get(reference)
        if pulling is None or pulling.task is None or pulling.task.done():
            self._pulls[reference] = pulling = _Pulling()
            pulling.task = asyncio.create_task(self._pull(reference, pulling), name=f"pull of {reference}")
        task = pulling.task
        pulling.waiting += 1
        try:
            yield pulling, task
        finally:
            pulling.waiting -= 1
            if not pulling.waiting:
                if self._pulls.get(reference) is pulling:
                    del self._pulls[reference]
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # told to who waited, if anybody did

    async def _pull(self, reference: str, pulling: _Pulling) -> None:
        registry = registry_of(reference)
        pauses = [*RETRY_AFTER_S]
        made_room = False
        before = None
        with contextlib.suppress(EngineError):  # such as that of no reference at all, which the pull says better
            before = await self._engine.image(reference)
        while True:
            login = await self._registries.login(registry, self._given())
            _log.info("pulling", image=reference, login=login.source, ahead=not pulling.jobs)
            try:
                await self._engine.pull(reference, login=login.credential, progress=pulling.note)
                break
            except EngineError as error:
                fault = reason_of_engine_error(error)
                if fault.full and pulling.jobs and not made_room:
                    made_room = True
                    if await self._room.make(room_for(pulling.progress)):
                        _log.warning("pull of an image that did not fit: tried again", image=reference)
                        continue
                if not (fault.network and pauses):
                    raise Unready(fault.reason, _account(fault, login, registry)) from None
                _log.warning("pull broken off", image=reference, error=error.reply, next_try_s=pauses[0])
            pulling.progress = None
            await asyncio.sleep(pauses.pop(0))
        await self._note(reference, before)

    async def _note(self, reference: str, before: ImageInfo | None) -> None:
        """Remember what this pull has brought and replaced, so that it can be removed one day."""
        if before is not None:
            now = await self._engine.image(reference)
            if now is None or now.id == before.id:
                return  # it brought nothing: the image is whose it was
            if before.digest is not None and self._room.is_own(reference):
                self._room.note_pulled(before.digest)  # without its tag now, and still on the disk
        self._room.note_pulled(reference)


def _account(fault: Fault, login: Login, registry: str) -> str:
    """Why a pull failed; where it may be the login's fault, which one that was."""
    if fault.reason not in (Reason.IMAGE_UNAUTHORIZED, Reason.IMAGE_NOT_FOUND):
        return fault.message
    asked = f"asked {registry} with {login.source}"
    return f"{fault.message} ({asked}; {login.trouble})" if login.trouble else f"{fault.message} ({asked})"
