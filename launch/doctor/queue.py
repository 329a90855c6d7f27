"""A queue: its spec and status, its agents, its scaler, the images of its jobs, and what the oldest job waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from launch.core import doctor
from launch.core.doctor import Finding, Level, ok, warn
from launch.core.states import State
from launch.doctor.parts import Refusals, Server
from launch.errors import NotFound, Unreadable
from launch.job import Pull
from launch.ports import Broker, QueueStatus
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record
from launch.waiting import latest_report, why_of

SEEN_AT_MOST = 100
"""Jobs of a queue that are looked at, the oldest ones."""
IMAGES_AT_MOST = 10
AGENTS_AT_MOST = 50
"""Agents of a queue whose clocks are looked at."""


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """A queue as it is at this moment; its jobs are those among the oldest that do not run, oldest first."""

    spec: QueueSpec
    status: QueueStatus
    agents: Sequence[AgentPresence]
    waiting: Sequence[JobRecord]
    """Those that no agent holds."""
    coming: Sequence[JobRecord] = ()
    """Those that an agent holds and has not started: it may be at its image for the tenth time."""


async def see(broker: Broker, name: str) -> QueueSeen:
    """Everything about the queue that several checks need. Raises `NotFound`, `Unreadable`, `BrokerError`."""
    spec = await broker.queues.get(name)
    status = await broker.queues.status(name)
    agents = await broker.agents.list(name)
    held = {job for agent in agents for job in agent.holds}
    waiting: list[JobRecord] = []
    coming: list[JobRecord] = []
    for message in await broker.jobs.peek(name, SEEN_AT_MOST):
        try:
            kept = await broker.records.get(message.job)
        except Unreadable:
            continue
        record = kept.value if kept is not None else unclaimed_record(message)
        if record.state in (State.QUEUED, State.PREPARING):
            (coming if str(message.job) in held else waiting).append(record)
    return QueueSeen(spec, status, agents, waiting, coming)


async def states(broker: Broker, seen: QueueSeen, *, now: datetime, version: str) -> list[Finding]:
    """Its spec and status, who works for it, and who starts workers."""
    spec, waiting = seen.spec, len(seen.waiting)
    report = await latest_report(broker, spec.queue_name)
    return [
        doctor.queue_state(spec, paused=seen.status.paused, messages=seen.status.depth.messages),
        *doctor.present(spec, seen.agents, waiting=waiting, version=version),
        doctor.scaler(spec, report, now, waiting=waiting, agents=len(seen.agents)),
    ]


async def first(broker: Broker, seen: QueueSeen, jobs: Sequence[JobRecord], *, now: datetime) -> list[Finding]:
    """What the first of these jobs waits for."""
    if not jobs:
        return [ok("waiting", f"{seen.spec.queue_name}: no job waits")]
    record = jobs[0]
    why = await why_of(broker, record, now)
    if why is None:
        return [ok("waiting", f"{record.id} is {record.state}")]
    if why.hint is None:
        return [ok("waiting", f"{record.id} waits: {why.text}")]
    return [warn("waiting", f"{record.id} waits: {why.text}", why.hint)]


async def clocks(server: Server, seen: QueueSeen, *, ahead_s: float | None) -> list[Finding]:
    """The agents whose clocks are not the server's; nothing if all are, or none tells.

    `ahead_s`: how far ours is before the server's, since who is off may be the server.
    """
    names = [agent.agent_id for agent in seen.agents][:AGENTS_AT_MOST]
    found = await asyncio.gather(*(server.agent_ahead_s(name) for name in names))
    off = {name: one for name, one in zip(names, found, strict=True) if one is not None}
    return doctor.agent_clocks(seen.spec.queue_name, off, ahead_s)


def policies(seen: QueueSeen, jobs: Sequence[JobRecord], refusals: Refusals) -> list[Finding]:
    """What the agents' policies say of the jobs that wait."""
    told: list[tuple[str, list[str | None]]] = []
    coming = _policy_of_instances(seen.spec) if not seen.agents else None
    for record in jobs:
        takers = [
            agent.policy
            for agent in seen.agents
            if agent.state is AgentState.READY
            and agent.policy is not None
            and (agent.job_types is None or record.job_type in agent.job_types)
        ] or ([coming] if coming is not None else [])
        if record.spec is not None and record.state is State.QUEUED and takers:
            spec = seen.spec.with_defaults(record.spec)
            told.append((str(record.id), [refusals(policy, spec, seen.spec) for policy in takers]))
    if coming is not None:
        found = doctor.policies(seen.spec.queue_name, [coming], told)
        return [line for line in found if line.level is not Level.OK]
    return doctor.policies(seen.spec.queue_name, [agent.policy for agent in seen.agents], told)


def _policy_of_instances(spec: QueueSpec) -> dict[str, Any] | None:
    """What the agents of instances that are still to start will have; None where agents bring their own."""
    if not isinstance(spec.provider, AwsProvider):
        return None
    policy = spec.provider.agent_policy
    return policy.model_dump(mode="json", exclude_defaults=True) if policy is not None else {}


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
    """An image, who wants it and how, the queue whose login it is pulled with, and whether its workers are here."""

    image: str
    by: str
    spec: QueueSpec | None
    pull: Pull = Pull.MISSING
    here: bool = True


def works_here(seen: QueueSeen, host: str) -> bool:
    """Whether the queue's workers run on this machine, as far as can be told."""
    if isinstance(seen.spec.provider, StaticProvider):
        return any(agent.host == host for agent in seen.agents)
    return not isinstance(seen.spec.provider, AwsProvider)


def images_of(seen: Sequence[QueueSeen], wanted: JobRecord | None, *, host: str) -> list[Wanted]:
    """The images that workers will need: of each queue, each once."""
    found: dict[tuple[str, str], Wanted] = {}
    queues = {one.spec.queue_name: one for one in seen}
    for name, one in queues.items():
        if isinstance(one.spec.provider, AwsProvider) and one.spec.agent_image:
            image = one.spec.agent_image
            found[name, image] = Wanted(image, f"agent_image of {name}", one.spec, here=False)
    for record in (
        [wanted] if wanted is not None else [record for one in seen for record in (*one.coming, *one.waiting)]
    ):
        if record.spec is None:
            continue
        image, of = record.spec.image, queues.get(record.queue)
        spec, here = (of.spec, works_here(of, host)) if of is not None else (None, True)
        found.setdefault((record.queue, image), Wanted(image, f"image of {record.id}", spec, record.spec.pull, here))
    return list(found.values())[:IMAGES_AT_MOST]
