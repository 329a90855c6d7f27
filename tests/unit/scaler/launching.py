"""Launching through a provider as the scaler does, without writing anything down."""

from __future__ import annotations

from datetime import UTC, datetime

from launch.queue import QueueSpec
from scaler.core.instance import Instance
from scaler.core.intent import Intent
from scaler.ports import Provider


async def launch(provider: Provider, spec: QueueSpec, count: int, intent_id: str) -> list[Instance]:
    """Propose so many and launch them for an intent of this id; returns what there is of it."""
    asked = await provider.propose(spec, count)
    intent = Intent(
        id=intent_id,
        queue=spec.queue_name,
        count=asked.count,
        created_at=datetime.now(UTC),
        config=asked.config,
        capacity=asked.capacity,
        request=asked.request,
        note=asked.note,
    )
    return list((await provider.launch(intent)).instances)
