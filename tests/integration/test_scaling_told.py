"""From a job that waits to what its worker cost, as anybody can read it: a real broker, real local processes.

The processes are stubs that boot for as long as the test likes; the test speaks for them when they are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from launch.adapters.clock import SystemClock
from launch.adapters.nats import connect
from launch.client import Client
from launch.core.capacity import Amount
from launch.core.cost import BOOTING, IDLE, costs
from launch.core.states import State
from launch.handle import Job
from launch.job import JobSpec
from launch.ports import Broker
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.scaling import InstanceReport, InstanceStage, ScalingReport
from launch.unclaimed import unclaimed_record
from scaler import main
from scaler.adapters.local import LocalProvider
from scaler.core.lives import STOPPED
from scaler.ports import ProviderUnsuitable
from scaler.settings import ScalerSettings
from tests.unit.scaler.stub_agent import StubAgents

pytestmark = pytest.mark.nats

ROOM = Amount(cpu_milli=1000, memory_bytes=2**30, slots=1)


@dataclass(slots=True)
class Lab:
    """A scaler on the session's server, and somebody who reads what it tells."""

    broker: Broker
    client: Client
    queue: str
    stop: asyncio.Event
    scaler: asyncio.Task[None]

    async def until(self, wanted: Callable[[ScalingReport], bool]) -> ScalingReport:
        """The first report that is as wanted."""
        async with asyncio.timeout(20):
            while (report := await self.broker.scaling.latest(self.queue)) is None or not wanted(report):
                pass
        return report

    async def until_stage(self, stage: InstanceStage, jobs: int = 0) -> InstanceReport:
        """The one instance, once it is that far."""
        report = await self.until(lambda told: [(one.stage, one.jobs) for one in told.instances] == [(stage, jobs)])
        return report.instances[0]


@pytest.fixture
async def lab(nats_url: str, queue_name: str, tmp_path: Path) -> AsyncIterator[Lab]:
    """A queue of one local worker, with its scaler."""
    broker = await connect(nats_url, name="reader")
    its = await connect(nats_url, name="scaler")
    await broker.queues.apply(
        QueueSpec.model_validate({"queue_name": queue_name, "provider": {"type": "local", "cpu": 1, "memory": "1Gi"}})
    )
    stop = asyncio.Event()
    with TemporaryDirectory() as short:
        stubs = StubAgents(Path(short) / "s")
        await stubs.start()

        async def provider(spec: QueueSpec) -> LocalProvider:
            return await LocalProvider.open(
                spec.queue_name,
                data_dir=tmp_path,
                server_url=nats_url,
                clock=SystemClock(),
                command=stubs.command(),
            )

        scaler = asyncio.create_task(
            main.run(
                its,
                queues=[queue_name],
                data_dir=tmp_path,
                server_url=nats_url,
                clock=SystemClock(),
                stop=stop,
                drain_timeout_s=10,
                settings=ScalerSettings(settle_s=0.01),
                open_provider=provider,
            )
        )
        yield Lab(broker, Client(broker), queue_name, stop, scaler)
        stop.set()
        async with asyncio.timeout(20):
            await scaler
        await stubs.close()
    await broker.queues.delete(queue_name)
    await its.close()
    await broker.close()


def presence(lab: Lab, instance: InstanceReport, *holds: Job) -> AgentPresence:
    assert instance.agent_id is not None
    now = datetime.now(UTC)
    return AgentPresence(
        agent_id=instance.agent_id,
        queue=lab.queue,
        capacity=ROOM,
        free=Amount() if holds else ROOM,
        holds=tuple(str(job.id) for job in holds),
        version="0",
        host="h",
        started_at=now,
        idle_since=None if holds else now,
    )


