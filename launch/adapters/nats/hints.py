"""Lossy hints on plain subjects: somebody says that there is something to look at.

A hint carries no truth of its own. Whoever may have missed one is told so by None: at the start, after every
reconnect, and when the reader fell behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from nats.aio.msg import Msg

from launch.adapters.nats.connection import Connection
from launch.errors import LaunchError

T = TypeVar("T")
NOTICES_KEPT = 10_000
"""A reader that falls this far behind is told to look again instead."""


async def hints(connection: Connection, subject: str, read: Callable[[Msg], T]) -> AsyncGenerator[T | None]:
    """Messages of a plain subject; None first, after every reconnect, and when the reader fell behind."""
    events: asyncio.Queue[T | None] = asyncio.Queue()

    def put(msg: Msg) -> None:
        if events.qsize() >= NOTICES_KEPT:
            while not events.empty():
                events.get_nowait()
            events.put_nowait(None)
            return
        with contextlib.suppress(ValueError, LaunchError):
            events.put_nowait(read(msg))

    with connection.on_reconnect(lambda: events.put_nowait(None)):
        async with connection.subscription(subject, put):
            await connection.settled()  # whoever looks now, over any connection, misses nothing that comes after
            connection.denials.check(subject)
            yield None
            while True:
                yield await events.get()
