"""The scaler's entry point: one broker connection in, every chosen queue scaled until told to stop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from launch.errors import Conflict, NotPermitted
from launch.ports import Broker, Cancels, Clock, Documents
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from launch.queue import StaticProvider as StaticSpec
from scaler.adapters.local import LocalProvider
from scaler.adapters.local_login import agent_login
from scaler.adapters.static import StaticProvider
from scaler.leader import Identity
from scaler.ports import Provider
from scaler.presences import Agents
from scaler.queues import Queues, Tools, keep
from scaler.settings import ScalerSettings

CLUSTER_KEY = "cluster"

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
        return await provider_for(
            spec,
            broker.documents,
            data_dir=data_dir,
            server_url=server_url,
            clock=clock,
            own_login_fits=await _may_be_agent(broker.cancels, spec),
        )

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


async def provider_for(
    spec: QueueSpec,
    documents: Documents,
    *,
    data_dir: Path,
    server_url: str,
    clock: Clock,
    only_look: bool = False,
    own_login_fits: bool = True,
) -> Provider:
    """The provider that a queue's spec names. Raises `ProviderUnavailable` or `ProviderUnsuitable`.

    `only_look`: it is not going to be asked to start or stop anything, so it may be another scaler's at the same time.
    `own_login_fits`: agents on this machine may log in as the scaler does, where no login of their own is there.
    """
    if isinstance(spec.provider, LocalSpec):
        return await LocalProvider.open(
            spec.queue_name,
            data_dir=data_dir,
            server_url=server_url,
            clock=clock,
            only_look=only_look,
            login_of=partial(agent_login, data_dir=data_dir, server_url=server_url, own_fits=own_login_fits),
        )
    if isinstance(spec.provider, StaticSpec):
        return StaticProvider()
    # Looked up here, as who scales on this machine only needs no AWS.
    from scaler.adapters.aws.provider import AwsProvider

    cluster = await cluster_name(documents)
    return await AwsProvider.open(spec, cluster=cluster, server_url=server_url, clock=clock)


async def _may_be_agent(cancels: Cancels, spec: QueueSpec) -> bool:
    """Whether our login may do what, of all roles but the admin's, only an agent of this queue may: hear of cancels."""
    if not isinstance(spec.provider, LocalSpec):
        return True
    try:
        async with aclosing(cancels.heard(spec.queue_name)) as heard:
            await anext(heard)
    except NotPermitted:
        return False
    return True


async def cluster_name(documents: Documents) -> str:
    """What tells this installation's instances from others' in the same account: made once, and kept in the broker."""
    known = await documents.get(CLUSTER_KEY)
    if known is None:
        name = secrets.token_hex(6)
        try:
            await documents.create(CLUSTER_KEY, name.encode())
        except Conflict:
            return await cluster_name(documents)
        return name
    return known.value.decode()


def _nobody(line: str) -> None:
    """Hears what nobody wants to hear."""
