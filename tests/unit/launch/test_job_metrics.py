"""A job's points by its handle: what there is, what comes, and an end when the job is over."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from launch.core.states import State
from launch.errors import NotFound
from launch.handle import Job
from launch.points import Point, PointSource
from launch.subjects import JobId
from tests.contract.broker_world import NOW, record
from tests.fakes.broker import FakeServer
from tests.fakes.clock import LoopClock

JOB = JobId("q", 1)


def point(position: int) -> Point:
    return Point(NOW, PointSource.STDOUT, 1, position, {"n": float(position)})


async def test_following_ends_with_the_job_and_gives_each_point_once() -> None:
    server = FakeServer()
    broker, agent = server.connect(), server.connect()
    revision = await agent.records.create(record(JOB, state=State.RUNNING, attempt=1))
    await agent.metrics.append(JOB, [point(0), point(1)])
    async with asyncio.timeout(10), aclosing(Job(broker, LoopClock(), JOB).metrics()) as points:
        assert [await anext(points), await anext(points)] == [point(0), point(1)]
        await agent.metrics.append(JOB, [point(0), point(1), point(2)])
        assert await anext(points) == point(2)
        # Stored, and the job over, before the reader looks again.
        await agent.metrics.append(JOB, [point(3), point(4)])
        await agent.records.update(record(JOB, state=State.SUCCEEDED, attempt=1), revision)
        assert [one async for one in points] == [point(3), point(4)]


async def test_without_following_it_is_what_there_is() -> None:
    broker = FakeServer().connect()
    job = Job(broker, LoopClock(), JOB)
    with pytest.raises(NotFound):
        await anext(job.metrics(follow=False))
    await broker.records.create(record(JOB, state=State.RUNNING, attempt=1))
    assert [one async for one in job.metrics(follow=False)] == []
    await broker.metrics.append(JOB, [point(0), point(0), point(7)])
    assert [one async for one in job.metrics(follow=False)] == [point(0), point(7)]


async def test_leaving_early_leaves_no_task_behind() -> None:
    broker = FakeServer().connect()
    await broker.records.create(record(JOB, state=State.RUNNING, attempt=1))
    await broker.metrics.append(JOB, [point(0)])
    before = asyncio.all_tasks()
    async with aclosing(Job(broker, LoopClock(), JOB).metrics()) as points:
        assert await anext(points) == point(0)
    assert asyncio.all_tasks() == before
