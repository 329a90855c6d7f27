"""Hears that somebody asked to cancel a job that runs here, and that a job here was taken over by a later attempt."""

from __future__ import annotations

import asyncio
import functools
from contextlib import aclosing

import structlog

from agent.claims import Claims, Fenced
from agent.core.outcome import StopCause
from agent.holds import Hold, Holds
from agent.persist import until_heard
from agent.presence import Presence
from launch.errors import BrokerError, LaunchError
from launch.ports import Cancels

RETRY_S = 1.0
_log = structlog.get_logger(__name__)


async def heed_cancels(cancels: Cancels, claims: Claims, holds: Holds, queue: str) -> None:
    """Look at the record of every job that is named, and of all after a reconnect, until cancelled."""
    while True:
        try:
            async with aclosing(cancels.heard(queue)) as hints:
                async for job in hints:
                    named = holds.get(job) if job is not None else None
                    for hold in holds.all() if job is None else (named,) if named else ():
                        await _look(claims, hold)
        except BrokerError as error:
            _log.warning("can't hear of cancels", error=error.message)
        await asyncio.sleep(RETRY_S)


async def heed_lapses(presence: Presence, claims: Claims, holds: Holds) -> None:
    """Look at the record of every job that is held when others may have taken this agent for lost, until cancelled.

    A process that was frozen, or whose packets went nowhere for a while, keeps its connection: no reconnect tells it.
    """
    while True:
        await presence.lapsed.wait()
        presence.lapsed.clear()
        _log.warning("out of sight for as long as the lease: looking whether jobs were taken over", jobs=len(holds))
        for hold in holds.all():
            await until_heard("read the record", functools.partial(_look, claims, hold))


async def _look(claims: Claims, hold: Hold) -> None:
    try:
        await claims.refresh(hold)
    except Fenced:
        hold.ask_to_stop(StopCause.FENCED)
        return
    except BrokerError:
        raise
    except LaunchError as error:
        # A record that somebody has spoilt says nothing: its job goes on, and so do the others.
        _log.warning("a record can't be read", job=str(hold.job), error=error.message)
        return
    if hold.record.cancel is not None:
        _log.info("cancel requested", job=str(hold.job), by=hold.record.cancel.by)
        hold.ask_to_stop(StopCause.CANCELLED)
