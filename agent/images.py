"""Images for jobs: pulled once for all who want the same one at a time, with the login that their registry wants.

A pull belongs to the jobs that wait for it: the last that leaves ends it. Only faults of the network are tried again
here; the rest goes to the job, with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from agent.core.outcome import Fault, Unready, reason_of_engine_error
from agent.core.pulls import percent, show_pull
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
    """One pull under way, and how many wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.progress: PullProgress | None = None
        self.task: asyncio.Task[None] | None = None

    def note(self, progress: PullProgress) -> None:
        self.progress = progress


class Images:
    """The images of one engine. `given` is the queue's `registry_auth` as it is now."""

    def __init__(self, engine: Engine, registries: Registries, given: Callable[[], Mapping[str, RegistryAuth]]) -> None:
        self._engine = engine
        self._registries = registries
        self._given = given
        self._pulls: dict[str, _Pulling] = {}
        self._looks: dict[str, asyncio.Task[ImageInfo | None]] = {}
        self._under_way: set[asyncio.Task[ImageInfo | None]] = set()

    def expect(self, reference: str) -> None:
        """A job that is being claimed will want this image: look it up meanwhile. Never raises."""
        loop = asyncio.get_running_loop()
        if reference not in self._looks and len(self._looks) < EXPECTED:
            look = asyncio.create_task(self._engine.image(reference), name=f"look at {reference}")
            look.add_done_callback(self._seen)
            self._under_way.add(look)
            self._looks[reference] = look
            loop.call_later(FRESH_S, self._looks.pop, reference, None)

    async def fetch(self, reference: str, pull: Pull, tell: Callable[[str], Awaitable[None]]) -> ImageInfo:
        """The image, pulled if `pull` says so; `tell` hears how far that is, at a bounded rate.

        Raises `Unready` with the reason if it can't be had, and `EngineUnavailable`.
        """
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
        return image

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
        return await (self._engine.image(reference) if look is None else asyncio.shield(look))

    async def _share(self, reference: str, tell: Callable[[str], Awaitable[None]]) -> None:
        """Wait for the pull of this image, begun by whoever wanted it first."""
        pulling = self._pulls.get(reference)
        if pulling is None or pulling.task is None or pulling.task.done():
            self._pulls[reference] = pulling = _Pulling()
            pulling.task = asyncio.create_task(self._pull(reference, pulling), name=f"pull of {reference}")
        task = pulling.task
        pulling.waiting += 1
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
        for pause_s in (*RETRY_AFTER_S, None):
            login = await self._registries.login(registry, self._given())
            _log.info("pulling", image=reference, login=login.source)
            try:
                await self._engine.pull(reference, login=login.credential, progress=pulling.note)
                return
            except EngineError as error:
                fault = reason_of_engine_error(error)
                if pause_s is None or not fault.network:
                    raise Unready(fault.reason, _account(fault, login, registry)) from None
                _log.warning("pull broken off", image=reference, error=error.reply, next_try_s=pause_s)
            pulling.progress = None
            await asyncio.sleep(pause_s)


def _account(fault: Fault, login: Login, registry: str) -> str:
    """Why a pull failed; where it may be the login's fault, which one that was."""
    if fault.reason not in (Reason.IMAGE_UNAUTHORIZED, Reason.IMAGE_NOT_FOUND):
        return fault.message
    asked = f"asked {registry} with {login.source}"
    return f"{fault.message} ({asked}; {login.trouble})" if login.trouble else f"{fault.message} ({asked})"
