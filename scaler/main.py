"""The scaler's entry point: one broker connection in, every chosen queue scaled until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from launch.ports import Broker, Clock
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from launch.queue import StaticProvider as StaticSpec
from scaler.adapters.local import LocalProvider
from scaler.adapters.static import StaticProvider
from scaler.leader import Identity
from scaler.ports import Provider, ProviderUnsuitable
from scaler.presences import Agents
from scaler.queues import Queues, Tools, keep
from scaler.settings import ScalerSettings

OpenProvider = Callable[[QueueSpec], Awaitable[Provider]]


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
    open_provider: OpenProvider | None = None,
) -> None:
    """Scale `queues` (None: all that exist or will) until `stop` is set.

    A queue that appears, changes or disappears takes effect at once. When `stop` is set, the agents that run on this
    machine are drained, for at most `drain_timeout_s`; after that, or as soon as `abort` is set, they are told to leave
    without finishing what they hold. Returns when they are gone, or after saying which are left. `on_event` hears what
    happens, one plain line a call, for people. `data_dir` holds what local agents leave on disk, `server_url` is where
    they find the broker. `open_provider` makes a queue's provider from its spec, if not in the usual way.
    """
    settings = settings or ScalerSettings()

    async def usual(spec: QueueSpec) -> Provider:
        return await provider_for(spec, data_dir=data_dir, server_url=server_url, clock=clock)

    async with asyncio.TaskGroup() as tasks:
        agents = Agents(broker, clock)
        tools = Tools(
            broker=broker,
            agents=agents,
            clock=clock,
            settings=settings,
            open_provider=open_provider or usual,
            tell=on_event or _nobody,
            me=Identity.mine(),
            drain_timeout_s=drain_timeout_s,
            abort=abort or asyncio.Event(),
        )
        scaled = Queues(frozenset(queues) if queues is not None else None, tools, tasks)
        agents.listen(scaled.wake)
        watches = [
            tasks.create_task(keep("agents", agents.follow), name="scaler-agents"),
            tasks.create_task(keep("queues", scaled.follow), name="scaler-queues"),
        ]
        await stop.wait()
        for watch in watches:
            watch.cancel()
        scaled.stop()


async def provider_for(spec: QueueSpec, *, data_dir: Path, server_url: str, clock: Clock) -> Provider:
    """The provider that a queue's spec names. Raises `ProviderUnavailable` or `ProviderUnsuitable`."""
    if isinstance(spec.provider, LocalSpec):
        return await LocalProvider.open(spec.queue_name, data_dir=data_dir, server_url=server_url, clock=clock)
    if isinstance(spec.provider, StaticSpec):
        return StaticProvider()
    raise ProviderUnsuitable(
        f"the {spec.provider.type} provider is not there yet, so nothing is started for queue {spec.queue_name}",
        hint="provider: local or static works",
    )


def _nobody(line: str) -> None:
    """Hears what nobody wants to hear."""
