"""`launch jobs`: what it lists, and of many records few are read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest

from launch.client import Client
from launch.core.states import State
from launch.ports import NewJob
from launch.subjects import JobId, Priority
from tests.contract.broker_world import NOW, presence, queue_spec, record
from tests.fakes.broker import FakeBroker, FakeServer


class World:
    """A fake server with the queue `q`, in which a hundred jobs are over and as many are queued."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.broker: FakeBroker = self.server.connect()
        self.client = Client(self.broker)

    async def fill(self) -> None:
        await self.client.apply_queue(queue_spec("q"))
        for part in range(2):
            batch = [NewJob("train", Priority.MEDIUM, b'{"image": "i"}')] * 100
            await self.broker.jobs.publish_batch("q", batch, msg_id=str(part))
        for seq in range(1, 101):
            await self.write(seq, State.FAILED if seq in (3, 50) else State.SUCCEEDED)
            await self.broker.jobs.discard(JobId("q", seq))

    async def write(self, seq: int, state: State, *, minutes: int | None = None) -> None:
        """A record that changed so long after the first."""
        at = NOW + timedelta(minutes=seq if minutes is None else minutes)
        submitted = NOW + timedelta(seconds=seq)
        found = await self.broker.records.get(JobId("q", seq))
        new = record(JobId("q", seq), state=state, submitted_at=submitted, updated_at=at)
        await (self.broker.records.update(new, found.revision) if found else self.broker.records.create(new))

    async def listed(self, state: State | None = None, limit: int | None = None) -> tuple[list[int], bool]:
        found = await self.client.listing("q", state, limit=limit)
        return [job.seq for job in found.jobs], found.more


@pytest.fixture
async def world() -> World:
    made = World()
    await made.fill()
    return made


def forbid_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(queue: str | None = None) -> None:
        raise AssertionError(f"every record of {queue} was read")

    monkeypatch.setattr(world.broker.records, "list", refuse)


def seqs(*parts: Iterable[int]) -> list[int]:
    return [seq for part in parts for seq in part]


async def test_the_first_page_reads_few(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_list(world, monkeypatch)
    assert await world.listed(limit=10) == (seqs(range(91, 101), range(101, 111)), True)
    await world.write(5, State.SUCCEEDED, minutes=500)
    assert await world.listed(limit=3) == (seqs([5, 99, 100], range(101, 104)), True)


async def test_all_is_all(world: World) -> None:
    assert await world.listed() == (list(range(1, 201)), False)
    assert await world.listed(limit=100) == (list(range(1, 201)), False)
    assert await world.listed(State.FAILED) == ([3, 50], False)


async def test_those_in_one_state_are_found_however_old(world: World) -> None:
    assert await world.listed(State.FAILED, limit=2) == ([3, 50], False)
    assert await world.listed(State.FAILED, limit=1) == ([50], True)
    assert await world.listed(State.SUCCEEDED, limit=2) == ([99, 100], True)


async def test_a_job_that_is_held_is_no_job_in_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_list(world, monkeypatch)
    await world.write(101, State.RUNNING, minutes=0)  # long ago: not among those that changed last
    for seq in range(1, 101):
        await world.write(seq, State.SUCCEEDED, minutes=seq + 1)
    assert await world.listed(limit=2) == (seqs([99, 100], [102, 103]), True)
    await world.write(102, State.QUEUED, minutes=0)  # waits for its retry
    for seq in range(1, 101):
        await world.write(seq, State.SUCCEEDED, minutes=seq + 1)
    assert await world.listed(State.QUEUED, limit=2) == (seqs([102], [103, 104]), True)


async def test_what_agents_hold_is_found_however_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_list(world, monkeypatch)
    await world.write(150, State.RUNNING, minutes=0)
    for seq in range(1, 101):
        await world.write(seq, State.SUCCEEDED, minutes=seq + 1)
    await world.broker.agents.put(presence("a", "q", holds=("q/150",)), ttl_s=60)
    assert await world.listed(State.RUNNING, limit=2) == ([150], True)


@pytest.mark.parametrize("queue", ["q", None])
async def test_what_a_lost_agent_had_is_found_however_old(
    world: World, monkeypatch: pytest.MonkeyPatch, queue: str | None
) -> None:
    forbid_list(world, monkeypatch)
    await world.write(101, State.RUNNING, minutes=0)
    for seq in range(1, 101):
        await world.write(seq, State.SUCCEEDED, minutes=seq + 1)
    found = await world.client.listing(queue, State.RUNNING, limit=2)
    assert [job.seq for job in found.jobs] == [101]
    assert (await world.client.listing("none", State.RUNNING, limit=2)).jobs == []
