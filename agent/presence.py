"""Tells the world that this agent is here, what it has, and what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from agent.holds import Holds
from launch.errors import BrokerError
from launch.policy import AgentPolicy
from launch.ports import Agents, Clock
from launch.presence import AgentPresence, AgentState

SETTLE_S = 0.2
"""Changes within this time go out as one."""
RETRY_S = 1.0
MAX_POLICY_CHARS = 4096

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change about an agent while it runs."""

    agent_id: str
    queue: str
    job_types: tuple[str, ...] | None
    version: str
    host: str
    instance: str | None
    labels: dict[str, str]
    started_at: datetime
    policy: Mapping[str, Any] | None = None
    """As in `AgentPresence`."""


def policy_told(policy: AgentPolicy) -> dict[str, Any] | None:
    """What the world is told of the policy; nothing of one that is too long to be said every few seconds."""
    told = policy.model_dump(mode="json", exclude_defaults=True)
    return told if len(json.dumps(told)) <= MAX_POLICY_CHARS else None


class Presence:
    """The agent's entry in the `agents` bucket: written at every change, and three times within its lease."""

    def __init__(self, agents: Agents, clock: Clock, holds: Holds, identity: Identity, *, ttl_s: float) -> None:
        self._agents = agents
        self._clock = clock
        self._holds = holds
        self._identity = identity
        self._ttl_s = ttl_s
        self._draining = False
        self._idle_since: datetime | None = clock.now()
        self._changed = holds.watch()
        self._heard_at = 0.0
        self.lapsed = asyncio.Event()
        """Set when the entry may have expired before it was renewed; whoever acts on that clears it."""

    @property
    def heard_at(self) -> float:
        """When the broker last confirmed the entry, on the event loop's clock."""
        return self._heard_at

    def drain(self) -> None:
        """From now on this agent takes no new work."""
        self._draining = True
        self._changed.set()

    async def announce(self) -> None:
        """Write the entry now."""
        self._changed.clear()
        asked_at = asyncio.get_running_loop().time()
        await self._agents.put(self._now(), ttl_s=self._ttl_s)
        if self._heard_at and asyncio.get_running_loop().time() - self._heard_at >= self._ttl_s:
            self.lapsed.set()
        self._heard_at = asked_at

    async def run(self) -> None:
        """Keep the entry true until cancelled."""
        heard = True
        while True:
            if heard:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._ttl_s / 3 - SETTLE_S):
                        await self._changed.wait()
            try:
                await self.announce()
                heard = True
            except BrokerError as error:
                if heard:
                    _log.warning("presence not renewed", error=error.message)
                heard = False
            # Who is back must be seen before the lease has run out, so a failure does not cost a third of it.
            await asyncio.sleep(SETTLE_S if heard else RETRY_S)

    async def leave(self) -> None:
        """Take the entry away: this agent is gone on purpose, and if it was drained, that is its last word.

        While it holds jobs the entry stays until it expires: their containers go on, for the next process to adopt.
        """
        with contextlib.suppress(BrokerError):
            if len(self._holds) or self._draining:
                await self.announce()
            if len(self._holds):
                return
            await self._agents.remove(self._identity.agent_id)

    def _now(self) -> AgentPresence:
        held = self._holds.all()
        if held:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._clock.now()
        state = AgentState.READY
        if self._draining:
            state = AgentState.DRAINING if held else AgentState.DRAINED
        identity = self._identity
        return AgentPresence(
            agent_id=identity.agent_id,
            queue=identity.queue,
            job_types=identity.job_types,
            state=state,
            capacity=self._holds.ledger.capacity,
            free=self._holds.free(),
            holds=tuple(str(hold.job) for hold in held),
            version=identity.version,
            host=identity.host,
            instance=identity.instance,
            labels=identity.labels,
            started_at=identity.started_at,
            idle_since=self._idle_since,
            at=self._clock.now(),
            policy=dict(identity.policy) if identity.policy is not None else None,
        )
