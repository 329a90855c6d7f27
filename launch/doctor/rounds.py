"""All checks, in order; those that need nothing of each other run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from launch.core.doctor import Finding, Level, fail, ok, warn
from launch.doctor import cloud, engine, queue, server
from launch.doctor.bounded import bounded
from launch.doctor.parts import Cloud, Engine, Server
from launch.doctor.queue import QueueSeen
from launch.errors import LaunchError, NotFound
from launch.ports import Broker, Clock
from launch.queue import AwsProvider, StaticProvider
from launch.record import JobRecord
from launch.subjects import JobId

QUEUES_AT_MOST = 20
CONNECT_LIMIT_S = 12.0
QUEUES_LIMIT_S = 20.0
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
    version: str
    """Our own."""
    least: tuple[int, int]
    """The oldest nats-server that will do."""
    fixed: Sequence[str]
    """What of a stream can't be changed in place."""
    address: str
    """Of NATS, for people."""


async def examine(world: World, *, only: str | None = None, job: JobId | None = None) -> list[Finding]:
    """Every check: of one queue (`only`), or of all; of one job, or of the oldest ones that wait."""
    only = job.queue if job is not None else only
    opened: list[Server] = []

    async def reach() -> list[Finding]:
        opened.append(await world.open_server())
        return [ok("nats", f"answers at {world.address}")]

    found = await bounded("nats", reach(), cure=START_NATS, limit_s=CONNECT_LIMIT_S)
    if not opened:
        docker, _ = await _engine(world, [], None)
        return found + docker
    try:
        return found + await _all(world, opened[0], only, job)
    finally:
        await opened[0].close()


async def _all(world: World, nats: Server, only: str | None, job: JobId | None) -> list[Finding]:
    found = await bounded("version", server.version(nats, world.least), cure=LOOK_AT_NATS)
    on = await bounded("jetstream", server.jetstream(nats), cure=server.ON)
    found += on
    if any(line.level is Level.FAIL for line in on):
        docker, _ = await _engine(world, [], None)
        return [*found, *await bounded("clocks", server.clocks(nats), cure=LOOK_AT_NATS), *docker]
    names: list[str] = [only] if only is not None else []
    seen: list[QueueSeen] = []
    wanted: list[JobRecord] = []

    async def queues() -> list[Finding]:
        return await _see(nats.broker, names, seen, only)

    async def find(asked: JobId) -> list[Finding]:
        wanted.append(await queue.find(nats.broker, asked))
        return []

    looked = await bounded("queue", queues(), cure=LOOK_AT_NATS, limit_s=QUEUES_LIMIT_S)
    if job is not None:
        looked += await bounded("job", find(job), cure=LOOK_AT_NATS)
    record = wanted[0] if wanted else None
    kept = [one.spec.queue_name for one in seen]
    checks = [
        bounded("permissions", server.permissions(nats, names[0] if names else None), cure=LOOK_AT_NATS, limit_s=20),
        bounded("streams", server.streams(nats, kept, world.fixed), cure=LOOK_AT_NATS),
        bounded("clocks", server.clocks(nats), cure=LOOK_AT_NATS),
        *(_queue(world, nats.broker, one, record) for one in seen),
    ]
    clouds = [
        cloud.cloud(world.cloud, one.spec, nats.broker.documents)
        for one in seen
        if isinstance(one.spec.provider, AwsProvider)
    ]
    in_engine = asyncio.create_task(_engine(world, seen, record), name="doctor-engine")
    in_cloud = asyncio.gather(*clouds)
    parts = await asyncio.gather(*checks)
    of_engine, of_images = await in_engine
    told = [*parts[:3], of_engine, looked, *parts[3:], of_images, *await in_cloud]
    return found + [line for lines in told for line in lines]


async def _see(broker: Broker, names: list[str], seen: list[QueueSeen], only: str | None) -> list[Finding]:
    """Look at the queues; what can't be looked at is told, the others are looked at all the same."""
    found = []
    if only is None:
        names += [spec.queue_name for spec in await broker.queues.list()]
        if not names:
            return [warn("queue", "there are no queues", "launch queue apply FILE makes one")]
        if len(names) > QUEUES_AT_MOST:
            found.append(warn("queue", f"{len(names)} queues; {QUEUES_AT_MOST} looked at", "name one with -q"))
            del names[QUEUES_AT_MOST:]
    for name in names:
        try:
            seen.append(await queue.see(broker, name))
        except NotFound as error:
            found.append(fail("queue", error.message, error.hint or "launch queue apply FILE makes it"))
        except LaunchError as error:
            found.append(fail("queue", f"{name}: {error.message}", error.hint or "apply its file again"))
    return found


async def _queue(world: World, broker: Broker, seen: QueueSeen, record: JobRecord | None) -> list[Finding]:
    now = world.clock.now()
    states = queue.states(broker, seen, now=now, version=world.version)
    found = await bounded("queue", states, cure=LOOK_AT_NATS)
    waits = queue.job(broker, record, now=now) if record is not None else queue.oldest(broker, seen, now=now)
    return found + await bounded("waiting", waits, cure=LOOK_AT_NATS)


async def _engine(
    world: World, seen: Sequence[QueueSeen], record: JobRecord | None
) -> tuple[list[Finding], list[Finding]]:
    """What is found of the engine, and of the images. Where no queue is known, workers are taken to be here."""
    here = not seen or any(not isinstance(one.spec.provider, AwsProvider | StaticProvider) for one in seen)
    opened: list[Engine] = []

    async def look() -> list[Finding]:
        opened.append(world.open_engine())
        return await engine.engine(opened[0], needed=here, gpus=world.gpus)

    found = await bounded("docker", look(), cure=engine.START)
    try:
        wanted = queue.images_of(seen, record)
        if not wanted:
            return found, []
        if not opened or found[0].level is not Level.OK:
            names = ", ".join(one.image for one in wanted)
            cure = "run the doctor where a Docker Engine is"
            return found, [warn("image", f"not looked up without Docker: {names}", cure)]
        return found, await engine.images(opened[0], wanted, here=here)
    finally:
        for docker in opened:
            await docker.close()
