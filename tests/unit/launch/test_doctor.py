"""The doctor's verdicts, and how one check can't hurt another."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest

from launch.cli.doctor import lines
from launch.core import doctor
from launch.core.capacity import Amount
from launch.core.doctor import Finding, Level, fail, ok, warn, worst
from launch.doctor.bounded import bounded
from launch.errors import LaunchError
from launch.presence import AgentPresence, AgentState
from launch.queue import LocalProvider, QueueSpec, StaticProvider
from launch.scaling import ScalingReport

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUE = QueueSpec(queue_name="q", provider=LocalProvider(), job_types=["train"])
AGENT = AgentPresence(
    agent_id="a", queue="q", capacity=Amount(slots=1), free=Amount(slots=1), version="1", host="h", started_at=NOW
)


def test_the_worst_counts() -> None:
    assert worst([]) is Level.OK
    assert worst([ok("a", "x"), fail("b", "y", "z"), warn("c", "y", "z")]) is Level.FAIL


@pytest.mark.parametrize(("ahead_s", "level"), [(0.1, "ok"), (-3.0, "warn"), (61.0, "fail")])
def test_clocks(ahead_s: float, level: str) -> None:
    found = doctor.clocks(ahead_s)
    assert found.level == level
    assert ("behind" in found.found) == (ahead_s < -2)


def test_versions_disks_and_gpus() -> None:
    assert doctor.nats_version((2, 12, 0), (2, 12)).level is Level.OK
    assert doctor.nats_version((2, 11, 9), (2, 12)).level is Level.FAIL
    assert [doctor.disk(size, "/").level for size in (2**40, 2**32, 2**20)] == ["ok", "warn", "fail"]
    assert doctor.gpu_runtime(0, []).level is Level.OK
    assert doctor.gpu_runtime(1, ["runc"]).level is Level.WARN
    assert doctor.gpu_runtime(2, ["runc", "nvidia"]).level is Level.OK


def levels(found: list[Finding]) -> list[str]:
    return [str(finding.level) for finding in found]


def test_agents() -> None:
    assert levels(doctor.present(QUEUE, [AGENT], waiting=1, version="1")) == ["ok"]
    assert "a 1" in doctor.present(QUEUE, [AGENT], waiting=0, version="2")[1].found
    draining = AGENT.model_copy(update={"state": AgentState.DRAINING})
    assert levels(doctor.present(QUEUE, [draining], waiting=1, version="1")) == ["warn"]
    other = AGENT.model_copy(update={"job_types": ("infer",)})
    assert "no agent takes the type train" in doctor.present(QUEUE, [other], waiting=0, version="1")[1].found
    static = QUEUE.model_copy(update={"provider": StaticProvider()})
    assert levels(doctor.present(static, [], waiting=1, version="1")) == ["fail"]
    assert levels(doctor.present(QUEUE, [], waiting=1, version="1")) == ["warn"]
    assert levels(doctor.present(QUEUE, [], waiting=0, version="1")) == ["ok"]


def test_the_scaler() -> None:
    def level(report: ScalingReport | None, waiting: int = 0) -> str:
        return doctor.scaler(QUEUE, report, NOW, waiting=waiting, agents=0).level

    fresh = ScalingReport(queue="q", at=NOW, leader="s")
    assert level(fresh) == "ok"
    assert level(None) == "warn"
    assert level(fresh.model_copy(update={"at": NOW - timedelta(hours=1)}), waiting=1) == "fail"
    assert level(fresh.model_copy(update={"trouble": "no permission"})) == "fail"


@pytest.mark.parametrize(
    ("error", "found", "cure"),
    [
        (LaunchError("it is so", hint="do this"), "it is so", "do this"),
        (ValueError("a\nb"), "ValueError: a b", "look"),
        (ExceptionGroup("g", [OSError()]), "ExceptionGroup: g (1 sub-exception)", "look"),
    ],
)
async def test_whatever_a_check_meets_is_a_finding(error: Exception, found: str, cure: str) -> None:
    async def check() -> list[Finding]:
        raise error

    assert await bounded("c", check(), cure="look") == [fail("c", found, cure)]


async def test_a_check_that_never_ends_is_a_finding() -> None:
    never: Awaitable[list[Finding]] = asyncio.get_running_loop().create_future()
    assert await bounded("c", never, cure="look", limit_s=0.01) == [fail("c", "no answer within 0.01 s", "look")]


def test_a_line_a_finding_whatever_it_says() -> None:
    told = lines([ok("a", "fine"), fail("long", "x\x1b[2Jy\nz", "do\rit")], coloured=False)
    assert told == ["ok    a     fine", "fail  long  x[2Jy z  — do it"]
    assert lines([warn("a", "x", "y")], coloured=True) == ["\x1b[33mwarn\x1b[0m  a  x  — y"]
