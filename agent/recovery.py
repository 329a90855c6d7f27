"""What an earlier process of this agent left behind: adopt it, finish it, or put it away.

A container outlives its agent. Its labels say which attempt of which job it is and how to ack it, so a new process with
the same id goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio

import structlog

from agent.claims import Claims
from agent.core.claim import Leftover
from agent.holds import Hold
from agent.netns import NetworkPool
from agent.ports import Container, Engine, EngineError, EngineUnavailable
from launch.errors import LaunchError
from launch.subjects import (
    LABEL_ACK,
    LABEL_AGENT,
    LABEL_ATTEMPT,
    LABEL_KEEPER,
    LABEL_QUEUE,
    LABEL_SEQ,
    LABEL_SUBMITTED,
    JobId,
    next_container_name,
)

ENGINE_RETRY_S = 1.0

_log = structlog.get_logger(__name__)


async def recover(engine: Engine, claims: Claims, networks: NetworkPool, agent_id: str) -> list[Hold]:
    """Look at every container that carries this agent's label; returns the jobs that go on."""
    adopted = []
    left = await engine.list({LABEL_AGENT: agent_id})
    removed = set()
    for container in left:
        if LABEL_KEEPER in container.labels:
            continue
        made_ahead = container.name == next_container_name(agent_id)
        hold = Leftover.DISCARD if made_ahead else await _look(claims, container)
        if hold is None:
            continue
        if isinstance(hold, Hold):
            _log.info("adopted", job=str(hold.job), container=container.id[:12], state=container.state)
            adopted.append(hold)
            continue
        _log.info("left over: removed", container=container.name, verdict=str(hold))
        await _remove(engine, container)
        removed.add(container.id)
    networks.adopt([container for container in left if container.id not in removed])
    return adopted


async def _remove(engine: Engine, container: Container) -> None:
    """Put it away, however long the engine is away: it may run, and its job with another agent as well."""
    while True:
        try:
            await engine.remove(container.id)
            return
        except EngineUnavailable as error:
            _log.warning("container not removed yet", container=container.name, error=error.message)
        except EngineError as error:
            _log.warning("container not removed", container=container.name, error=error.message)
            return
        await asyncio.sleep(ENGINE_RETRY_S)


async def _look(claims: Claims, container: Container) -> Hold | Leftover | None:
    """What becomes of one container; None if its record can't be read: then nobody can tell, and it is left alone."""
    labels = container.labels
    try:
        job = JobId.parse(f"{labels.get(LABEL_QUEUE, '')}/{labels.get(LABEL_SEQ, '')}")
        attempt = int(labels.get(LABEL_ATTEMPT, ""))
    except (LaunchError, ValueError):
        return Leftover.DISCARD
    try:
        return await claims.adopt(job, attempt, labels.get(LABEL_SUBMITTED, ""), labels.get(LABEL_ACK, ""))
    except LaunchError as error:
        _log.warning("left alone: its record can't be read", container=container.name, error=error.message)
        return None
