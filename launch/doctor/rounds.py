"""All checks, in order; those that need nothing of each other run at the same time.

Invariant: all of them together end within the sum of five limits, about a minute, whatever does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from launch.core import doctor
from launch.core.doctor import Finding, Level, fail, ok, warn
from launch.doctor import cloud, engine, queue, server
from launch.doctor.bounded import bounded, closed
from launch.doctor.parts import Cloud, Engine, Refusals, Server
from launch.doctor.queue import QueueSeen
from launch.errors import LaunchError, NotFound, NotPermitted
from launch.ports import Clock
from launch.queue import AwsProvider
from launch.record import JobRecord
from launch.subjects import JobId

QUEUES_AT_MOST: Final = 20
CONNECT_LIMIT_S: Final = 12.0
QUEUES_LIMIT_S: Final = 15.0
START_NATS = "start one with `launch up QUEUE.yaml` or `launch server`, or name one by --server"
LOOK_AT_NATS = "see the log of nats-server, and what this user may do"


@dataclass(frozen=True, slots=True)
class World:
    """What is looked at, and by whom. Each `open` may raise `LaunchError`."""

    open_server: Callable[[], Awaitable[Server]]
    open_engine: Callable[[], Engine]
    cloud: Cloud
    gpus: Callable[[], Sequence[str]]
    clock: Clock
    refusals: Refusals
    version: str
    """Our own."""
    host: str
    """This machine's name, as agents on it tell it."""
    least: tuple[int, int]
    """The oldest nats-server that will do."""
    fixed: Sequence[str]
    """What of a stream can't be changed in place."""
    address: str
    """Of NATS, for people."""


async def examine(world: World, *, only: str | None = None, job: JobId | None = None) -> list[Finding]:
    """Every check: of one queue (`only`), or of all; of one job, or of the oldest ones that wait."""
    docker = _Docker(world)
    try:
        async with asyncio.TaskGroup() as group:
            of_docker = group.create_task(docker.look(), name="doctor-engine")
            return await _Rounds(world, docker, of_docker, job.queue if job is not None else only, job).run()
    finally:
        await docker.close()


