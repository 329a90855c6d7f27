"""Records, presences and files that another writer made up."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import nats
import pytest

from launch.core.states import Reason, State
from launch.subjects import JobId
from tests.contract.broker_world import presence, record
from tests.hostile.lab import GOOD, open_hostile
from tests.unit.agent.worlds import make_world, simulated

LIES: list[dict[str, Any]] = [
    {"seq": 7},
    {"queue": "other"},
    {"submitted_at": "2026-01-01T00:00:00"},
    {"submitted_at": "0001-01-01T00:00:00Z"},
    {"updated_at": "9999-12-31T23:59:59-12:00"},
    {"attempt": -1},
    {"attempt": 10**400},
    {"failures": 2**70},
    {"spec": {"image": "x", "timeout": 1e308}},
    {"state": "finished"},
    {"exit_code": "\u0000"},
]


@pytest.mark.nats
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: repr(lie)[:50])
async def test_a_record_that_lies_stops_no_agent_and_hides_no_job(
    nats_url: str, queue_name: str, lie: dict[str, Any]
) -> None:
    """It says that it is another's, or what no clock and no counter can say."""
    async with open_hostile(nats_url, queue_name) as hostile:
        body = json.loads(record(JobId(queue_name, 1)).model_dump_json()) | lie
        stranger = await nats.connect(nats_url)
        await stranger.request(f"$KV.jobs.{queue_name}.1", json.dumps(body).encode())  # answered once it is stored
        await stranger.close()
        published = await hostile.broker.jobs.publish(queue_name, "train", GOOD)
        assert published.job.seq == 1
        good = await hostile.broker.jobs.publish(queue_name, "train", GOOD)
        records = hostile.broker.records
        async with nats_timeout():
            while (known := await records.get(good.job)) is None or not known.value.state.terminal:
                assert not hostile.agent.done()
        assert known.value.state is State.SUCCEEDED
        assert [found.id for found in await records.list(queue_name)] == [good.job]


def nats_timeout() -> Any:
    """A bound on waiting for the agent."""
    import asyncio

    return asyncio.timeout(15)


@pytest.mark.nats
@pytest.mark.parametrize("lie", [{"agent_id": "another"}, {"started_at": "2026-01-01T00:00:00"}])
async def test_a_presence_that_lies_is_left_out(nats_url: str, queue_name: str, lie: dict[str, Any]) -> None:
    from launch.adapters.nats import connect

    broker, stranger = await connect(nats_url, name="test"), await nats.connect(nats_url)
    bad = f"{queue_name}-bad"
    body = json.loads(presence(bad, queue_name).model_dump_json()) | lie
    await stranger.request(f"$KV.agents.{bad}", json.dumps(body).encode())
    assert await broker.agents.list(queue_name) == []
    await broker.agents.remove(bad)
    await stranger.close()
    await broker.close()


@simulated
async def test_code_that_somebody_replaced_is_not_run() -> None:
    """The store's own checksum is right: it is that of the new content."""
    world = make_world()
    name = hashlib.sha256(b"mine").hexdigest()
    world.server.code.files[name] = b"evil" * 200
    async with world.agent():
        replaced = await world.ended(world.submit(code={"sha256": name, "size": 800}))
        longer = await world.ended(world.submit(code={"sha256": name, "size": 1}))
    assert replaced.reason is longer.reason is Reason.INVALID_SPEC
    assert "somebody has replaced it" in (replaced.message or "")
    assert "larger than the 1 bytes" in (longer.message or "")
    assert world.journal.count_of("start") == 0
