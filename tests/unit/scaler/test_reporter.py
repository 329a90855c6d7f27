"""The reporter: bounded in what it writes and keeps, and never in the scaler's way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from launch.errors import BrokerError, BrokerUnavailable
from launch.scaling import DECISIONS_KEPT, RENEWED_EVERY_S, ScalingReport
from scaler.core.instance import StopMode
from scaler.core.lives import STOPPED
from scaler.core.plan import Launch, Plan, Stop
from scaler.core.snapshot import Pending, Snapshot, Unknown, Worker
from scaler.report import Reporter, tell_unable
from tests.fakes.broker import FakeServer
from tests.fakes.clock import ManualClock
from tests.fakes.scaling import FakeScaling
from tests.unit.scaler.worlds import CAPACITY, NOW, busy, idle, policy

SAME = Plan((), None, ("nothing to do",))


class Stage:
    """A reporter on a fake server, with a clock moved by hand; `written` is every report."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.broker = FakeServer().connect("scaler")
        self.written: list[ScalingReport] = []
        self.wrote = asyncio.Event()
        self.refusal: BrokerError | None = None
        real = self.broker.scaling
        assert isinstance(real, FakeScaling)
        self.scaling = real
        self._report = real.report
        real.report = self.count  # type: ignore[method-assign]
        self.reporter = self.another("one")

    async def count(self, report: ScalingReport) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self._report(report)
        self.written.append(report)
        self.wrote.set()

    def another(self, leader: str, every_s: float = 0.0) -> Reporter:
        return Reporter(self.scaling, self.clock, queue="q", leader=leader, every_s=every_s)

    def look(self, *workers: Worker, plan: Plan = SAME) -> None:
        self.reporter.look(Snapshot("q", Pending(), workers, CAPACITY), policy(), plan)


async def test_what_is_new_is_written_once() -> None:
    stage = Stage()
    for worker in (idle("a", 1), idle("a", 2), busy("a")):
        stage.look(worker)
        assert await stage.reporter.write()
        stage.clock.advance(1)
    assert [[one.jobs for one in report.instances] for report in stage.written] == [[0], [1]]
    assert await stage.scaling.latest("q") == stage.written[-1]


async def test_a_report_is_renewed_though_nothing_is_new() -> None:
    stage = Stage()
    for _ in range(5):
        stage.look(idle("a", 1))
        await stage.reporter.write()
        stage.clock.advance(RENEWED_EVERY_S / 2)
    assert [report.at - NOW for report in stage.written] == [timedelta(seconds=RENEWED_EVERY_S * n) for n in range(3)]


async def test_nothing_is_written_before_the_first_look() -> None:
    stage = Stage()
    stage.reporter.trouble("may not")
    assert await stage.reporter.write()
    assert stage.written == []
    stage.look()
    assert await stage.reporter.write()
    assert stage.written[0].trouble == "may not"
    stage.reporter.trouble(None)
    assert await stage.reporter.write()
    assert stage.written[1].trouble is None


async def test_running_it_writes_at_most_so_often() -> None:
    stage = Stage()
    reporter = stage.reporter = stage.another("one", every_s=3600)
    writing = asyncio.create_task(reporter.run())
    async with asyncio.timeout(5):
        for number in range(50):
            stage.look(busy("a", number % 3))
            await asyncio.sleep(0)
        await stage.wrote.wait()
        stage.look(busy("a", 3))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(stage.written) == 1
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await reporter.close()
    assert [one.jobs for one in stage.written[-1].instances] == [3]


async def test_decisions_are_kept_when_something_is_done_or_the_reasons_are_others() -> None:
    stage = Stage()
    for plan in (
        SAME,
        SAME,
        Plan((Launch(2),), None, ("2 jobs wait for 3s",)),
        Plan((), None, ("2 jobs wait for 4s",)),
        Plan((Launch(1),), None, ("2 jobs wait for 5s",)),
        Plan((), None, ()),
        SAME,
    ):
        stage.look(plan=plan)
    assert await stage.reporter.write()
    assert [(made.actions, made.reasons) for made in await stage.scaling.decisions("q")] == [
        ((), ("nothing to do",)),
        (("launch 2",), ("2 jobs wait for 3s",)),
        (("launch 1",), ("2 jobs wait for 5s",)),
        ((), ("nothing to do",)),
    ]


async def test_lives_are_told_with_why_they_were_ended() -> None:
    stage = Stage()
    stage.look(idle("a", 100), plan=Plan((Stop("i-a", "a", StopMode.DRAIN, "idle for 100s"),), None, ()))
    stage.clock.advance(5)
    stage.look()
    assert await stage.reporter.write()
    (end,) = await stage.scaling.ends("q")
    assert (end.id, end.why, end.ended_at) == ("i-a", "idle for 100s", NOW + timedelta(seconds=5))


