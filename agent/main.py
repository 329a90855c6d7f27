"""One agent from start to stop: who it is, what it has, and the loops that make it work.

Stops in two stages: `stop` drains (no new work, what runs goes on, within bounds), `abort` leaves at once and leaves
the containers to the next process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path

import structlog

from agent.adapters.aws_logins import AwsLogins
from agent.adapters.docker import DockerEngine
from agent.adapters.docker_config import DockerConfig
from agent.adapters.host import host_name, take_agent_id
from agent.adapters.imds import Imds
from agent.ahead import Ahead
from agent.cancels import heed_cancels, heed_lapses
from agent.claims import Claims
from agent.core.container import ContainerPolicy
from agent.core.ledger import Ledger
from agent.core.netns import pool_size
from agent.core.outcome import StopCause
from agent.holds import Hold, Holds
from agent.image_room import ImageRoom
from agent.images import Images
from agent.intake import Intake
from agent.lease import keep_leases
from agent.metrics import Reporting
from agent.netns import NetworkPool
from agent.next_container import NextContainer
from agent.ports import Engine, EngineInfo
from agent.presence import Identity, Presence, policy_told
from agent.recovery import recover
from agent.registries import Registries
from agent.runner import Runner
from agent.secrets import Secrets, open_secrets
from agent.services import Services
from agent.settings import AgentSettings, OnLostContact
from agent.stops import guard_contact, heed_drains, heed_spot_notices
from agent.usage import UsageSampler
from launch.adapters.clock import SystemClock
from launch.adapters.gpu import GpuUsage, gpu_usage, gpu_uuids
from launch.core.capacity import Amount
from launch.core.quantity import show_cpu, show_memory
from launch.errors import BrokerError
from launch.ports import Broker, Clock, Synced
from launch.queue import QueueSpec
from launch.stores import Stores

WATCH_RETRY_S = 1.0
LINGER_S = 120.0
"""How long an agent that was drained from outside stays present: whoever started its machine ends it on its word."""
_log = structlog.get_logger(__name__)


async def run(broker: Broker, settings: AgentSettings, *, stop: asyncio.Event, abort: asyncio.Event) -> None:
    """Work for one queue until `stop` (drain) or `abort` (leave now) is set.

    Raises `LaunchError` if the queue does not exist, no engine answers, or the agent's id is in use.
    """
    spec = await broker.queues.get(settings.queue)
    engine = DockerEngine(settings.docker_host)
    secrets = await open_secrets(settings.secrets)
    registries = Registries(secrets, DockerConfig(), AwsLogins())
    try:
        info = await engine.info()
        identity = await asyncio.to_thread(take_agent_id, settings.data_dir, settings.agent_id)
        try:
            gpus = settings.gpus if settings.gpus is not None else await asyncio.to_thread(gpu_uuids)
            agent = Agent(
                broker,
                engine,
                SystemClock(),
                settings,
                spec,
                info,
                identity.id,
                gpus,
                secrets=secrets,
                registries=registries,
                gpu_usage=gpu_usage,
                images_file=settings.data_dir / f"agent-{identity.id}.images",
            )
            await agent.run(stop, abort)
        finally:
            identity.close()
    finally:
        await registries.close()
        await secrets.close()
        await engine.close()


def offered(settings: AgentSettings, spec: QueueSpec, info: EngineInfo, gpus: int) -> Amount:
    """What this agent offers: what it was told to, within what the machine has."""
    return Amount(
        cpu_milli=settings.cpu_milli or info.cpus * 1000,
        memory_bytes=settings.memory_bytes or info.memory_bytes,
        gpus=gpus,
        slots=settings.max_jobs or spec.max_jobs_per_agent or max(1, info.cpus),
    )


class Agent:
    """The parts of one agent, and their order of coming and going."""

    def __init__(
        self,
        broker: Broker,
        engine: Engine,
        clock: Clock,
        settings: AgentSettings,
        spec: QueueSpec,
        info: EngineInfo,
        agent_id: str,
        gpus: tuple[str, ...],
        *,
        secrets: Secrets | None = None,
        registries: Registries | None = None,
        gpu_usage: Callable[[Sequence[str]], Mapping[str, GpuUsage]] | None = None,
        images_file: Path | None = None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._engine = engine
        self._settings = settings
        self._queue = spec
        self._agent_id = agent_id
        capacity = offered(settings, spec, info, len(gpus))
        self._holds = Holds(Ledger(capacity, gpus))
        self._claims = Claims(broker, clock, self._holds, agent_id=agent_id, lease_s=settings.presence_ttl_s)
        self._stores = Stores(broker)
        self._usage = UsageSampler(engine, broker.metrics, clock, every_s=settings.usage_every_s, gpus=gpu_usage)
        kept = pool_size(capacity.slots) if settings.policy.network_pool else 0
        self._networks = NetworkPool(engine, agent_id, size=kept, machine=info.machine)
        secrets = secrets or Secrets()
        self._room = ImageRoom(
            engine,
            clock,
            lambda: [hold.spec.image for hold in self._holds.all()],
            self._holds.watch(),
            keep_free_bytes=settings.keep_disk_free_bytes,
            file=images_file,
        )
        registries = registries or Registries(secrets)
        self._images = Images(engine, registries, lambda: self._queue.registry_auth, self._room)
        self._next = NextContainer(
            engine,
            broker.work,
            self._holds,
            secrets,
            agent_id=agent_id,
            queue=lambda: self._queue,
            policy=settings.policy,
            on=settings.container_ahead,
        )
        services = Services(
            engine=engine,
            broker=broker,
            claims=self._claims,
            holds=self._holds,
            clock=clock,
            agent_id=agent_id,
            settings=settings,
            policy=ContainerPolicy.of(settings.policy),
            stores=self._stores,
            secrets=secrets,
            images=self._images,
            reporting=Reporting(broker.metrics, engine, clock, self._usage),
            networks=self._networks,
            next=self._next,
            queue=lambda: self._queue,
        )
        self._runner = Runner(services)
        identity = Identity(
            agent_id=agent_id,
            queue=spec.queue_name,
            job_types=settings.job_types,
            version=version("nats-launch"),
            host=host_name(),
            instance=settings.instance,
            labels={"pid": str(os.getpid()), "engine": info.version, **settings.labels},
            started_at=clock.now(),
            policy=policy_told(settings.policy),
        )
        self._presence = Presence(broker.agents, clock, self._holds, identity, ttl_s=settings.presence_ttl_s)

    async def run(self, stop: asyncio.Event, abort: asyncio.Event) -> None:
        """Work until told otherwise."""
        capacity = self._holds.ledger.capacity
        await self._room.load()
        recovered = await recover(self._engine, self._claims, self._networks, self._agent_id)
        await self._presence.announce()
        _log.info(
            "agent ready",
            agent=self._agent_id,
            queue=self._queue.queue_name,
            types=",".join(self._settings.job_types) if self._settings.job_types else "any",
            cpu=show_cpu(capacity.cpu_milli),
            memory=show_memory(capacity.memory_bytes),
            gpus=capacity.gpus,
            jobs=capacity.slots,
        )
        asked = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(keep_leases(self._broker, self._holds), name="leases"),
                tasks.create_task(self._presence.run(), name="presence"),
                tasks.create_task(self._usage.run(), name="usage"),
                tasks.create_task(self._room.run(), name="room for images"),
                tasks.create_task(self._networks.run(), name="network namespaces"),
                tasks.create_task(
                    heed_cancels(self._broker.cancels, self._claims, self._holds, self._queue.queue_name),
                    name="cancels",
                ),
                tasks.create_task(heed_lapses(self._presence, self._claims, self._holds), name="lapses"),
                tasks.create_task(self._follow_queue(asked), name="queue spec"),
                tasks.create_task(heed_drains(self._broker.agents, self._agent_id, asked), name="drain requests"),
                tasks.create_task(_pass_on(asked, stop), name="asked to stop"),
            ]
            if self._settings.on_lost_contact is OnLostContact.STOP:
                guard = guard_contact(self._presence, self._holds, lease_s=self._settings.presence_ttl_s)
                loops.append(tasks.create_task(guard, name="contact"))
            if self._settings.spot_notices is not None:
                heed = heed_spot_notices(Imds(self._settings.spot_notices), self._clock, self._holds, stop)
                loops.append(tasks.create_task(heed, name="spot notices"))
            working = tasks.create_task(self._work_to_the_end(recovered, stop, asked), name="work")
            leaving = tasks.create_task(abort.wait(), name="abort")
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                _log.warning("leaving at once; containers keep running", jobs=len(self._holds))
            for task in (working, leaving, *loops):
                task.cancel()
        await self._presence.leave()
        await self._networks.close()
        await self._next.close()
        await self._images.close()
        await self._stores.close()
        _log.info("agent stopped", agent=self._agent_id)

    async def _work_to_the_end(self, recovered: list[Hold], stop: asyncio.Event, asked: asyncio.Event) -> None:
        """Work until `stop`; on a machine that others started and drained, stay for them to see that it is done."""
        await self._work(recovered, stop)
        if self._settings.instance is not None and asked.is_set():
            _log.info("drained: staying to be ended", instance=self._settings.instance, at_most_s=LINGER_S)
            await asyncio.sleep(LINGER_S)

    async def _work(self, recovered: list[Hold], stop: asyncio.Event) -> None:
        """Take and run jobs until `stop`, then see what runs to its end."""
        async with asyncio.TaskGroup() as jobs:

            def start(hold: Hold) -> None:
                jobs.create_task(self._runner.run(hold), name=f"job {hold.job}")

            for hold in recovered:
                start(hold)
            intake = Intake(
                self._broker,
                self._claims,
                self._holds,
                self._clock,
                start,
                self._images.expect,
                agent_id=self._agent_id,
                queue=lambda: self._queue,
                job_types=self._settings.job_types,
                hold_s=self._settings.hold_s,
                policy=self._settings.policy,
            )
            ahead = Ahead(
                self._broker,
                self._images,
                self._holds,
                queue=lambda: self._queue,
                job_types=self._settings.job_types,
                policy=self._settings.policy,
                at_most=self._settings.images_ahead,
                container=self._next,
            )
            taking = jobs.create_task(intake.run(), name="intake")
            looking = jobs.create_task(ahead.run(), name="images ahead")
            making = jobs.create_task(self._next.run(), name="container ahead")
            stopping = jobs.create_task(stop.wait(), name="stop")
            try:
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                intake.drain()
                taking.cancel()
                looking.cancel()
                making.cancel()
                await asyncio.wait({taking, looking, making})
            except asyncio.CancelledError:
                intake.leave()
                raise
            self._presence.drain()
            _log.info("draining", jobs=len(self._holds))
            await self._next.close()
            jobs.create_task(self._bound_drain(), name="bound of the drain")

    async def _bound_drain(self) -> None:
        """Wait until nothing is held; after `drain_timeout_s` the containers are told to stop."""
        changed = self._holds.watch()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                while len(self._holds):
                    await changed.wait()
                    changed.clear()
                return
        for hold in self._holds.all():
            _log.warning("drain took too long: stopping", job=str(hold.job))
            hold.ask_to_stop(StopCause.DRAINED)

    async def _follow_queue(self, stop: asyncio.Event) -> None:
        """Take in changes of the queue's spec; drain when the queue is deleted."""
        while True:
            try:
                async with aclosing(self._broker.queues.watch()) as changes:
                    async for change in changes:
                        if isinstance(change, Synced) or change.key != self._queue.queue_name:
                            continue
                        if change.value is None:
                            _log.warning("the queue was deleted: draining", queue=change.key)
                            stop.set()
                        else:
                            self._queue = change.value
            except BrokerError as error:
                _log.warning("can't watch the queue's spec", error=error.message)
            await asyncio.sleep(WATCH_RETRY_S)


async def _pass_on(asked: asyncio.Event, stop: asyncio.Event) -> None:
    """Who was asked to stop stops."""
    await asked.wait()
    stop.set()
