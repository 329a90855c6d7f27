"""What the scaler would do now: looks at each queue as it does, plans, and touches nothing.

Takes no lease, writes nothing, starts and stops nothing; so it may run beside the scaler that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from launch.errors import LaunchError
from launch.ports import Broker, Clock
from launch.queue import QueueSpec
from launch.subjects import scaler_state_key
from scaler.core.instance import Instance
from scaler.core.intent import QueueState
from scaler.core.plan import Plan, plan
from scaler.core.report import in_words
from scaler.core.snapshot import Worker
from scaler.launches import intended
from scaler.observe import Observer
from scaler.ports import Provider
from scaler.presences import Agents
from scaler.settings import ScalerSettings
from scaler.state import Change

READY_TIMEOUT_S = 10.0


async def dry_run(
    broker: Broker,
    *,
    queues: Sequence[str] | None,
    clock: Clock,
    open_provider: Callable[[QueueSpec], Awaitable[Provider]],
    settings: ScalerSettings | None = None,
) -> list[str]:
    """The plan of each of `queues` (None: of all) in lines for people. Raises `LaunchError`."""
    settings = settings or ScalerSettings()
    specs = await broker.queues.list() if queues is None else [await broker.queues.get(name) for name in queues]
    agents = Agents(broker, clock)
    following = asyncio.create_task(agents.follow(), name="scaler-agents")
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            ready = asyncio.create_task(agents.ready.wait())
            await asyncio.wait({ready, following}, return_when=asyncio.FIRST_COMPLETED)
        lines = []
        for spec in specs:
            lines += await _one(spec, broker, agents, clock, settings, open_provider)
        return lines
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, LaunchError):
            await following


async def _one(
    spec: QueueSpec,
    broker: Broker,
    agents: Agents,
    clock: Clock,
    settings: ScalerSettings,
    open_provider: Callable[[QueueSpec], Awaitable[Provider]],
) -> list[str]:
    name = spec.queue_name
    try:
        provider = await open_provider(spec)
    except LaunchError as error:
        return [f"{name}: not scaled: {error}"]
    try:
        found = await broker.documents.get(scaler_state_key(name))
        state = QueueState.model_validate_json(found.value) if found is not None else QueueState()

        def expected(instances: Sequence[Instance]) -> list[Worker]:
            return intended(state.intents, instances, clock.now())

        observer = Observer(
            broker, provider, agents, clock, settings, spec, state=lambda: state, expected=expected, learn=_forget
        )  # fmt: skip
        observer.running.restore(state.durations_s)
        await observer.look(spec)
        await observer.running.read_all()
        snapshot = await observer.look(spec)
        return _lines(name, plan(snapshot, observer.policy(spec), clock.now()))
    except ValueError as error:
        return [f"{name}: the scaler's state can't be read: {str(error).splitlines()[0]}"]
    finally:
        await provider.close()


async def _forget(lessons: Sequence[Change]) -> None:
    """Nothing is learned here."""


def _lines(name: str, decided: Plan) -> list[str]:
    actions = [f"{name}: would {in_words(action)}" for action in decided.actions] or [f"{name}: would do nothing"]
    return [*actions, *(f"{name}:   {reason}" for reason in decided.reasons)]
