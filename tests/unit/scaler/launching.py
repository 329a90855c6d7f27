"""A queue's loop with all its parts, to be turned by hand; and launching without writing anything down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from launch.ports import Broker, Clock
from launch.queue import QueueSpec
from scaler.core.instance import Instance
from scaler.core.intent import Intent
from scaler.launches import Launches
from scaler.loop import Parts, QueueLoop
from scaler.observe import Observer
from scaler.ports import Provider
from scaler.presences import Agents
from scaler.report import Reporter
from scaler.settings import ScalerSettings
from scaler.state import Change, StateStore


async def intent_for(provider: Provider, spec: QueueSpec, count: int, intent_id: str) -> Intent:
    """What would be written down before so many are launched."""
    asked = await provider.propose(spec, count)
    return Intent(
        id=intent_id,
        queue=spec.queue_name,
        count=asked.count,
        created_at=datetime.now(UTC),
        config=asked.config,
        capacity=asked.capacity,
        request=asked.request,
        note=asked.note,
    )


async def launch(provider: Provider, spec: QueueSpec, count: int, intent_id: str) -> list[Instance]:
    """Propose so many and launch them for an intent of this id; returns what there is of it."""
    return list((await provider.launch(await intent_for(provider, spec, count, intent_id))).instances)


def made_loop(
    broker: Broker,
    provider: Provider,
    agents: Agents,
    store: StateStore,
    clock: Clock,
    settings: ScalerSettings,
    spec: QueueSpec,
    *,
    tell: Callable[[str], None],
    wake: asyncio.Event,
    may_act: Callable[[], bool] = lambda: True,
) -> QueueLoop:
    """What `scaler.queues` puts together for a queue."""
    launches = Launches(store, provider, clock, settings, queue=spec.queue_name, say=tell, may_act=may_act)

    async def learn(lessons: Sequence[Change]) -> None:
        for lesson in lessons:
            await store.change(lesson)

    observer = Observer(
        broker, provider, agents, clock, settings, spec,
        state=lambda: store.state, expected=launches.expected, learn=learn,
    )  # fmt: skip
    reporter = Reporter(broker.scaling, clock, queue=spec.queue_name, leader="me")
    parts = Parts(
        broker, provider, observer, launches, store, reporter, clock, settings, may_act=may_act, tell=tell
    )  # fmt: skip
    return QueueLoop(spec, parts, wake=wake)
