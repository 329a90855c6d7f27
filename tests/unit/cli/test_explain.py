"""Why a job waits: every answer names what is missing."""

from datetime import UTC, datetime

import pytest

from launch.core.capacity import Amount
from launch.core.explain import explain
from launch.core.states import Reason, State
from launch.job import JobSpec, Resources
from launch.presence import AgentPresence, AgentState
from launch.queue import AwsProvider, LocalProvider, QueueSpec, StaticProvider
from launch.record import CancelRequest, JobRecord
from launch.scaling import ScalingReport

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUE = QueueSpec(queue_name="q")
SCALING = ScalingReport(queue="q", at=NOW, leader="one", max_instances=1)
ROOM = Amount(cpu_milli=2000, memory_bytes=2**30, gpus=0, slots=2)


def record(**changes: object) -> JobRecord:
    spec = JobSpec(image="busybox", resources=Resources(cpu=1))
    base = JobRecord(queue="q", seq=1, job_type="train", spec=spec, submitted_at=NOW, updated_at=NOW)
    return base.model_copy(update=changes)


def agent(**changes: object) -> AgentPresence:
    base = AgentPresence(agent_id="a", queue="q", capacity=ROOM, free=ROOM, version="1", host="h", started_at=NOW)
    return base.model_copy(update=changes)


def why(
    job: JobRecord | None = None,
    *,
    queue: QueueSpec | None = QUEUE,
    paused: bool = False,
    agents: tuple[AgentPresence, ...] = (),
) -> str:
    return str(explain(job or record(), queue=queue, paused=paused, agents=agents, now=NOW, scaling=SCALING))


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_what_runs_or_is_over_waits_for_nothing(state: State) -> None:
    assert explain(record(state=state), queue=QUEUE, paused=False, agents=[], now=NOW) is None


def test_no_agents() -> None:
    assert "no agents are present yet; the scaler starts one" in why()
    assert "EC2" in why(queue=QUEUE.model_copy(update={"provider": AwsProvider(region="r", instance_type="t")}))
    static = QUEUE.model_copy(update={"provider": StaticProvider()})
    assert why(queue=static) == "no agents are present; start one with: launch agent -q q"
    assert "max_instances is 0" in why(queue=QUEUE.model_copy(update={"max_instances": 0}))
    assert "no agents are present" in why(agents=(agent(queue="other"),))


def test_no_agents_and_none_that_could_take_it() -> None:
    large = record(spec=JobSpec(image="busybox", resources=Resources(cpu=8, gpu=1, memory="2Gi")))
    cpu = QUEUE.model_copy(update={"provider": LocalProvider(cpu=1)})
    assert why(large, queue=cpu).startswith("it fits no worker that this queue can have: cpu 8 of 1; ")
    memory = QUEUE.model_copy(update={"provider": LocalProvider(cpu=8, memory="1Gi")})
    assert "memory 2Gi of 1Gi" in why(large, queue=memory)
    assert "the scaler starts one" in why(large)
    assert "the scaler starts one" in why(queue=cpu)


def test_queue_that_is_paused_gone_or_takes_other_types() -> None:
    assert "launch queue resume q" in why(paused=True, agents=(agent(),))
    assert "no queue 'q' any more" in why(queue=None)
    assert "only infer" in why(queue=QUEUE.model_copy(update={"job_types": ("infer",)}), agents=(agent(),))


def test_agents_that_can_not_take_it() -> None:
    assert "none of the 1 agent present takes the type train" in why(agents=(agent(job_types=("infer",)),))
    assert "draining (1 agent)" in why(agents=(agent(state=AgentState.DRAINING),))
    large = record(spec=JobSpec(image="busybox", resources=Resources(cpu=8, gpu=1)))
    assert "cpu 8 of 2, gpu 1 of 0" in why(large, agents=(agent(), agent(agent_id="b")))


def test_full_agents_are_counted_with_what_they_hold() -> None:
    full = agent(free=Amount(cpu_milli=500, memory_bytes=2**30, slots=1), holds=("q/7",))
    text = why(agents=(full,))
    assert "1 agent present, all full (holding 1 job)" in text
    assert "cpu 1 of 0.5" in text


def test_the_queue_s_defaults_count() -> None:
    queue = QueueSpec.model_validate({"queue_name": "q", "defaults": {"resources": {"memory": "4Gi"}}})
    assert "memory 4Gi of 1Gi" in why(queue=queue, agents=(agent(),))


def test_a_job_that_fits_is_about_to_start_or_between_attempts() -> None:
    assert "about to be taken" in why(agents=(agent(),))
    again = record(attempt=1, reason=Reason.AGENT_LOST)
    assert "attempt 1 ended as agent_lost" in why(again, agents=(agent(),))
    assert "retry 1 of 3" in why(again.model_copy(update={"message": "retry 1 of 3"}), agents=(agent(),))


def test_preparing_and_cancelling() -> None:
    preparing = record(state=State.PREPARING, agent="a", image="busybox:1")
    assert "a is preparing the image busybox:1" in why(preparing, agents=(agent(),))
    assert "not answering" in why(preparing)
    assert why(preparing.model_copy(update={"message": "pulling busybox:1"}), agents=(agent(),)) == "pulling busybox:1"
    assert why(record(cancel=CancelRequest(requested_at=NOW, by="me"))) == "waiting to be cancelled"


def test_a_body_that_is_no_spec_needs_only_a_slot() -> None:
    assert "about to be taken" in why(record(spec=None), agents=(agent(),))