class _Docker:
    """The engine here, which is looked at while NATS is."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.opened: Engine | None = None

    async def look(self) -> list[Finding]:
        async def open_and_look() -> list[Finding]:
            self.opened = self._world.open_engine()
            return await engine.engine(self.opened, gpus=self._world.gpus)

        return await bounded("docker", open_and_look(), cure=engine.START)

    async def close(self) -> None:
        if self.opened is not None:
            await closed(self.opened.close())


class _Rounds:
    """One examination."""

    def __init__(
        self,
        world: World,
        docker: _Docker,
        of_docker: asyncio.Task[list[Finding]],
        only: str | None,
        job: JobId | None,
    ) -> None:
        self._world = world
        self._docker = docker
        self._of_docker = of_docker
        self._only = only
        self._job = job
        self._server: Server | None = None
        self._seen: list[QueueSeen] = []
        self._record: JobRecord | None = None

    async def run(self) -> list[Finding]:
        found = await bounded("nats", self._reach(), cure=START_NATS, limit_s=CONNECT_LIMIT_S)
        nats = self._server
        if nats is None:
            return found + await self._of_docker
        try:
            return found + await self._all(nats)
        finally:
            await closed(nats.close())

    async def _reach(self) -> list[Finding]:
        self._server = await self._world.open_server()
        return [ok("nats", f"answers at {self._world.address}")]

    async def _all(self, nats: Server) -> list[Finding]:
        version, on, (clocks, ahead_s) = await asyncio.gather(
            bounded("version", server.version(nats, self._world.least), cure=LOOK_AT_NATS),
            bounded("jetstream", server.jetstream(nats), cure=server.ON),
            self._clocks(nats),
        )
        if any(line.level is Level.FAIL for line in on):
            return [*version, *on, *clocks, *await self._of_docker]
        looked = await bounded("queue", self._look_at_queues(nats), cure=LOOK_AT_NATS, limit_s=QUEUES_LIMIT_S)
        looked += await self._find_job(nats)
        names = [one.spec.queue_name for one in self._seen]
        of_queue = next(iter(names), self._only)
        told = await asyncio.gather(
            bounded("permissions", server.permissions(nats, of_queue), cure=LOOK_AT_NATS),
            bounded("streams", server.streams(nats, names, self._world.fixed), cure=LOOK_AT_NATS),
            _given(clocks),
            self._of_engine(),
            _given(looked),
            *(self._queue(nats, one, ahead_s) for one in self._seen),
            self._images(),
            *(
                cloud.cloud(self._world.cloud, one.spec, nats.broker.documents)
                for one in self._seen
                if isinstance(one.spec.provider, AwsProvider)
            ),
        )
        return [*version, *on, *(line for lines in told for line in lines)]

    async def _clocks(self, nats: Server) -> tuple[list[Finding], float | None]:
        """What is found, and how far our clock is ahead, if that could be told."""
        seen: list[float | None] = []

        async def look() -> list[Finding]:
            seen.append(await nats.ahead_s())
            return [doctor.clocks(seen[0])]

        return await bounded("clocks", look(), cure=LOOK_AT_NATS), seen[0] if seen else None

    async def _look_at_queues(self, nats: Server) -> list[Finding]:
        """Look at the queues; what can't be looked at is told, the others are looked at all the same."""
        found = []
        names = (
            [self._only] if self._only is not None else [spec.queue_name for spec in await nats.broker.queues.list()]
        )
        if not names:
            return [warn("queue", "there are no queues", "launch queue apply FILE makes one")]
        if len(names) > QUEUES_AT_MOST:
            found.append(warn("queue", f"{len(names)} queues; {QUEUES_AT_MOST} looked at", "name one with -q"))
        for name in names[:QUEUES_AT_MOST]:
            try:
                self._seen.append(await queue.see(nats.broker, name))
            except NotPermitted as error:
                found.append(_closed_to_us(name, error, asked=self._only is not None))
            except NotFound as error:
                found.append(fail("queue", error.message, error.hint or "launch queue apply FILE makes it"))
            except LaunchError as error:
                found.append(fail("queue", f"{name}: {error.message}", error.hint or "apply its file again"))
        return found

    async def _find_job(self, nats: Server) -> list[Finding]:
        async def find(asked: JobId) -> list[Finding]:
            self._record = await queue.find(nats.broker, asked)
            return []

        return [] if self._job is None else await bounded("job", find(self._job), cure=LOOK_AT_NATS)

    async def _queue(self, nats: Server, seen: QueueSeen, ahead_s: float | None) -> list[Finding]:
        world, now = self._world, self._world.clock.now()
        jobs = [self._record] if self._record is not None else seen.waiting
        states, clocks, waits = await asyncio.gather(
            bounded("queue", queue.states(nats.broker, seen, now=now, version=world.version), cure=LOOK_AT_NATS),
            bounded("clocks", queue.clocks(nats, seen, ahead_s=ahead_s), cure=LOOK_AT_NATS),
            bounded("waiting", queue.first(nats.broker, seen, jobs or seen.coming, now=now), cure=LOOK_AT_NATS),
        )
        return [*states, *clocks, *queue.policies(seen, jobs, world.refusals), *waits]

    async def _of_engine(self) -> list[Finding]:
        needed = not self._seen or any(queue.works_here(one, self._world.host) for one in self._seen)
        found = await self._of_docker
        return found if needed else engine.unneeded(found)

    async def _images(self) -> list[Finding]:
        wanted = queue.images_of(self._seen, self._record, host=self._world.host)
        if not wanted:
            return []
        found, docker = await self._of_docker, self._docker.opened
        if docker is None or found[0].level is not Level.OK:
            names = ", ".join(one.image for one in wanted)
            return [warn("image", f"not looked up without Docker: {names}", "run the doctor where a Docker Engine is")]
        return await engine.images(docker, wanted)


def _closed_to_us(name: str, error: NotPermitted, *, asked: bool) -> Finding:
    """A queue that this user has no role for: that is as it should be, unless it was asked for by name."""
    if asked:
        return fail("queue", f"{name}: {error.message}", error.hint or LOOK_AT_NATS)
    return ok("queue", f"{name}: not looked at, this user has no role for it")


async def _given(found: list[Finding]) -> list[Finding]:
    return found
