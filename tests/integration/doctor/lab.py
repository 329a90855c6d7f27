"""A server with a queue, jobs, an agent and a scaler's report on it, and what `launch doctor` says of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from launch.adapters.nats import NatsBroker, connect
from launch.adapters.nats.connection import Connection
from launch.core.capacity import Amount
from launch.core.quantity import parse_memory
from launch.login import Login
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.scaling import ScalingReport
from tests.e2e.world import World


@asynccontextmanager
async def broker_at(url: str, login: Login | None = None) -> AsyncIterator[NatsBroker]:
    broker = await connect(url, name="test", credentials=login)
    try:
        yield broker
    finally:
        await broker.close()


async def stock(
    url: str,
    spec: QueueSpec,
    *images: str,
    agent: bool = False,
    policy: dict[str, Any] | None = None,
    login: Login | None = None,
) -> None:
    """A queue with a job of each image, and perhaps an agent and a scaler's report."""
    now = datetime.now(UTC)
    async with broker_at(url, login) as broker:
        await broker.queues.apply(spec)
        for image in images:
            await broker.jobs.publish(spec.queue_name, "train", json.dumps({"image": image}).encode())
        if agent:
            room = Amount(cpu_milli=64_000, memory_bytes=parse_memory("64Gi"), slots=8)
            presence = AgentPresence(
                agent_id="a-1", queue=spec.queue_name, capacity=room, free=room, host="h", started_at=now,
                version=version("nats-launch"), at=now, policy=policy,
            )  # fmt: skip
            await broker.agents.put(presence, ttl_s=60)
            await broker.scaling.report(ScalingReport(queue=spec.queue_name, at=now, leader="s-1"))


def findings(world: World, *args: str, code: int | None) -> list[dict[str, Any]]:
    told = json.loads("\n".join(world.run("doctor", *args, "--json", code=code).out))
    assert set(told) == {"worst", "findings"}
    assert all(set(one) == {"check", "level", "found", "cure"} for one in told["findings"])
    assert all(one["cure"] for one in told["findings"] if one["level"] != "ok"), told
    levels = [one["level"] for one in told["findings"]]
    assert told["worst"] == next(level for level in ("fail", "warn", "ok") if level in levels)
    return list(told["findings"])


def bad(found: list[dict[str, Any]], *checks: str) -> str:
    """What fails, which are these checks and no others."""
    assert {one["check"] for one in found if one["level"] == "fail"} == set(checks), found
    return " ".join(f"{one['found']} — {one['cure']}" for one in found if one["level"] == "fail")


async def contents(url: str, login: Login | None = None) -> dict[str, tuple[int, dict[str, Any]]]:
    """Each stream's last sequence and configuration."""
    connection = Connection(url)
    await connection.open(name="test", credentials=login, timeout_s=5)
    try:
        listed = (await connection.api("STREAM.LIST")).get("streams") or []
        return {one["config"]["name"]: (one["state"]["last_seq"], one["config"]) for one in listed}
    finally:
        await connection.close()
