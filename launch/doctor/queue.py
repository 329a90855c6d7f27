"""A queue: its spec and status, its agents, its scaler, the images of its jobs, and what the oldest job waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from launch.core import doctor
from launch.core.doctor import Finding, ok, warn
from launch.core.states import State
from launch.errors import NotFound, Unreadable
from launch.ports import Broker, QueueStatus
from launch.presence import AgentPresence
from launch.queue import AwsProvider, QueueSpec
from launch.record import JobRecord
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record
from launch.waiting import latest_report, why_of

SEEN_AT_MOST = 100
"""Jobs of a queue that are looked at, the oldest ones."""
IMAGES_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """A queue as it is at this moment; `waiting` are its oldest jobs that do not run, oldest first."""

    spec: QueueSpec
    status: QueueStatus
    agents: Sequence[AgentPresence]
    waiting: Sequence[JobRecord]


async def see(broker: Broker, name: str) -> QueueSeen:
    """Everything about the queue that several checks need. Raises `NotFound`, `Unreadable`, `BrokerError`."""
    spec = await broker.queues.get(name)
    status = await broker.queues.status(name)
    agents = await broker.agents.list(name)
    held = {job for agent in agents for job in agent.holds}
    waiting = []
    for message in await broker.jobs.peek(name, SEEN_AT_MOST):
        if str(message.job) in held:
            continue
        try:
            kept = await broker.records.get(message.job)
        except Unreadable:
            continue
        record = kept.value if kept is not None else unclaimed_record(message)
        if record.state in (State.QUEUED, State.PREPARING):
            waiting.append(record)
    return QueueSeen(spec, status, agents, waiting)


async def states(broker: Broker, seen: QueueSeen, *, now: datetime, version: str) -> list[Finding]:
    """Its spec and status, who works for it, and who starts workers."""
    spec, waiting = seen.spec, len(seen.waiting)
    report = await latest_report(broker, spec.queue_name)
    return [
        doctor.queue_state(spec, paused=seen.status.paused, messages=seen.status.depth.messages),
        *doctor.present(spec, seen.agents, waiting=waiting, version=version),
        doctor.scaler(spec, report, now, waiting=waiting, agents=len(seen.agents)),
    ]


async def oldest(broker: Broker, seen: QueueSeen, *, now: datetime) -> list[Finding]:
    """What the job that waits longest waits for."""
    if not seen.waiting:
        return [ok("waiting", f"{seen.spec.queue_name}: no job waits")]
    return await job(broker, seen.waiting[0], now=now)


async def job(broker: Broker, record: JobRecord, *, now: datetime) -> list[Finding]:
    """What one job waits for."""
    why = await why_of(broker, record, now)
    if why is None:
        return [ok("waiting", f"{record.id} is {record.state}")]
    if why.hint is None:
        return [ok("waiting", f"{record.id} waits: {why.text}")]
    return [warn("waiting", f"{record.id} waits: {why.text}", why.hint)]


async def find(broker: Broker, wanted: JobId) -> JobRecord:
    """The record of a job, claimed or not. Raises `NotFound`."""
    kept = await broker.records.get(wanted)
    if kept is not None:
        return kept.value
    message = await broker.jobs.get(wanted)
    if message is None:
        raise NotFound(f"there is no job {wanted}", hint="launch jobs lists those that there are")
    return unclaimed_record(message)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image, who wants it, and the queue whose login it is pulled with."""

    image: str
    by: str
    spec: QueueSpec | None


def images_of(seen: Sequence[QueueSeen], wanted: JobRecord | None) -> list[Wanted]:
    """The images that workers will need, each once."""
    found: dict[str, Wanted] = {}
    specs = {one.spec.queue_name: one.spec for one in seen}
    for one in seen:
        if isinstance(one.spec.provider, AwsProvider) and one.spec.agent_image:
            image = one.spec.agent_image
            found.setdefault(image, Wanted(image, f"agent_image of {one.spec.queue_name}", one.spec))
    records = [wanted] if wanted is not None else [record for one in seen for record in one.waiting]
    for record in records:
        if record.spec is not None:
            image = record.spec.image
            found.setdefault(image, Wanted(image, f"image of {record.id}", specs.get(record.queue)))
    return list(found.values())[:IMAGES_AT_MOST]