async def test_a_broker_that_is_away_loses_nothing_and_stops_nobody() -> None:
    stage = Stage()
    stage.broker.disconnect()
    for number in range(DECISIONS_KEPT + 50):
        stage.look(idle("a", 1), plan=Plan((Launch(number),), None, ()))
        assert not await stage.reporter.write()
    stage.look(plan=Plan((Stop("i-a", "a", StopMode.DRAIN, "idle"),), None, ()))
    stage.clock.advance(10)
    stage.look()
    assert not await stage.reporter.write()
    stage.broker.reconnect()
    assert await stage.reporter.write()
    kept = await stage.scaling.decisions("q")
    last = [made.actions for made in kept[-3:]]
    assert (len(kept), last) == (DECISIONS_KEPT, [(f"launch {DECISIONS_KEPT + 49}",), ("drain i-a",), ()])
    assert len(await stage.scaling.ends("q")) == 1
    assert len(stage.written) == 1


async def test_an_answer_that_is_lost_tells_no_life_twice() -> None:
    stage = Stage()
    stage.look(idle("a", 1), plan=Plan((Stop("i-a", "a", StopMode.DRAIN, "idle"),), None, ()))
    stage.look()
    stage.broker.lose_replies(1)
    assert not await stage.reporter.write()
    assert await stage.reporter.write()
    assert len(await stage.scaling.ends("q")) == 1


async def test_a_refused_report_is_not_tried_for_ever() -> None:
    stage = Stage()
    stage.refusal = BrokerError("may not publish")
    stage.look(idle("a", 1))
    assert await stage.reporter.write()
    stage.refusal = None
    stage.look(idle("a", 1))
    assert await stage.reporter.write()
    assert len(stage.written) == 1


async def test_closing_does_not_wait_for_a_broker_that_does_not_answer() -> None:
    stage = Stage()
    stage.look(idle("a", 1))
    held = asyncio.Event()

    async def never(_: ScalingReport) -> None:
        await held.wait()

    stage.scaling.report = never  # type: ignore[method-assign,assignment]
    async with asyncio.timeout(5):
        await stage.reporter.close(timeout_s=0.01)


async def test_the_next_leader_takes_over_what_was_told() -> None:
    stage = Stage()
    stage.look(idle("a", 1), idle("b", 1))
    assert await stage.reporter.write()
    stage.clock.advance(60)
    stage.reporter = stage.another("two")
    await stage.reporter.open()
    stage.look(idle("b", 61))
    assert await stage.reporter.write()
    assert [end.id for end in await stage.scaling.ends("q")] == ["i-a"]
    latest = await stage.scaling.latest("q")
    assert latest is not None
    assert latest.leader == "two"


async def test_opening_does_without_a_broker() -> None:
    stage = Stage()
    stage.broker.disconnect()
    await stage.reporter.open()


async def test_unknown_instances_end_nothing() -> None:
    stage = Stage()
    stage.look(idle("a", 1))
    stage.clock.advance(100)
    away = Unknown("the provider does not answer")
    stage.reporter.look(Snapshot("q", Pending(), away, CAPACITY), policy(), Plan((), None, ("holding",)))
    assert await stage.reporter.write()
    assert await stage.scaling.ends("q") == []
    assert [one.id for one in stage.written[0].instances] == []


async def test_unavailable_is_what_is_tried_again() -> None:
    stage = Stage()
    stage.refusal = BrokerUnavailable("no answer")
    stage.look()
    assert not await stage.reporter.write()


async def test_what_a_scaler_has_ended_when_it_stops_is_over() -> None:
    stage = Stage()
    stage.look(idle("a", 1), idle("b", 1))
    assert await stage.reporter.write()
    stage.clock.advance(30)
    stage.reporter.stopped(["i-b"])
    await stage.reporter.close()
    (end,) = await stage.scaling.ends("q")
    assert (end.id, end.why, end.ended_at) == ("i-a", STOPPED, stage.clock.now())
    latest = await stage.scaling.latest("q")
    assert latest is not None
    assert ([one.id for one in latest.instances], latest.at) == (["i-b"], stage.clock.now())
    assert latest.stopped


async def test_of_a_queue_that_is_gone_only_the_lives_stay() -> None:
    stage = Stage()
    stage.look(idle("a", 1))
    assert await stage.reporter.write()
    stage.reporter.stopped([])
    await stage.reporter.close(gone=True)
    assert await stage.scaling.latest("q") is None
    assert await stage.scaling.decisions("q") == []
    assert len(await stage.scaling.ends("q")) == 1
    stage.broker.disconnect()
    await stage.reporter.close(gone=True)


async def test_a_queue_that_can_not_be_scaled_says_so_and_keeps_what_was_told() -> None:
    stage = Stage()
    await tell_unable(stage.scaling, NOW, queue="q", leader="one", why="no credentials")
    latest = await stage.scaling.latest("q")
    assert latest is not None
    assert (latest.trouble, latest.instances, latest.at) == ("no credentials", (), NOW)
    stage.look(idle("a", 1))
    assert await stage.reporter.write()
    later = NOW + timedelta(seconds=60)
    await tell_unable(stage.scaling, later, queue="q", leader="two", why="no such type")
    latest = await stage.scaling.latest("q")
    assert latest is not None
    assert (latest.trouble, latest.leader, latest.at) == ("no such type", "two", later)
    assert [one.id for one in latest.instances] == ["i-a"]
    stage.broker.disconnect()
    await tell_unable(stage.scaling, later, queue="q", leader="two", why="whatever")
