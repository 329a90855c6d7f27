"""What runs where, read from the records of the jobs that agents hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest

from launch.core.capacity import Amount
from launch.core.states import State
from launch.record import JobRecord
from launch.subjects import JobId
from scaler import records
from scaler.records import RunningJobs
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.clock import ManualClock

HELD = Amount(cpu_milli=1000, slots=1)


class Scene:
    """Records, and a mirror of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker: FakeBroker = FakeServer(clock=self.clock).connect()
        self.jobs = RunningJobs(self.broker.records, self.clock)

    async def start(self, seq: int) -> int:
        now = self.clock.now()
        record = JobRecord(
            queue="q", seq=seq, job_type="train", state=State.RUNNING, held=HELD, submitted_at=now, started_at=now,
            updated_at=now,
        )  # fmt: skip
        return await self.broker.records.create(record)

    async def end(self, seq: int, revision: int, exit_code: int | None = 0) -> None:
        found = await self.broker.records.get(JobId("q", seq))
        assert found is not None
        changes = {"state": State.SUCCEEDED, "finished_at": self.clock.now(), "exit_code": exit_code}
        await self.broker.records.update(found.value.model_copy(update=changes), revision)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    running = asyncio.create_task(made.jobs.run(lambda: None))
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_job_that_is_held_is_known_with_what_it_holds_and_since_when(scene: Scene) -> None:
    await scene.start(1)
    scene.jobs.follow(frozenset({"q/1", "q/2"}))
    await scene.jobs.read_all()
    (found,) = scene.jobs.of(("q/1", "q/2"))
    assert (found.job_type, found.amount, found.started_at) == ("train", HELD, scene.clock.now())


async def test_how_long_it_lasted_is_learned_once_nobody_holds_it(scene: Scene) -> None:
    revision = await scene.start(1)
    scene.jobs.follow(frozenset({"q/1"}))
    await scene.jobs.read_all()
    scene.clock.advance(42)
    await scene.end(1, revision)
    scene.jobs.follow(frozenset())
    await scene.jobs.read_all()
    assert scene.jobs.durations.latest() == {"train": (42.0,)}
    assert scene.jobs.of(("q/1",)) == ()


async def test_what_was_cut_short_says_nothing_of_how_long_jobs_last(scene: Scene) -> None:
    revision = await scene.start(1)
    scene.jobs.follow(frozenset({"q/1"}))
    scene.clock.advance(timedelta(seconds=5).total_seconds())
    await scene.end(1, revision, exit_code=None)
    scene.jobs.follow(frozenset())
    await scene.jobs.read_all()
    assert scene.jobs.durations.latest() == {}


async def test_what_waits_to_be_read_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "WAITING_AT_MOST", 3)
    for seq in range(1, 6):
        await scene.start(seq)
    scene.jobs.follow(frozenset(f"q/{seq}" for seq in range(1, 6)))
    await scene.jobs.read_all()
    assert len(scene.jobs.of(tuple(f"q/{seq}" for seq in range(1, 6)))) == 3
