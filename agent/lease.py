"""Keeps what is held from being delivered to somebody else: one progress message each, from one task an agent."""

from __future__ import annotations

import asyncio

import structlog

from agent.holds import Holds
from launch.errors import BrokerError
from launch.ports import Broker

_log = structlog.get_logger(__name__)


async def keep_leases(broker: Broker, holds: Holds) -> None:
    """Renew every held message three times within its ack wait, until cancelled."""
    while True:
        await asyncio.sleep(broker.ack_wait_s / 3)
        try:
            await broker.work.progress(holds.replies())
        except BrokerError as error:
            _log.warning("leases not renewed", error=error.message)