async def test_from_a_waiting_job_to_what_its_worker_cost(lab: Lab) -> None:
    job = await lab.client.submit(lab.queue, JobSpec(image="x", job_type="train"))
    booting = await lab.until_stage(InstanceStage.BOOTING)
    why = await job.why()
    assert why is not None
    assert why.text.startswith(f"{booting.id} booting since ")

    await lab.broker.agents.put(presence(lab, booting), ttl_s=60)
    ready = await lab.until_stage(InstanceStage.READY)
    assert ready.registered_at is not None
    message = await lab.broker.jobs.get(job.id)
    assert message is not None
    now = datetime.now(UTC)
    running = unclaimed_record(message).model_copy(
        update={"state": State.RUNNING, "attempt": 1, "agent": ready.agent_id, "started_at": now, "held": ROOM}
    )
    await lab.broker.records.create(running)
    await lab.broker.agents.put(presence(lab, ready, job), ttl_s=60)
    await lab.until_stage(InstanceStage.READY, jobs=1)
    assert await job.why() is None

    await lab.broker.jobs.discard(job.id)
    await lab.broker.agents.put(presence(lab, ready), ttl_s=60)
    await lab.until_stage(InstanceStage.READY)
    lab.stop.set()
    async with asyncio.timeout(20):
        await lab.scaler
    (life,) = await lab.broker.scaling.ends(lab.queue)
    assert (life.id, life.why) == (booting.id, STOPPED)
    assert life.launched_at == booting.since
    assert life.busy_s.get("train", 0) > 0, life
    report = await lab.broker.scaling.latest(lab.queue)
    assert report is not None
    assert (report.stopped, report.instances) == (True, ())
    found = costs([life], report, None, since=None)
    lived_s = (life.ended_at - life.launched_at).total_seconds()
    assert found.total.hours == pytest.approx(lived_s / 3600)
    assert set(found.uses) == {"train", BOOTING, IDLE}
    actions = [action for made in await lab.broker.scaling.decisions(lab.queue) for action in made.actions]
    assert actions[0] == "launch 1"

    await lab.broker.agents.remove(presence(lab, ready).agent_id)
    again = await lab.client.submit(lab.queue, JobSpec(image="x"))
    why = await again.why()
    assert why is not None
    assert why.text.startswith("no agents are present yet, and no scaler has looked since")


async def test_a_queue_that_is_deleted_leaves_nothing_but_lives(lab: Lab) -> None:
    await lab.client.submit(lab.queue, JobSpec(image="x"))
    booting = await lab.until_stage(InstanceStage.BOOTING)
    spec = await lab.broker.queues.get(lab.queue)
    await lab.broker.queues.delete(lab.queue)
    async with asyncio.timeout(20):
        while not (lives := await lab.broker.scaling.ends(lab.queue)):
            pass
    assert [life.id for life in lives] == [booting.id]
    lab.stop.set()
    async with asyncio.timeout(20):
        await lab.scaler
    assert await lab.broker.scaling.latest(lab.queue) is None
    assert await lab.broker.scaling.decisions(lab.queue) == []
    await lab.broker.queues.apply(spec)


async def test_a_provider_that_can_not_be_had_is_why_it_waits(nats_url: str, queue_name: str, tmp_path: Path) -> None:
    broker = await connect(nats_url, name="both")
    await broker.queues.apply(QueueSpec(queue_name=queue_name))
    job = await Client(broker).submit(queue_name, JobSpec(image="x"))

    async def provider(spec: QueueSpec) -> LocalProvider:
        raise ProviderUnsuitable(f"nothing fits {spec.queue_name}", hint="ask for something else")

    stop = asyncio.Event()
    scaler = asyncio.create_task(
        main.run(
            broker,
            queues=[queue_name],
            data_dir=tmp_path,
            server_url=nats_url,
            clock=SystemClock(),
            stop=stop,
            drain_timeout_s=10,
            open_provider=provider,
        )
    )
    async with asyncio.timeout(20):
        while await broker.scaling.latest(queue_name) is None:
            pass
    why = await job.why()
    stop.set()
    async with asyncio.timeout(20):
        await scaler
    await broker.queues.delete(queue_name)
    await broker.close()
    assert str(why) == f"the scaler is held up: nothing fits {queue_name} (ask for something else)"
