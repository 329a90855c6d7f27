"""A job's points on their way: stored before their output, each once for readers, whatever breaks."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.metrics import POINTS_LEFT_OUT, JobMetrics
from agent.ports import EngineError, EngineUnavailable
from launch.errors import BrokerError
from launch.points import Point, PointSource
from launch.ports import LogChunk
from launch.subjects import METRICS_FILE, JobId
from tests.fakes.broker import FakeServer
from tests.fakes.clock import LoopClock
from tests.fakes.engine import FakeEngine, Script
from tests.unit.agent.worlds import simulated

JOB = JobId("q", 1)


def sent(rig: Rig) -> int:
    """How many points were stored, those included that were stored before."""
    return sum(len(json.loads(message.body)) for message in rig.stored.messages[JOB.key])


class Rig:
    """A fake engine with one container, and a fake broker."""

    def __init__(self) -> None:
        self.engine = FakeEngine(images=["x"])
        self.engine.scripts["hold",] = Script(hold=True)
        server = FakeServer()
        self.broker = server.connect()
        self.stored = server.points
        self.reader = server.connect("reader").metrics
        self.clock = LoopClock()
        self.file = b""

    async def start(self) -> Rig:
        self.container = await self.engine.create("c", {"Image": "x", "Cmd": ["hold"], "Labels": {}})
        await self.engine.start(self.container)
        return self

    def metrics(self) -> JobMetrics:
        return JobMetrics(
            self.broker.metrics, self.engine, self.clock, JOB, 1, self.container, started_at=self.clock.now()
        )

    async def see_through(self, metrics: JobMetrics | None = None) -> None:
        """What is done once the container has exited, without any watching before."""
        metrics = metrics or self.metrics()
        metrics.exited()
        await metrics.watch()
        await metrics.finish()

    def append(self, data: bytes) -> None:
        self.file += data
        self.engine.leave(self.container, METRICS_FILE, self.file)

    async def points(self) -> list[Point]:
        async with aclosing(self.reader.read(JOB)) as points:
            return [point async for point in points]

    async def values(self) -> list[tuple[str, int, dict[str, float]]]:
        return [(str(p.source), p.position, dict(p.values)) for p in await self.points()]


def chunk(data: bytes, source: str = "stdout") -> LogChunk:
    return LogChunk(source, 1, "2026-03-01T12:00:00.123456789Z", data)


@simulated
async def test_points_are_stored_when_heard_returns() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    await metrics.heard(chunk(b'hello\n@metrics {"a": 1}\n'), 0)
    (point,) = await rig.points()
    assert point == Point(datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), PointSource.STDOUT, 1, 6, {"a": 1.0})
    await metrics.heard(chunk(b'@metrics {"b": 2}\n', "stderr"), 70)
    await metrics.heard(chunk(b'@metrics {"c": 3}', "stdout"), 25)
    assert len(await rig.points()) == 2
    await metrics.finish()
    assert await rig.values() == [("stdout", 6, {"a": 1}), ("stderr", 70, {"b": 2}), ("stdout", 25, {"c": 3})]
    assert sent(rig) == 3


@simulated
async def test_what_is_heard_again_after_a_restart_is_read_once() -> None:
    rig = await Rig().start()
    text = b"".join(b'@metrics {"n": %d}\n' % n for n in range(50))
    first = rig.metrics()
    await first.heard(chunk(text[:600]), 0)
    second = rig.metrics()
    at = text.index(b"\n", 300) + 1
    await second.heard(chunk(text[at:]), at)
    await second.finish()
    assert [p.values["n"] for p in await rig.points()] == list(range(50))


@simulated
async def test_a_lost_broker_is_waited_for_and_a_lost_answer_doubles_nothing() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    rig.broker.lose_replies(2)
    await metrics.heard(chunk(b'@metrics {"a": 1}\n'), 0)
    rig.broker.disconnect()
    hearing = asyncio.ensure_future(metrics.heard(chunk(b'@metrics {"a": 2}\n'), 18))
    await asyncio.sleep(3600)
    assert not hearing.done()
    rig.broker.reconnect()
    await hearing
    assert [p.values["a"] for p in await rig.points()] == [1, 2]


async def refuse(*_: object) -> None:
    raise BrokerError("no room")


@simulated
async def test_a_broker_that_refuses_points_does_not_stop_the_output() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    began_s = asyncio.get_running_loop().time()
    rig.broker.metrics.append = refuse  # type: ignore[method-assign,assignment]
    for at in range(0, 180, 18):
        await metrics.heard(chunk(b'@metrics {"a": 1}\n'), at)
    await metrics.finish()
    assert asyncio.get_running_loop().time() - began_s < 60
    assert await rig.points() == []


@simulated
async def test_a_flood_is_thinned_out_and_said_so() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    at = 0
    for n in range(30):
        lines = b"".join(b'@metrics {"n": %d}\n' % k for k in range(n * 1000, n * 1000 + 1000))
        await metrics.heard(chunk(lines), at)
        at += len(lines)
    await metrics.finish()
    points = await rig.points()
    assert 10_000 < len(points) < 15_000
    *_, last, note = points
    assert last.values == {"n": 29_999.0}
    assert note.source is PointSource.USAGE
    assert note.values == {POINTS_LEFT_OUT: 30_000 - len(points) + 1}


@simulated
async def test_the_file_is_read_while_the_job_runs_and_at_the_end() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    watching = asyncio.ensure_future(metrics.watch())
    await asyncio.sleep(20)
    rig.append(b'{"a": 1}\n{"a": 2}\n{"a"')
    await asyncio.sleep(60)
    assert await rig.values() == [("file", 0, {"a": 1}), ("file", 9, {"a": 2})]
    rig.append(b': 3, "step": 7}\nnothing\n')
    await asyncio.sleep(60)
    assert len(await rig.points()) == 3
    reads, looks = (rig.engine.calls.count((step, METRICS_FILE)) for step in ("get", "stat"))
    await asyncio.sleep(3600)
    assert rig.engine.calls.count(("get", METRICS_FILE)) == reads  # unchanged: not read
    assert 55 <= rig.engine.calls.count(("stat", METRICS_FILE)) - looks <= 75
    rig.append(b'{"a": 4}')
    rig.engine.exit(rig.container)
    metrics.exited()
    await watching
    await metrics.finish()
    assert await rig.values() == [("file", at, {"a": n}) for at, n in ((0, 1), (9, 2), (18, 3), (46, 4))]
    assert sent(rig) == 4


@simulated
async def test_no_file_and_an_engine_that_goes_away_are_no_trouble() -> None:
    rig = await Rig().start()
    await rig.see_through()
    rig.append(b'{"a": 1}\n')
    rig.engine.fail("stat", EngineUnavailable("away"), 2)
    await rig.see_through()
    assert len(await rig.points()) == 1
    rig.engine.fail("stat", EngineUnavailable("away"), 6)
    await rig.see_through()
    rig.engine.fail("stat", EngineError("stat", 404, "gone"))
    await rig.see_through()
    assert sent(rig) == 1


@simulated
async def test_a_large_file_is_read_more_seldom() -> None:
    rig = await Rig().start()
    watching = asyncio.ensure_future(rig.metrics().watch())
    rig.append(b"x" * 20 * 1024 * 1024 + b"\n")
    await asyncio.sleep(6)
    assert rig.engine.calls.count(("stat", METRICS_FILE)) == 1
    await asyncio.sleep(18)
    assert rig.engine.calls.count(("stat", METRICS_FILE)) == 1
    await asyncio.sleep(2)
    assert rig.engine.calls.count(("stat", METRICS_FILE)) == 2
    watching.cancel()


@simulated
async def test_what_a_cancelled_send_left_is_sent_by_the_next() -> None:
    rig = await Rig().start()
    metrics = rig.metrics()
    rig.broker.disconnect()
    hearing = asyncio.ensure_future(metrics.heard(chunk(b'@metrics {"a": 1}\n'), 0))
    await asyncio.sleep(5)
    hearing.cancel()
    rig.broker.reconnect()
    await metrics.heard(chunk(b"output\n"), 18)
    await metrics.heard(chunk(b'@metrics {"a": 2}\n'), 25)
    assert [p.values["a"] for p in await rig.points()] == [1, 2]


LINES = st.sampled_from([b'{"a": 1}\n', b"\n", b'@metrics {"b": 2}\n', b"x\n", b'{"c":\n', b'{"a": 1, "step": 2}\r\n'])


@settings(max_examples=150)
@given(st.lists(LINES, max_size=20).map(b"".join), st.lists(st.integers(0, 150), max_size=6), st.integers(0, 6))
def test_any_cut_of_the_file_gives_each_point_once(content: bytes, cuts: list[int], restart: int) -> None:
    async def scenario() -> None:
        rig, whole = await Rig().start(), await Rig().start()
        whole.append(content)
        await whole.see_through()
        metrics, done = rig.metrics(), 0
        for number, cut in enumerate(sorted(cuts)):
            if number == restart:
                metrics = rig.metrics()  # another process, which starts from the beginning
            rig.append(content[done : max(done, cut)])
            done = max(done, min(cut, len(content)))
            if await metrics._file.changed() is not None:
                await metrics._read_file()
        rig.append(content[done:])
        await rig.see_through(metrics)
        assert await rig.values() == await whole.values()

    asyncio.run(scenario())
