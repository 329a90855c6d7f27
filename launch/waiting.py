"""Looks up what it takes to say why a job waits: its queue, its agents, its place in line, what the scaler has told.

Every look is bounded, however long the queue is.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime

from launch.core.explain import explain
from launch.core.line import Ahead, Line
from launch.core.states import State
from launch.core.why import Why
from launch.errors import NotFound, Unreadable
from launch.ports import Broker, Depth
from launch.record import JobRecord
from launch.scaling import ScalingReport

LINE_PAGE = 250
"""Messages read at once where a job's place in line is looked for."""


async def why_of(broker: Broker, record: JobRecord, now: datetime) -> Why | None:
    """What a job that does not run yet waits for."""
    name = record.queue
    try:
        queue = await broker.queues.get(name)
        status = await broker.queues.status(name)
    except NotFound:
        return explain(record, queue=None, paused=False, agents=await broker.agents.list(name), now=now)
    agents = await broker.agents.list(name)
    ahead, scaling = None, None
    if record.state is State.QUEUED:
        held = frozenset(job for agent in agents for job in agent.holds)
        ahead = await jobs_ahead(broker, record, status.depth, held)
        scaling = await latest_report(broker, name)
    return explain(record, queue=queue, paused=status.paused, agents=agents, now=now, ahead=ahead, scaling=scaling)


async def jobs_ahead(broker: Broker, record: JobRecord, depth: Depth, held: Set[str]) -> Ahead:
    """How many of the queue's jobs come before it."""
    line = Line(record.id, record.priority, held=held, counts=depth.subjects)
    after_seq = 0
    while not line.is_seen:
        page = await broker.jobs.peek(record.queue, LINE_PAGE, after_seq=after_seq)
        line.see([(message.job, message.consumer.priority) for message in page])
        after_seq = page[-1].job.seq if page else after_seq
    return line.ahead()


async def latest_report(broker: Broker, queue: str) -> ScalingReport | None:
    """What the queue's scaler told last; None also if that can't be read."""
    try:
        return await broker.scaling.latest(queue)
    except Unreadable:
        return None
