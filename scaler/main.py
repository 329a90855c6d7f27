"""The scaler's entry point: one broker connection in, every chosen queue scaled until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.ports import Broker, Clock
from scaler.settings import ScalerSettings


async def run(
    broker: Broker,
    *,
    queues: Sequence[str] | None,
    data_dir: Path,
    server_url: str,
    clock: Clock,
    stop: asyncio.Event,
    drain_timeout_s: float,
    abort: asyncio.Event | None = None,
    on_event: Callable[[str], None] | None = None,
    settings: ScalerSettings | None = None,
) -> None:
    """Scale `queues` (None: all that exist or will) until `stop` is set.

    A queue that appears, changes or disappears takes effect at once. When `stop` is set, the agents that run on this
    machine are drained, for at most `drain_timeout_s`; when `abort` is set as well, they leave without finishing what
    they hold. Returns when they are gone, or after saying through `on_event` (one plain line a call, for people) which
    are left. `data_dir` holds what local agents leave on disk, `server_url` is where they find the broker.
    """
    raise NotImplementedError
