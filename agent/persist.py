"""Says something to the broker until it has been heard.

What an agent has to say about a job must not be lost because the broker is away, or out of space: the job goes on, and
its news wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from launch.errors import BrokerError

T = TypeVar("T")

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 5.0

_log = structlog.get_logger(__name__)


async def until_heard(what: str, operation: Callable[[], Awaitable[T]]) -> T:
    """Repeat `operation` while it raises `BrokerError`; it must be safe to repeat. Ends when cancelled."""
    delay_s = FIRST_DELAY_S
    while True:
        try:
            return await operation()
        except BrokerError as error:
            _log.warning("broker does not take it", doing=what, error=error.message, next_try_s=delay_s)
        await asyncio.sleep(delay_s)
        delay_s = min(MAX_DELAY_S, delay_s * 2)
