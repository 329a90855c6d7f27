"""The files of one attempt: what must be in its container before the start, and what is kept at its end.

Every image gets the same four folders (`agent.core.container.FOLDERS`). They belong to root, so for another user they
are opened to everybody, which costs some tens of milliseconds; so does each of code, inputs and a checkpoint, and a job
that has none of these pays two looks at a folder, a few milliseconds together.

At the end the checkpoint comes before the artifacts: when the machine is being taken away, it is what the next attempt
goes on from. A store that does not answer is asked again for `store_patience_s` after its first failure, or the last
thing that it took since (for `STOPPED_PATIENCE_S` once the job has been told to stop; for as long as the broker itself
is away if that is the store, since the outcome can't be recorded either; in no case longer than the machine is there),
and the record says so. Whatever becomes of the files, what the job came to stays what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog

from agent.archives import TornArchive, once
from agent.artifacts import ArtifactPass, Owner
from agent.checkpoints import Checkpoints
from agent.core.container import FOLDERS, runs_as_root
from agent.core.outcome import Outcome, Unready
from agent.core.tar import END, folder_header
from agent.holds import Hold
from agent.inputs import put_code, put_inputs
from agent.ports import EngineError, EngineUnavailable, ImageInfo
from agent.services import Services
from agent.waiting import Waiting
from launch.core.states import Event, Reason
from launch.errors import BrokerError, StoreError, StoreUnavailable
from launch.files import Files, StoredArtifacts
from launch.subjects import ARTIFACTS_DIR

FILL_PATIENCE_S = 30.0
"""How long a store is waited for before an attempt that has not started gives up; it is tried again later. A broker
that is away is waited for as long as it takes: nobody else could be told of the job either."""
RETRY_S = 1.0
OPEN_MODE = 0o1777
"""Everybody may write, and remove only what is their own: as `/tmp`."""

_log = structlog.get_logger(__name__)


class Workspace:
    """One attempt's files, in its container and in the store."""

    @classmethod
    async def of(cls, services: Services, hold: Hold, container: str) -> Workspace:
        """The files of this attempt, in the store that its queue names now."""
        files = await services.stores.open(services.queue().artifacts)
        return cls(services, hold, container, files)

    def __init__(self, services: Services, hold: Hold, container: str, files: Files) -> None:
        self._services = services
        self._hold = hold
        self._container = container
        self._files = files
        self._owner = Owner(hold.job, hold.record.submitted_at, hold.record.attempt)
        self._checkpoints = Checkpoints(services.engine, files, self._owner, container)
        self._untouched: str | None = None
        """When `$LAUNCH_ARTIFACTS` had changed last before the job could: None if that is not known.

        The container's own times do not tell: a job may give the folder one from just before its start, as `cp -a
        /etc/. $LAUNCH_ARTIFACTS` does (the engine changes `/etc` while it makes a container).
        """

    async def fill(self, image: ImageInfo, workdir: str | None, untouched: str | None = None) -> None:
        """Put everything in its place; the container must not have been started.

        `untouched` is when `$LAUNCH_ARTIFACTS` had changed last as the container was made, if that is known. Raises
        `Unready`, and as the engine does. May be done again.
        """
        engine, hold = self._services.engine, self._hold
        spec = hold.spec
        as_root = runs_as_root(spec, image)
        if untouched is not None and as_root and spec.code is None and not spec.inputs and hold.record.attempt == 1:
            self._untouched = untouched
            return
        if not as_root:
            headers = [folder_header(path.strip("/"), OPEN_MODE) for path in FOLDERS]
            if spec.code is not None and workdir is not None:
                headers.append(folder_header(workdir.strip("/"), 0o777))
            await engine.put(self._container, "/", once(b"".join(headers) + END))
        if spec.code is not None:
            code, folder = spec.code, workdir or "/"
            files = self._services.broker.code
            await self._in_time(lambda: put_code(engine, files, self._container, code, folder))
        if spec.inputs:
            stores, records = self._services.stores, self._services.broker.records
            await self._in_time(lambda: put_inputs(engine, stores, records, self._container, spec))
        if hold.record.attempt > 1:
            await self._in_time(self._restore)
        empty = await engine.stat(self._container, ARTIFACTS_DIR)
        self._untouched = empty.modified if empty is not None else None

    def resume(self) -> None:
        """The container was started by an earlier process of this agent."""
        self._checkpoints.resume()

    async def watch(self) -> None:
        """Save checkpoints while the job runs; until cancelled."""
        await self._checkpoints.run(self._hold.spec.checkpoint_every)

    async def keep(self, outcome: Outcome) -> Outcome:
        """Store what the attempt left, now that its container has exited; the outcome, with what became of it."""
        stored: StoredArtifacts | None
        try:
            async with self._while_there(), Waiting(self._services, self._hold, self._files.where) as waiting:
                if outcome.event is not Event.SUCCEED:
                    await self._save_checkpoint(waiting)
                    waiting.begin()
                stored = await self._store_artifacts(waiting)
                if outcome.event is Event.SUCCEED:
                    await self._forget_checkpoints()
        except TimeoutError:
            stored = StoredArtifacts(
                where=self._files.where, error="the machine was taken away before they were stored"
            )
        if stored is None:
            return outcome
        if stored.error is None:
            return replace(outcome, artifacts=stored)
        return replace(outcome, artifacts=stored, message=f"{outcome.message}; artifacts: {stored.error}")

    # -- before the start -------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        try:
            attempt = await self._checkpoints.restore()
        except StoreUnavailable:
            raise
        except (StoreError, TornArchive) as error:
            raise Unready(Reason.ENGINE_ERROR, f"the last checkpoint can't be read: {error.message}") from None
        if attempt is not None:
            _log.info("checkpoint restored", job=str(self._hold.job), from_attempt=attempt)

    async def _in_time(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, again while the store does not answer, for a while."""
        loop = asyncio.get_running_loop()
        since_s = loop.time()
        while True:
            try:
                return await work()
            except (StoreUnavailable, BrokerError) as error:
                if self._services.broker.connected_since is None:
                    since_s = loop.time()
                elif loop.time() - since_s > FILL_PATIENCE_S:
                    raise Unready(Reason.ENGINE_ERROR, f"files could not be fetched: {error.message}") from None
                _log.warning("files not here yet", job=str(self._hold.job), error=error.message)
            await asyncio.sleep(RETRY_S)

    # -- at the end ---------------------------------------------------------------------------------------------------

    async def _save_checkpoint(self, waiting: Waiting) -> None:
        while True:
            try:
                await self._checkpoints.save(last=True)
                return
            except (StoreUnavailable, EngineUnavailable, TornArchive) as error:
                if not waiting.goes_on("checkpoint", error, progress=False):
                    _log.warning("checkpoint lost", job=str(self._hold.job), error=error.message)
                    return
            except (StoreError, EngineError) as error:
                _log.warning("checkpoint lost", job=str(self._hold.job), error=error.message)
                return
            await asyncio.sleep(RETRY_S)

    async def _forget_checkpoints(self) -> None:
        """What is left because the store does not answer does no harm but take room."""
        try:
            await self._checkpoints.forget()
        except StoreError as error:
            _log.warning("old checkpoints not deleted", job=str(self._hold.job), error=error.message)

    async def _store_artifacts(self, waiting: Waiting) -> StoredArtifacts | None:
        services = self._services
        paths = [path for path in self._hold.spec.artifacts if not f"{path}/".startswith(f"{ARTIFACTS_DIR}/")]
        if await self._touched():
            paths.insert(0, ARTIFACTS_DIR)
        if not paths:
            return None
        work = ArtifactPass(
            services.engine,
            self._files,
            self._owner,
            self._container,
            paths,
            now=services.clock.now,
            max_files=services.settings.max_artifact_files,
            max_bytes=services.settings.max_artifact_bytes,
        )
        return await work.store(partial(waiting.goes_on, "artifacts"))

    async def _touched(self) -> bool:
        """Whether there may be something in `$LAUNCH_ARTIFACTS`; most jobs leave nothing."""
        if self._untouched is None:
            return True
        try:
            folder = await self._services.engine.stat(self._container, ARTIFACTS_DIR)
        except (EngineError, EngineUnavailable):
            return True
        return folder is not None and folder.modified != self._untouched

    # -- both -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _while_there(self) -> AsyncIterator[None]:
        """A time limit, if and when the machine is to be taken away. Raises `TimeoutError`."""
        async with asyncio.timeout(None) as limit:

            def heed(_: object) -> None:
                if self._hold.leave_by_s is not None and not limit.expired():
                    limit.reschedule(self._hold.leave_by_s)

            self._hold.stop.add_done_callback(heed)
            try:
                yield
            finally:
                self._hold.stop.remove_done_callback(heed)
