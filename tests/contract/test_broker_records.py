"""Job records: compare-and-set, history, watches, by the text of `launch.ports.Records`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

import pytest

from launch.core.capacity import Amount
from launch.core.states import Event, Reason, State
from launch.errors import Conflict
from launch.job import JobSpec
from launch.ports import SYNCED, Broker, Changed, Synced
from launch.record import CancelRequest, JobRecord
from launch.subjects import JobId, Priority
from tests.contract.broker_world import NOW, queue_spec, record


async def test_a_job_without_a_record_has_none(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    assert await broker.records.get(job) is None
    assert await broker.records.history(job) == []
    assert await broker.records.list(queue) == []


async def test_every_field_comes_back_as_it_was_written(broker: Broker, other: Broker, queue: str) -> None:
    spec = JobSpec.model_validate(
        {
            "image": "python:3.12",
            "command": ["python", 0.001, "\u00e4\U0001f680\n"],
            "env": {"A": "", "B": "x=y"},
            "resources": {"cpu": 0.5, "memory": "1.5G", "gpu": 1},
            "timeout": "1h30m",
            "labels": {"team": "a.b*>"},
        }
    )
    written = record(
        JobId(queue, 7),
        priority=Priority.CRITICAL,
        state=State.FAILED,
        reason=Reason.OOM_KILLED,
        message="it used 1.6G of 1.5G",
        attempt=3,
        failures=2,
        interruptions=1,
        agent="a-1",
        container="c0ffee",
        image="python:3.12",
        digest="sha256:12",
        exit_code=137,
        held=Amount(cpu_milli=500, memory_bytes=1_500_000_000, gpus=1, slots=1),
        gpus=("GPU-1",),
        claimed_at=NOW + timedelta(microseconds=1),
        started_at=NOW + timedelta(seconds=2),
        finished_at=NOW + timedelta(days=1),
        spec=spec,
        cancel=CancelRequest(requested_at=NOW, by="me@here"),
        raw='{"a": "\\x00"}',
        raw_bytes=70_000,
    )
    revision = await broker.records.create(written)
    found = await other.records.get(written.id)
    assert found is not None
    assert found.revision == revision
    assert found.value == written


async def test_only_the_first_create_succeeds(broker: Broker, other: Broker, queue: str) -> None:
    first = record(JobId(queue, 1), agent="first")
    await broker.records.create(first)
    with pytest.raises(Conflict):
        await other.records.create(record(JobId(queue, 1), agent="second"))
    found = await broker.records.get(first.id)
    assert found is not None
    assert found.value == first


async def test_an_update_names_the_revision_it_replaces(broker: Broker, other: Broker, queue: str) -> None:
    first = record(JobId(queue, 1))
    one = await broker.records.create(first)
    two = await other.records.update(first.moved(Event.CLAIM, NOW, attempt=1), one)
    assert two > one
    with pytest.raises(Conflict):
        await broker.records.update(first.moved(Event.CANCEL, NOW), one)
    with pytest.raises(Conflict):
        await broker.records.update(first.moved(Event.CANCEL, NOW), two + 1000)
    found = await broker.records.get(first.id)
    assert found is not None
    assert (found.revision, found.value.state) == (two, State.PREPARING)


async def test_no_update_makes_a_record(broker: Broker, queue: str) -> None:
    with pytest.raises(Conflict):
        await broker.records.update(record(JobId(queue, 1)), 3)
    assert await broker.records.get(JobId(queue, 1)) is None


async def test_of_many_at_once_exactly_one_wins(broker: Broker, other: Broker, queue: str) -> None:
    first = record(JobId(queue, 1))
    revision = await broker.records.create(first)
    tries = [
        who.records.update(first.model_copy(update={"agent": f"{name}-{n}"}), revision)
        for name, who in (("a", broker), ("b", other))
        for n in range(5)
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 9
    assert len(await broker.records.history(first.id)) == 2


async def test_history_is_the_timeline(broker: Broker, queue: str) -> None:
    now = record(JobId(queue, 1))
    revision = await broker.records.create(now)
    await broker.records.create(record(JobId(queue, 2)))
    written = [now]
    for event in (Event.CLAIM, Event.START, Event.REQUEUE, Event.CLAIM, Event.START, Event.SUCCEED):
        now = now.moved(event, now.updated_at + timedelta(seconds=1))
        revision = await broker.records.update(now, revision)
        written.append(now)
    assert await broker.records.history(now.id) == written


async def test_list_is_by_queue_and_number(broker: Broker, queue: str) -> None:
    other_queue = f"{queue}-2"
    for job in ((other_queue, 1), (queue, 10), (queue, 9), (queue, 100)):
        await broker.records.create(record(JobId(*job)))
    assert [r.seq for r in await broker.records.list(queue)] == [9, 10, 100]
    ours = [r.id for r in await broker.records.list() if r.queue.startswith(queue)]
    assert ours == [JobId(queue, 9), JobId(queue, 10), JobId(queue, 100), JobId(other_queue, 1)]


async def test_watch_of_a_queue(broker: Broker, other: Broker, queue: str) -> None:
    first, second = record(JobId(queue, 1)), record(JobId(queue, 2))
    one = await other.records.create(first)
    await other.records.create(record(JobId(f"{queue}-2", 1)))
    async with asyncio.timeout(10), aclosing(broker.records.watch(queue=queue)) as watch:
        assert await anext(watch) == Changed(str(first.id), first, one)
        assert await anext(watch) is SYNCED
        two = await other.records.create(second)
        await other.records.create(record(JobId(f"{queue}-2", 2)))
        claimed = first.moved(Event.CLAIM, NOW)
        three = await other.records.update(claimed, one)
        assert await anext(watch) == Changed(str(second.id), second, two)
        assert await anext(watch) == Changed(str(first.id), claimed, three)


async def test_watch_of_a_job_shows_every_step(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    async with asyncio.timeout(20), aclosing(broker.records.watch(job=job)) as watch:
        assert await anext(watch) is SYNCED
        revision = await other.records.create(record(job, attempt=0))
        await other.records.create(record(JobId(queue, 11)))
        for attempt in range(1, 30):
            revision = await other.records.update(record(job, attempt=attempt), revision)
        seen: list[tuple[int, int]] = []
        while len(seen) < 30:
            item = await anext(watch)
            assert isinstance(item, Changed)
            assert item.key == str(job)
            assert item.value is not None
            seen.append((item.value.attempt, item.revision))
    assert [attempt for attempt, _ in seen] == list(range(30))
    assert seen[-1][1] == revision


async def test_watch_of_an_existing_job_begins_with_its_present(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    revision = await broker.records.create(record(job, attempt=0))
    for attempt in range(1, 4):
        revision = await broker.records.update(record(job, attempt=attempt), revision)
    async with asyncio.timeout(10), aclosing(broker.records.watch(job=job)) as watch:
        assert await anext(watch) == Changed(str(job), record(job, attempt=3), revision)
        assert await anext(watch) is SYNCED


async def test_watch_of_everything(broker: Broker, other: Broker, queue: str) -> None:
    jobs = [JobId(queue, 1), JobId(f"{queue}-2", 1)]
    await other.records.create(record(jobs[0]))
    async with asyncio.timeout(10), aclosing(broker.records.watch()) as watch:
        before = await _ours(watch, queue, until_synced=True)
        assert before == [str(jobs[0])]
        await other.records.create(record(jobs[1]))
        assert await _ours(watch, queue, until_synced=False) == [str(jobs[1])]


async def _ours(watch: AsyncGenerator[Changed[JobRecord] | Synced], queue: str, *, until_synced: bool) -> list[str]:
    keys: list[str] = []
    while True:
        item = await anext(watch)
        if isinstance(item, Synced):
            assert until_synced
            return keys
        if item.key.startswith(queue):
            keys.append(item.key)
            if not until_synced:
                return keys


async def test_several_watch_at_once_and_one_leaves(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    async with asyncio.timeout(10), aclosing(broker.records.watch(job=job)) as stays:
        assert await anext(stays) is SYNCED
        async with aclosing(broker.records.watch(queue=queue)) as leaves:
            assert await anext(leaves) is SYNCED
        revision = await broker.records.create(record(job))
        assert await anext(stays) == Changed(str(job), record(job), revision)


@pytest.mark.parametrize("revisions_expected", [1, 5])
async def test_recent_are_those_that_changed_last(
    broker: Broker, other: Broker, queue: str, revisions_expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.adapters.nats.bucket.REVISIONS", revisions_expected)
    other_queue = f"{queue}-2"
    assert await broker.records.recent(3, queue=queue) == ([], False)
    revisions = {}
    for seq in range(1, 31):
        revisions[seq] = await other.records.create(record(JobId(queue, seq)))
        await other.records.create(record(JobId(other_queue, seq)))
    for seq in (30, 7, 7, 3):
        revisions[seq] = await other.records.update(record(JobId(queue, seq), attempt=seq), revisions[seq])

    async def recent(count: int) -> tuple[list[int], bool]:
        found, more = await broker.records.recent(count, queue=queue)
        assert all(r.queue == queue for r in found)
        assert [r.attempt for r in found if r.seq in (30, 7, 3)] == [r.seq for r in found if r.seq in (30, 7, 3)]
        return [r.seq for r in found], more

    in_order = [*(seq for seq in range(1, 30) if seq not in (7, 3)), 30, 7, 3]
    for count in range(1, 31):
        assert await recent(count) == (in_order[-count:], count < 30)
    assert await recent(1000) == (in_order, False)
    for attempt in range(20):
        revisions[3] = await other.records.update(record(JobId(queue, 3), attempt=attempt), revisions[3])
    for count in range(1, 8):
        found, more = await broker.records.recent(count, queue=queue)
        assert ([r.seq for r in found], found[-1].attempt, more) == (in_order[-count:], 19, True)
    newest, more = await broker.records.recent(2)
    assert (len(newest), more) == (2, True)
    await other.queues.apply(queue_spec(queue))
    await other.queues.delete(queue)
    assert await broker.records.recent(3, queue=queue) == ([], False)
    await other.queues.apply(queue_spec(queue))
