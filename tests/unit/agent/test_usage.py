"""What running containers use: each looked at soon after its start and then steadily, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

from agent.ports import EngineUnavailable, Usage
from agent.usage import UsageSampler
from launch.adapters.gpu import GpuUsage, gpu_usage
from launch.points import Point, PointSource
from launch.subjects import JobId
from tests.fakes.broker import FakeServer
from tests.fakes.clock import LoopClock
from tests.fakes.engine import FakeEngine, Script
from tests.unit.agent.worlds import simulated

JOB = JobId("q", 1)


class Rig:
    """A fake engine and a fake broker, with a sampler that runs."""

    def __init__(self, gpus: Callable[[Sequence[str]], Mapping[str, GpuUsage]] | None = None) -> None:
        self.engine = FakeEngine(images=["x"])
        self.engine.scripts["hold",] = Script(hold=True)
        server = FakeServer()
        self.broker = server.connect()
        self.reader = server.connect("reader").metrics
        self.sampler = UsageSampler(self.engine, self.broker.metrics, LoopClock(), every_s=15, gpus=gpus)

    async def container(self, name: str = "c") -> str:
        made = await self.engine.create(name, {"Image": "x", "Cmd": ["hold"], "Labels": {}})
        await self.engine.start(made)
        return made

    async def points(self, job: JobId = JOB) -> list[Point]:
        async with aclosing(self.reader.read(job)) as points:
            return [point async for point in points]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.sampler.run())
        yield
        assert not task.done()
        task.cancel()


@simulated
async def test_a_job_is_looked_at_soon_and_then_steadily() -> None:
    rig = Rig()
    container = await rig.container()
    async with rig.running():
        with rig.sampler.watching(JOB, 3, container):
            await asyncio.sleep(1.5)
            (first,) = await rig.points()
            assert first.values == {"memory_bytes": 2**20}
            assert (first.source, first.attempt) == (PointSource.USAGE, 3)
            await asyncio.sleep(120)
        points = await rig.points()
        assert 10 <= len(points) <= 13
        gaps = [(b.time - a.time).total_seconds() for a, b in pairwise(points[3:])]
        assert all(13 <= gap <= 17 for gap in gaps), gaps
        looks = rig.engine.calls.count(("usage", container))
        await asyncio.sleep(120)
        assert rig.engine.calls.count(("usage", container)) == looks  # it is not watched any more


@simulated
async def test_counters_become_rates() -> None:
    rig = Rig()
    container = await rig.container()
    async with rig.running():
        with rig.sampler.watching(JOB, 1, container):
            await asyncio.sleep(1.5)
            rig.engine.containers[container].usage = Usage(3.0, 5000, 2000, 40)
            await asyncio.sleep(2)
            rig.engine.containers[container].usage = Usage(0.1, 6000, 10, 0)
            await asyncio.sleep(4.5)
    first, second, third = await rig.points()
    elapsed_s = (second.time - first.time).total_seconds()
    assert second.values["memory_bytes"] == 5000
    for name, used in (("cpu", 3.0), ("net_rx_bytes_per_s", 2000), ("net_tx_bytes_per_s", 40)):
        assert abs(second.values[name] * elapsed_s - used) < used / 1000
    assert third.values == {"memory_bytes": 6000}  # restarted: its counters began anew


@simulated
async def test_an_engine_or_a_broker_that_is_away_is_passed_over() -> None:
    rig = Rig()
    container = await rig.container()
    async with rig.running():
        with rig.sampler.watching(JOB, 1, container):
            rig.engine.fail("usage", EngineUnavailable("away"), 3)
            await asyncio.sleep(5)
            assert await rig.points() == []
            await asyncio.sleep(30)
            known = len(await rig.points())
            assert known > 0
            rig.broker.disconnect()
            await asyncio.sleep(60)
            rig.broker.reconnect()
            await asyncio.sleep(30)
            assert known < len(await rig.points()) < known + 5
            rig.engine.exit(container)
            await asyncio.sleep(60)


@simulated
async def test_two_hundred_jobs_are_not_looked_at_together() -> None:
    rig = Rig()
    async with rig.running():
        made = [await rig.container(f"c{n}") for n in range(200)]
        marks = [rig.sampler.watching(JobId("q", n + 1), 1, container) for n, container in enumerate(made)]
        for mark in marks:
            mark.__enter__()
        await asyncio.sleep(600)
        before = len(rig.engine.calls)
        await asyncio.sleep(15)
        assert 180 <= len(rig.engine.calls) - before <= 230
        before = len(rig.engine.calls)
        await asyncio.sleep(1)
        assert len(rig.engine.calls) - before < 60
        for mark in marks:
            mark.__exit__(None, None, None)


async def test_gpus_are_told_by_the_jobs_own_numbers() -> None:
    def look(uuids: Sequence[str]) -> dict[str, GpuUsage]:
        assert list(uuids) == ["GPU-b", "GPU-gone", "GPU-a"]
        return {"GPU-a": GpuUsage(97.0, 5000), "GPU-b": GpuUsage(0.0, 10)}

    rig = Rig(look)
    container = await rig.container()
    with rig.sampler.watching(JOB, 1, container, ["GPU-b", "GPU-gone", "GPU-a"]):
        await rig.sampler._look(next(iter(rig.sampler._watched)))
    (point,) = await rig.points()
    assert {name: value for name, value in point.values.items() if name.startswith("gpu")} == {
        "gpu0_util": 0.0, "gpu0_memory_bytes": 10, "gpu2_util": 97.0, "gpu2_memory_bytes": 5000,
    }  # fmt: skip


def test_a_gpu_that_the_driver_does_not_know_is_left_out() -> None:
    assert gpu_usage(["GPU-00000000-0000-0000-0000-000000000000"]) == {}
