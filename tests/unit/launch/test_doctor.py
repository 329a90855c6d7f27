"""The doctor's verdicts, and how one check can't hurt another."""

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from launch.aws import NatsAccess
from launch.cli.doctor import lines
from launch.core import doctor
from launch.core.capacity import Amount
from launch.core.doctor import Finding, Level, fail, ok, warn, worst
from launch.core.states import State
from launch.doctor import rounds
from launch.doctor.bounded import bounded
from launch.doctor.engine import images
from launch.doctor.parts import Resolved
from launch.doctor.queue import QueueSeen, Wanted, policies
from launch.errors import LaunchError
from launch.job import JobSpec, Pull
from launch.ports import Depth, QueueStatus
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.scaling import ScalingReport
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUE = QueueSpec(queue_name="q", provider=LocalProvider(), job_types=["train"])
STRICT: dict[str, object] = {"images": {"by_digest": True}}
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
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


def test_clocks_of_agents() -> None:
    def told(ahead_s: dict[str, float], ours_s: float | None = 0.0) -> list[Finding]:
        return doctor.agent_clocks("q", ahead_s, ours_s)

    assert doctor.clocks(None).level is Level.WARN
    assert told({}) == []
    assert told({"a": 0.2, "b": -1.0}) == [
        ok("clocks", "q: those of 2 agents and the server's differ by 1.0 s at most")
    ]
    (found,) = told({"a": 3.0, "b": -61.0, "c": 0.0})
    assert found.level is Level.FAIL
    assert found.found == "q: agents' clocks: b 1m01s behind, a 3.0s ahead of the server's"
    (found,) = told({"a": 5.0, "b": 5.1}, 5.0)
    assert "it is the server's that is off" in (found.cure or "")


def test_streams_that_can_not_be_seen() -> None:
    (found,) = doctor.streams({}, [])
    assert (found.level, found.found) == ("warn", "this user may not look at them")


def test_policies() -> None:
    def told(*refused: tuple[str, list[str | None]], policy: dict[str, object] | None = STRICT) -> list[Finding]:
        return doctor.policies("q", [policy, None], refused)

    assert told(policy=None) == []
    assert told(policy={}) == [ok("policy", "q: the default one on 1 agent")]
    assert told(("q/1", [None])) == [ok("policy", "q: agents have rules on images; no waiting job is refused")]
    (found,) = told(("q/1", [None, None]), ("q/2", ["no root", "no root"]), ("q/3", ["no"]))
    assert found.level is Level.FAIL
    assert found.found.startswith("q/2 (and 1 other job) would be refused by every agent that could take it: no root")
    (found,) = told(("q/1", ["no root", None]))
    assert (found.level, found.found) == ("warn", "q/1 would be refused by 1 of 2 agents: no root")


def test_whose_policies_a_job_meets() -> None:
    def refuses_all(policy: Mapping[str, Any], _spec: JobSpec, _queue: QueueSpec) -> str | None:
        return "no" if policy else None

    def level(*agents: AgentPresence, state: State = State.QUEUED, queue: QueueSpec = QUEUE) -> list[str]:
        record = JobRecord(
            queue="q", seq=1, job_type="train", spec=JobSpec(image="x"), state=state, submitted_at=NOW, updated_at=NOW
        )
        status = QueueStatus(Depth(1, 1, 1, {}), (), paused=False)
        return levels(policies(QueueSeen(queue, status, agents, [record]), [record], refuses_all))

    strict = AGENT.model_copy(update={"policy": STRICT})
    assert level(strict) == ["fail"]
    assert level(strict, AGENT.model_copy(update={"policy": {}})) == ["warn"]
    assert level(strict.model_copy(update={"job_types": ("infer",)})) == ["ok"]
    assert level(strict.model_copy(update={"state": AgentState.DRAINING})) == ["ok"]
    assert level(strict, state=State.PREPARING) == ["ok"]
    assert level(AGENT) == level() == []
    provider = {"region": "eu-central-1", "instance_type": "m5.large", "agent_policy": STRICT}
    coming = QUEUE.model_copy(update={"provider": AwsProvider.model_validate(provider)})
    assert level(queue=coming) == ["fail"]
    assert level(AGENT.model_copy(update={"policy": {}}), queue=coming) == ["ok"]
    default = AwsProvider(region="eu-central-1", instance_type="m5.large")
    assert level(queue=QUEUE.model_copy(update={"provider": default})) == []


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


class Silent:
    """Answers nothing that it is asked."""

    async def _never(self, *_: object) -> Any:
        await asyncio.get_running_loop().create_future()

    details = close = open = _never


@pytest.mark.parametrize("gone", [False, True])
async def test_nothing_that_answers_is_told_in_time(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    monkeypatch.setattr(rounds, "CONNECT_LIMIT_S", 0.01)
    monkeypatch.setattr("launch.doctor.bounded.CLOSE_LIMIT_S", 0.01)
    monkeypatch.setattr("launch.doctor.bounded.bounded.__kwdefaults__", {"limit_s": 60.0 if gone else 0.01})
    silent = cast("Any", Silent())
    world = rounds.World(
        open_server=silent.open, open_engine=lambda: silent, cloud=silent, gpus=tuple, clock=ManualClock(NOW),
        refusals=lambda *_: None, version="1", host="h", least=(2, 12), fixed=(), address="nowhere",
    )  # fmt: skip
    running = asyncio.ensure_future(rounds.examine(world))
    if gone:
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return
    found = await running
    assert [(one.check, one.level, one.found) for one in found] == [
        ("nats", "fail", "no answer within 0.01 s"),
        ("docker", "fail", "no answer within 0.01 s"),
    ]


@pytest.mark.parametrize(
    ("image", "profile", "level", "told"),
    [
        ("x.example/a", None, "ok", "workers have no AWS credentials"),
        (f"{ECR}/a", None, "fail", "workers have no AWS credentials"),
        (f"{ECR}/a", "workers", "ok", "workers have the profile workers"),
        ("gone", "workers", "warn", "workers have the profile workers"),
    ],
)
async def test_what_is_found_here_of_an_image_for_workers_elsewhere(
    image: str, profile: str | None, level: str, told: str
) -> None:
    class Registry:
        async def has(self, _: str) -> bool:
            return True

        async def resolve(self, image: str, _: object) -> Resolved:
            return Resolved("r", "no login", "sha256:" + "0" * 64, "there is none" if image == "gone" else None)

    nats = NatsAccess(url="nats://n.example")
    provider = AwsProvider(region="eu-central-1", instance_type="m5.large", nats=nats, iam_profile=profile)
    spec = QueueSpec(queue_name="q", provider=provider)
    look = cast("Any", Registry())
    (found,) = await images(look, [Wanted(image, "image of q/1", spec, here=False)])
    assert (found.level, told in found.found) == (level, True)
    assert "asked r with no login" in found.found
    (found,) = await images(look, [Wanted(image, "image of q/1", spec)])
    assert found.found == f"{image} is on this engine (image of q/1)"
    (found,) = await images(look, [Wanted(image, "image of q/1", spec, Pull.ALWAYS)])
    assert "asked r with no login" in found.found


def test_a_line_a_finding_whatever_it_says() -> None:
    told = lines([ok("a", "fine"), fail("long", "x\x1b[2Jy\nz", "do\rit")], coloured=False)
    assert told == ["ok    a     fine", "fail  long  x[2Jy z  — do it"]
    assert lines([warn("a", "x", "y")], coloured=True) == ["\x1b[33mwarn\x1b[0m  a  x  — y"]
