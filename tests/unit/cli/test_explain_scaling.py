"""Why a job waits, as far as the scaler and the jobs before it have to do with it."""

from datetime import UTC, datetime, timedelta

import pytest

from launch.core.capacity import Amount
from launch.core.explain import explain
from launch.core.line import Ahead
from launch.job import JobSpec, Resources
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, QueueSpec, StaticProvider
from launch.record import JobRecord
from launch.scaling import BootTrouble, InstanceGroup, InstanceReport, InstanceStage, ScalingReport

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROOM = Amount(cpu_milli=2000, memory_bytes=2**30, slots=2)
AWS = QueueSpec(
    queue_name="q",
    provider=AwsProvider(region="us-east-1", instance_type="g4dn.xlarge"),
    max_instances=3,
    agent_image="me/agent:1",
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def instance(name: str, stage: InstanceStage, since_s: float) -> InstanceReport:
    return InstanceReport(id=name, stage=stage, since=ago(since_s), capacity=ROOM)


def report(*instances: InstanceReport, **changes: object) -> ScalingReport:
    base = ScalingReport(queue="q", at=ago(1), leader="one", instances=instances, max_instances=3)
    return base.model_copy(update=changes)


BOOTING = instance("i-0ab", InstanceStage.BOOTING, 41)
FULL = AgentPresence(
    agent_id="a",
    queue="q",
    capacity=ROOM,
    free=Amount(cpu_milli=500, memory_bytes=2**30, slots=1),
    holds=("q/1",),
    version="1",
    host="h",
    started_at=NOW,
)
IS_FULL = "1 agent present, all full (holding 1 job): short of cpu 1 of 0.5"


def why(
    scaling: ScalingReport | None,
    *agents: AgentPresence,
    ahead: Ahead | None = None,
    queue: QueueSpec = AWS,
    **changes: object,
) -> str:
    spec = JobSpec(image="busybox", resources=Resources(cpu=1))
    record = JobRecord(queue="q", seq=9, job_type="train", spec=spec, submitted_at=NOW, updated_at=NOW)
    record = record.model_copy(update=changes)
    return str(explain(record, queue=queue, paused=False, agents=agents, now=NOW, ahead=ahead, scaling=scaling))


def test_the_instance_that_is_waited_for_and_the_jobs_before() -> None:
    assert why(report(BOOTING, boot_s=70), ahead=Ahead(2)) == "2 ahead of it; i-0ab booting since 41 s, usually 70 s"
    assert why(report(BOOTING)) == "i-0ab booting since 41 s"
    assert why(report(BOOTING, boot_s=70), FULL) == f"{IS_FULL}; i-0ab booting since 41 s, usually 70 s"


def test_of_several_instances_the_oldest_is_named() -> None:
    others = (instance("i-2", InstanceStage.BOOTING, 10), instance("i-3", InstanceStage.INTENT, 1))
    assert why(report(others[0], BOOTING, others[1])) == "i-0ab booting since 41 s (and 2 more)"
    group = InstanceGroup(stage=InstanceStage.BOOTING, count=7, age_s=1)
    assert why(report(BOOTING, more=(group,))) == "i-0ab booting since 41 s (and 7 more)"
    assert why(report(others[1])) == "1 instance asked for 1.0 s ago"
    assert why(report(instance("i-1", InstanceStage.BOOTING, 200))) == "i-1 booting since 3m20s"


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (Ahead(), "no agents are present yet; the scaler starts an EC2 instance"),
        (Ahead(1), "1 ahead of it; no agents are present yet; the scaler starts an EC2 instance"),
        (
            Ahead(1000, at_least=True),
            "more than 1,000 ahead of it; no agents are present yet; the scaler starts an EC2",
        ),
    ],
)
def test_jobs_before_it(ahead: Ahead, text: str) -> None:
    assert why(report(), ahead=ahead).startswith(text)


def test_one_between_attempts_has_been_at_the_head() -> None:
    assert "ahead" not in why(report(), ahead=Ahead(3), attempt=1)


