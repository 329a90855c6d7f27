"""What scalers tell, by the text of `launch.scaling.Scaling`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from launch.core.capacity import Amount
from launch.errors import BrokerUnavailable
from launch.ports import Broker
from launch.scaling import (
    DECISIONS_KEPT,
    DecisionReport,
    InstanceEnd,
    InstanceReport,
    InstanceStage,
    ScalingReport,
)
from launch.subjects import decision_subject, instance_subject
from tests.contract.broker_world import NOW, World, queue_spec

ROOM = Amount(cpu_milli=4000, memory_bytes=2**34, gpus=1, slots=4)


def report(queue: str, **changes: object) -> ScalingReport:
    booting = InstanceReport(id="i-0ab", stage=InstanceStage.BOOTING, since=NOW, market="spot", capacity=ROOM)
    base = ScalingReport(queue=queue, at=NOW, leader="one", reasons=("launch 1: é",), instances=(booting,), boot_s=70)
    return base.model_copy(update=changes)


def decision(number: int) -> DecisionReport:
    return DecisionReport(at=NOW + timedelta(seconds=number), leader="one", actions=(f"launch {number}",))


def life(name: str, ended_at: datetime = NOW, **changes: object) -> InstanceEnd:
    base = InstanceEnd(
        id=name,
        instance_type="g4dn.xlarge",
        market="on-demand",
        capacity=ROOM,
        launched_at=ended_at - timedelta(hours=1),
        ended_at=ended_at,
        busy_s={"train": 1800.5},
        why="idle",
    )
    return base.model_copy(update=changes)


async def test_before_any_scaler_there_is_nothing(broker: Broker, queue: str) -> None:
    assert await broker.scaling.latest(queue) is None
    assert await broker.scaling.decisions(queue) == []
    assert await broker.scaling.ends(queue) == []
    assert await broker.scaling.ends(queue, NOW) == []


async def test_the_latest_report_is_in_the_place_of_the_one_before(broker: Broker, other: Broker, queue: str) -> None:
    await broker.scaling.report(report(queue))
    assert await other.scaling.latest(queue) == report(queue)
    newer = report(queue, leader="two", instances=(), trouble="no permission", boot_s=None)
    await other.scaling.report(newer)
    assert await broker.scaling.latest(queue) == newer
    assert await broker.scaling.latest(f"{queue}-2") is None


async def test_a_report_stays_apart_from_the_scaler_s_own_state(broker: Broker, queue: str) -> None:
    await broker.documents.create(f"state.{queue}", b"{}")
    await broker.scaling.report(report(queue))
    found = await broker.documents.get(f"state.{queue}")
    assert found is not None
    assert found.value == b"{}"


async def test_decisions_come_oldest_first(broker: Broker, other: Broker, queue: str) -> None:
    for number in range(3):
        await broker.scaling.decided(queue, decision(number))
    await broker.scaling.decided(f"{queue}-2", decision(9))
    assert await other.scaling.decisions(queue) == [decision(0), decision(1), decision(2)]


async def test_the_last_decisions_are_kept_and_push_out_no_lives(broker: Broker, queue: str) -> None:
    await broker.scaling.ended(queue, life("i-1"))
    await broker.scaling.decided(f"{queue}-2", decision(0))
    for number in range(DECISIONS_KEPT + 5):
        await broker.scaling.decided(queue, decision(number))
    kept = await broker.scaling.decisions(queue)
    assert [len(kept), kept[0], kept[-1]] == [DECISIONS_KEPT, decision(5), decision(DECISIONS_KEPT + 4)]
    assert await broker.scaling.ends(queue) == [life("i-1")]
    assert await broker.scaling.decisions(f"{queue}-2") == [decision(0)]


async def test_lives_come_once_each_and_oldest_first(broker: Broker, other: Broker, queue: str) -> None:
    late, early = life("i-2", NOW + timedelta(minutes=1)), life("i-1")
    await broker.scaling.ended(queue, late)
    await broker.scaling.ended(queue, early)
    await other.scaling.ended(queue, early.model_copy(update={"why": "told again", "ended_at": NOW}))
    await other.scaling.ended(f"{queue}-2", life("i-3"))
    assert await other.scaling.ends(queue) == [early, late]


async def test_lives_since_a_time(broker: Broker, queue: str) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    lives = [life(f"i-{number}", now - timedelta(seconds=10 * number)) for number in (3, 2, 1)]
    for one in lives:
        await broker.scaling.ended(queue, one)
    assert await broker.scaling.ends(queue, lives[1].ended_at) == lives[1:]
    assert await broker.scaling.ends(queue, now - timedelta(days=30)) == lives
    assert await broker.scaling.ends(queue, now + timedelta(hours=1)) == []


async def test_more_lives_than_are_read_at_once(broker: Broker, queue: str) -> None:
    lives = [life(f"i-{number:04}", NOW + timedelta(seconds=number)) for number in range(300)]
    for one in lives:
        await broker.scaling.ended(queue, one)
    assert await broker.scaling.ends(queue) == lives


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff", b"7", b"{}", b'{"at": "noon", "leader": 1}'])
async def test_what_other_programs_put_there_is_left_out(broker: Broker, world: World, queue: str, body: bytes) -> None:
    await world.publish_raw(decision_subject(queue), body)
    await world.publish_raw(instance_subject(queue), body)
    await broker.scaling.decided(queue, decision(1))
    await broker.scaling.ended(queue, life("i-1"))
    assert await broker.scaling.decisions(queue) == [decision(1)]
    assert await broker.scaling.ends(queue) == [life("i-1")]


async def test_a_deleted_queue_takes_report_and_decisions_along(broker: Broker, queue: str) -> None:
    await broker.queues.apply(queue_spec(f"{queue}-2"))
    for name in (queue, f"{queue}-2"):
        await broker.scaling.report(report(name))
        await broker.scaling.decided(name, decision(1))
        await broker.scaling.ended(name, life("i-1"))
    await broker.queues.delete(queue)
    assert await broker.scaling.latest(queue) is None
    assert await broker.scaling.decisions(queue) == []
    assert await broker.scaling.ends(queue) == [life("i-1")]
    assert await broker.scaling.latest(f"{queue}-2") == report(f"{queue}-2")
    assert await broker.scaling.decisions(f"{queue}-2") == [decision(1)]
    await broker.queues.delete(f"{queue}-2")


async def test_what_is_forgotten_is_report_and_decisions(broker: Broker, other: Broker, queue: str) -> None:
    await broker.scaling.forget(queue)
    await broker.scaling.report(report(queue))
    await broker.scaling.decided(queue, decision(1))
    await broker.scaling.ended(queue, life("i-1"))
    await broker.scaling.report(report(f"{queue}-2"))
    await broker.documents.create(f"state.{queue}", b"{}")
    await other.scaling.forget(queue)
    assert await broker.scaling.latest(queue) is None
    assert await broker.scaling.decisions(queue) == []
    assert await broker.scaling.ends(queue) == [life("i-1")]
    assert await broker.scaling.latest(f"{queue}-2") == report(f"{queue}-2")
    assert await broker.documents.get(f"state.{queue}") is not None


async def test_without_a_connection_it_says_so(own_world: World) -> None:
    broker = await own_world.connect()
    await broker.scaling.report(report("q"))
    await own_world.stop()
    calls = (
        broker.scaling.report(report("q")),
        broker.scaling.latest("q"),
        broker.scaling.decided("q", decision(1)),
        broker.scaling.decisions("q"),
        broker.scaling.ended("q", life("i-1")),
        broker.scaling.ends("q"),
        broker.scaling.forget("q"),
    )
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in failed] == [BrokerUnavailable] * len(calls)
    await own_world.start()
    # What was asked for meanwhile may still take effect.
    await broker.scaling.report(report("q"))
    assert await broker.scaling.latest("q") == report("q")
