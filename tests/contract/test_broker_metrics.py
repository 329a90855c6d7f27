"""Points of jobs, by the text of `launch.points.Metrics`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from launch.errors import BrokerUnavailable
from launch.points import Point, PointSource
from launch.ports import Broker
from launch.subjects import JobId, metrics_subject
from tests.contract.broker_world import NOW, World


async def read(broker: Broker, job: JobId) -> list[Point]:
    """What is stored now."""
    async with asyncio.timeout(10), aclosing(broker.metrics.read(job)) as points:
        return [point async for point in points]


def point(position: int, source: PointSource = PointSource.STDOUT, attempt: int = 1) -> Point:
    """A point at this place."""
    values = {"loss": 1 / (position + 1), "train/acc \u00e4": -1e300}
    return Point(NOW + timedelta(microseconds=position), source, attempt, position, values, float(position))


async def test_a_job_without_points(broker: Broker, queue: str) -> None:
    assert await read(broker, JobId(queue, 1)) == []


async def test_points_come_back_exactly_and_in_order(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    written = [
        point(0),
        point(17),
        point(5, PointSource.STDERR),
        point(1_772_366_400_000, PointSource.USAGE),
        point(0, PointSource.FILE),
        point(40),
        Point(NOW, PointSource.STDOUT, 2, 0, {"n": 1.0}),
    ]
    await broker.metrics.append(job, written[:3])
    await other.metrics.append(JobId(queue, 11), [point(99)])
    await broker.metrics.append(job, [])
    await broker.metrics.append(job, written[3:])
    assert await read(other, job) == written


async def test_many_points_keep_their_order(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    written = [point(position) for position in range(5000)]
    await broker.metrics.append(job, written)
    assert await read(broker, job) == written


async def test_one_large_point_fits(broker: Broker, queue: str) -> None:
    written = [point(0), Point(NOW, PointSource.STDOUT, 1, 1, {f"{n}" * 100: 1.0 for n in range(1000)}), point(2)]
    await broker.metrics.append(JobId(queue, 1), written)
    assert await read(broker, JobId(queue, 1)) == written


async def test_what_is_sent_again_is_read_once(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    await broker.metrics.append(job, [point(0), point(10), point(0, PointSource.STDERR)])
    await broker.metrics.append(job, [point(20), point(30)])
    # From somewhere before, and divided otherwise, as after a crash.
    await broker.metrics.append(job, [point(10)])
    await broker.metrics.append(job, [point(20), point(30), point(40), point(0, PointSource.STDERR)])
    await broker.metrics.append(job, [point(0, attempt=2)])
    assert await read(broker, job) == [
        point(0), point(10), point(0, PointSource.STDERR), point(20), point(30), point(40), point(0, attempt=2),
    ]  # fmt: skip


async def test_following_sees_what_was_and_what_comes(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    await other.metrics.append(job, [point(0)])
    async with asyncio.timeout(10), aclosing(broker.metrics.read(job, follow=True)) as following:
        assert await anext(following) == point(0)
        await other.metrics.append(JobId(queue, 2), [point(1)])
        await other.metrics.append(job, [point(0), point(2)])
        assert await anext(following) == point(2)


async def test_following_may_begin_before_the_points_do(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    async with asyncio.timeout(10), aclosing(broker.metrics.read(job, follow=True)) as following:
        first = asyncio.ensure_future(anext(following))
        await other.metrics.append(job, [point(3)])
        assert await first == point(3)


STRAY = [
    ({}, b"[]"),
    ({"Launch-Source": "stdout"}, b"[]"),
    ({"Launch-Source": "elsewhere", "Launch-Attempt": "1"}, b"[]"),
    ({"Launch-Source": "stdout", "Launch-Attempt": "one"}, b"[]"),
    *(
        ({"Launch-Source": "stdout", "Launch-Attempt": "1"}, body)
        for body in (
            b"", b"hello", b"\xff\xfe", b"7", b"[7]", b"[null]", b"{}", b"[{}]", b"[" * 100_000,
            b'[{"time": "2026-03-01T12:00:00Z", "position": 99, "values": {"loss": NaN}}]',
            b'[{"time": "2026-03-01T12:00:00Z", "position": 99, "values": {"loss": "x"}}]',
            b'[{"time": "2026-03-01T12:00:00Z", "position": 99, "values": []}]',
            b'[{"time": "2026-03-01T12:00:00Z", "position": "99", "values": {"loss": 1}}]',
            b'[{"time": "2026-03-01T12:00:00", "position": 99, "values": {"loss": 1}}]',
            b'[{"time": "noon", "position": 99, "values": {"loss": 1}}]',
        )
    ),
]  # fmt: skip


async def test_what_other_programs_put_there_is_left_out(broker: Broker, world: World, queue: str) -> None:
    job = JobId(queue, 1)
    await broker.metrics.append(job, [point(0)])
    for headers, body in STRAY:
        await world.publish_raw(metrics_subject(job), body, headers)
    await broker.metrics.append(job, [point(10)])
    assert await read(broker, job) == [point(0), point(10)]


async def test_a_deleted_queue_takes_its_points_along(broker: Broker, queue: str) -> None:
    await broker.metrics.append(JobId(queue, 1), [point(0)])
    await broker.queues.delete(queue)
    assert await read(broker, JobId(queue, 1)) == []


async def test_without_a_connection_it_says_so(own_world: World) -> None:
    broker = await own_world.connect()
    job = JobId("q", 1)
    await broker.metrics.append(job, [point(0)])
    await own_world.stop()
    with pytest.raises(BrokerUnavailable):
        await broker.metrics.append(job, [point(1)])
    await own_world.start()
    await broker.metrics.append(job, [point(1)])
    assert await read(broker, job) == [point(0), point(1)]