def test_no_scaler_has_ever_looked() -> None:
    text = "no agents are present yet, and no scaler has looked at the queue q yet; start one: launch scaler"
    assert why(None) == text
    assert why(None, FULL) == f"{IS_FULL}, and no scaler has looked at the queue q yet; start one: launch scaler"
    one = AWS.model_copy(update={"max_instances": 1})
    assert why(None, FULL, queue=one) == IS_FULL
    static = AWS.model_copy(update={"provider": StaticProvider()})
    assert "scaler" not in why(None, queue=static)
    assert "scaler" not in why(None, FULL, queue=static)


def test_no_scaler_looks_any_more() -> None:
    gone = report(BOOTING, at=ago(300))
    told = "no scaler has looked since 2026-01-01 11:55:00 UTC (5m00s ago); start one: launch scaler"
    assert why(gone) == f"no agents are present yet, and {told}"
    assert why(report(BOOTING, at=ago(60))) == "i-0ab booting since 41 s"
    stopped = why(report(at=ago(3), stopped=True))
    assert "no scaler has looked since 2026-01-01 11:59:57 UTC (3.0s ago); start one: launch scaler" in stopped


def test_the_provider_refuses() -> None:
    refused = report(trouble="UnauthorizedOperation: may not ec2:RunInstances; give the role that permission")
    text = "the scaler is held up: UnauthorizedOperation: may not ec2:RunInstances; give the role that permission"
    assert why(refused) == text
    assert why(refused, FULL) == f"{IS_FULL}; {text}"


def test_instances_that_never_registered() -> None:
    failed = BootTrouble(failures=3, why="i-7: no such image", retry_at=NOW + timedelta(seconds=20))
    text = "3 instances never registered (i-7: no such image); the next try is in 20s"
    asked = "is agent_image me/agent:1 pullable from there?"
    assert why(report(boots=failed)) == f"{text}; {asked}"
    tried = failed.model_copy(update={"retry_at": ago(1), "failures": 1, "why": ""})
    assert why(report(BOOTING, boots=tried)) == f"1 instance never registered; i-0ab booting since 41 s; {asked}"
    local = QueueSpec(queue_name="q")
    assert why(report(boots=failed), queue=local) == text
    unnamed = AWS.model_copy(update={"agent_image": None})
    assert why(report(boots=failed), queue=unnamed).endswith("the queue names no agent_image")


def test_as_many_as_there_may_be() -> None:
    ready = [instance(f"i-{n}", InstanceStage.READY, 100) for n in range(3)]
    assert why(report(*ready), FULL) == f"{IS_FULL}; max_instances is 3, and all are there"
    leaving = [*ready[:2], instance("i-9", InstanceStage.DRAINING, 1)]
    assert why(report(*leaving), FULL) == f"{IS_FULL}; max_instances is 3, and all are there (1 on the way out)"
    assert why(report(ready[0], max_instances=1), FULL) == f"{IS_FULL}; max_instances is 1, and it is there"
    assert why(report(*ready[:2]), FULL) == IS_FULL
    # One that is still coming says more.
    assert "booting" in why(report(*ready[:2], BOOTING), FULL)


def test_what_another_instance_would_not_change_says_nothing_of_the_scaler() -> None:
    free = FULL.model_copy(update={"free": ROOM, "holds": ()})
    assert why(None, free) == "about to be taken by an agent"
    assert why(None, free, ahead=Ahead(4)) == "4 ahead of it; about to be taken by an agent"
    other = FULL.model_copy(update={"job_types": ("infer",)})
    assert "scaler" not in why(report(BOOTING), other)


def test_agents_that_are_leaving() -> None:
    draining = FULL.model_copy(update={"state": AgentState.DRAINING})
    text = why(report(BOOTING, boot_s=70), draining)
    assert text == "every agent that could take it is draining (1 agent); i-0ab booting since 41 s, usually 70 s"
