"""What can end an agent's work from outside, besides signals: a drain request, a spot notice, a lost broker.

Each is one loop that turns news into the same two things: `stop` (no new work) and a request to stop what runs.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import Protocol

import structlog

from agent.core.outcome import StopCause
from agent.holds import Holds
from agent.presence import Presence
from launch.errors import BrokerError
from launch.ports import Agents, Clock

RETRY_S = 1.0
NOTICE_POLL_S = 5.0
"""EC2 recommends asking every five seconds; there is nothing to wait on."""
LEFT_FOR_RECORDS_S = 15.0
"""What of the two minutes is kept for telling the broker what became of the jobs."""
LEAST_GRACE_S = 1.0

_log = structlog.get_logger(__name__)


async def heed_drains(agents: Agents, agent_id: str, stop: asyncio.Event) -> None:
    """Set `stop` when somebody asks this agent to drain; until cancelled."""
    while True:
        try:
            async with aclosing(agents.drain_asked(agent_id)) as asked:
                async for request in asked:
                    if request is not None and not stop.is_set():
                        _log.info("asked to drain")
                        stop.set()
        except BrokerError as error:
            _log.warning("can't hear of drains", error=error.message)
        await asyncio.sleep(RETRY_S)


class SpotNotices(Protocol):
    """Where spot interruptions are announced."""

    async def interruption(self) -> datetime | None:
        """When this machine will be taken away; None if that is not planned, or nobody can tell."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


async def heed_spot_notices(notices: SpotNotices, clock: Clock, holds: Holds, stop: asyncio.Event) -> None:
    """When this machine is to be taken away: no new work, and everything that runs goes back to the queue."""
    try:
        gone_at = await notices.interruption()
        while gone_at is None:
            await asyncio.sleep(NOTICE_POLL_S)
            gone_at = await notices.interruption()
        left_s = (gone_at - clock.now()).total_seconds()
        _log.warning("spot interruption: giving jobs back", jobs=len(holds), left_s=round(left_s))
        stop.set()
        while True:
            # A job that was just being claimed when the notice came is told as well.
            for hold in holds.all():
                hold.ask_to_stop(StopCause.PREEMPTED, within_s=max(LEAST_GRACE_S, left_s - LEFT_FOR_RECORDS_S))
            await asyncio.sleep(RETRY_S)
    finally:
        await notices.close()


async def guard_contact(presence: Presence, holds: Holds, *, lease_s: float) -> None:
    """Stop what runs when the broker has not confirmed this agent for two thirds of its lease; until cancelled.

    Others may take a job over once the lease has run out: the containers get half of the last third to end, and the
    engine the other half to kill those that don't.
    """
    loop = asyncio.get_running_loop()
    while True:
        silent_s = loop.time() - presence.heard_at
        left_s = lease_s * 2 / 3 - silent_s
        if left_s > 0:
            await asyncio.sleep(left_s)
            continue
        for hold in holds.all():
            if not hold.stop.done():
                _log.warning("out of contact: stopping", job=str(hold.job), silent_s=round(silent_s, 1))
            hold.ask_to_stop(StopCause.OUT_OF_CONTACT, within_s=lease_s / 6)
        await asyncio.sleep(lease_s / 6)
