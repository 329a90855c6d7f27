"""An agent takes a job from the queue to its end: the order of effects, and each way to end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.ports import EngineError
from launch.core.retry import MAX_INTERRUPTIONS
from launch.core.states import Reason, State
from launch.record import JobRecord
from tests.fakes.engine import Script, command_not_found
from tests.unit.agent.worlds import HOLD, IMAGE, World, make_world, simulated


def stopped_in_time(record: JobRecord) -> float:
    assert record.started_at is not None
    assert record.finished_at is not None
    return (record.finished_at - record.started_at).total_seconds()


@simulated
async def test_a_job_goes_from_claim_to_ack_in_this_order() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit()
        await world.journal.until("remove")
    assert world.journal.steps("record", "create", "start", "ack", "nak", "remove") == [
        "record:preparing", "create", "start", "record:running", "record:succeeded", "ack", "remove",
    ]  # fmt: skip
    assert await world.states(job) == ["preparing", "running", "succeeded"]
    assert world.waiting() == 0
    assert world.engine.containers == {}


@simulated
async def test_the_record_tells_the_whole_story() -> None:
    world = make_world({"defaults": {"resources": {"cpu": 1}, "env": {"A": "1"}}})
    world.engine.scripts["say",] = Script(exit_code=3, output=(("stdout", b"one\n"), ("stderr", b"no GPU here\n")))
    async with world.agent(gpus=("GPU-a", "GPU-b")):
        job = world.submit("test", command=["say"], resources={"memory": "1Mi", "gpu": 1})
        record = await world.ended(job)
    assert (record.state, record.reason, record.exit_code) == (State.FAILED, Reason.EXIT_NONZERO, 3)
    assert record.message == "exited with code 3; last output: no GPU here"
    assert (record.attempt, record.failures, record.interruptions) == (1, 1, 0)
    assert (record.agent, record.job_type, record.image, record.gpus) == ("a", "test", IMAGE, ("GPU-a",))
    assert record.digest == world.engine.images[IMAGE].id
    assert record.held is not None
    assert (record.held.cpu_milli, record.held.memory_bytes, record.held.gpus) == (1000, 2**20, 1)
    assert record.spec is not None
    assert record.spec.env == {"A": "1"}
    assert record.claimed_at is not None
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.submitted_at < record.claimed_at < record.started_at < record.finished_at == record.updated_at
    assert world.output(job) == b"one\nno GPU here\n"


@simulated
async def test_the_ack_waits_for_the_exit_and_the_lease_is_kept_meanwhile() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        await asyncio.sleep(3600)
        assert world.journal.steps("ack", "nak", "term", "remove") == []
        assert world.server.stream("q").durables["train"].delivered == {job.seq: 1}
        world.engine.exit(world.container(job).id, 0)
        assert (await world.ended(job)).state is State.SUCCEEDED
    assert world.journal.count_of("start") == 1


FAILED, CANCELLED = State.FAILED, State.CANCELLED

ENDINGS: list[tuple[Script, State, Reason | None, int | None, int]] = [
    (Script(exit_code=0), State.SUCCEEDED, None, 0, 1),
    (Script(exit_code=1), FAILED, Reason.EXIT_NONZERO, 1, 3),
    (Script(exit_code=137, oom_killed=True), FAILED, Reason.OOM_KILLED, 137, 3),
    (command_not_found("nope"), FAILED, Reason.COMMAND_NOT_FOUND, None, 1),
    # Somebody else's SIGKILL is the machine's doing: tried again without spending retries, up to a bound.
    (Script(exit_code=137), FAILED, Reason.ENGINE_ERROR, 137, MAX_INTERRUPTIONS + 1),
]


@pytest.mark.parametrize(("script", "state", "reason", "code", "attempts"), ENDINGS)
@simulated
async def test_each_ending_has_its_reason_and_as_many_attempts_as_its_cause_allows(
    script: Script, state: State, reason: Reason | None, code: int | None, attempts: int
) -> None:
    world = make_world()
    world.engine.scripts["x",] = script
    async with world.agent():
        job = world.submit(command=["x"], retries=2)
        record = await world.ended(job)
        await world.journal.until("remove", attempts)
        await world.journal.until("ack")
    assert (record.state, record.reason, record.exit_code, record.attempt) == (state, reason, code, attempts)
    assert world.journal.count_of("start") == attempts
    assert world.journal.count_of("nak") == attempts - 1
    assert world.journal.count_of("ack") == 1
    assert world.waiting() == 0
    assert world.engine.containers == {}


@simulated
async def test_a_retry_that_succeeds_leaves_no_trace_of_the_failure_but_its_count() -> None:
    world = make_world()
    world.engine.scripts["x",] = Script(exit_code=9)
    async with world.agent():
        job = world.submit(command=["x"], retries=1)
        queued = await world.until(job, lambda record: record.state is State.QUEUED)
        assert (queued.reason, queued.exit_code, queued.failures) == (Reason.EXIT_NONZERO, 9, 1)
        assert queued.message == "exited with code 9; retry 1 of 1"
        world.engine.scripts["x",] = Script()
        record = await world.ended(job)
    assert await world.states(job) == ["preparing", "running", "queued", "preparing", "running", "succeeded"]
    assert (record.attempt, record.failures, record.reason, record.exit_code) == (2, 1, None, 0)


@simulated
async def test_an_absent_image_is_pulled_and_a_missing_one_is_not_tried_again() -> None:
    world = make_world()
    world.engine.registry.add("tool:2")
    async with world.agent():
        present, missing = world.submit(image="tool:2"), world.submit(image="tool:3", retries=5)
        good, bad = await world.ended(present), await world.ended(missing)
    assert (good.state, good.digest) == (State.SUCCEEDED, world.engine.images["tool:2"].digest)
    history = await world.client.records.history(present)
    assert [record.message for record in history if record.state is State.PREPARING] == [None, "pulling tool:2"]
    assert (bad.state, bad.reason, bad.attempt) == (State.FAILED, Reason.IMAGE_NOT_FOUND, 1)
    assert bad.message is not None
    assert "tool:3" in bad.message


# -- timeout and cancel -------------------------------------------------------------------------------------------


@simulated
async def test_a_timeout_stops_the_container_and_spends_retries() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD, timeout="90s", retries=1)
        record = await world.ended(job)
        await world.journal.until("remove", 2)
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.TIMED_OUT, 2)
    assert stopped_in_time(record) == pytest.approx(90, abs=1)
    assert world.journal.steps("signal") == ["signal", "signal"]


@simulated
async def test_who_ignores_sigterm_is_killed_after_its_grace() -> None:
    world = make_world()
    world.engine.scripts["deaf",] = Script(hold=True, ignores=frozenset({"SIGTERM"}))
    async with world.agent():
        job = world.submit(command=["deaf"], timeout="1s", stop_grace="20s")
        await world.until(job, State.RUNNING)
        container = world.container(job)
        record = await world.ended(job)
    assert container.signals == ["SIGTERM", "SIGKILL"]
    assert stopped_in_time(record) == pytest.approx(21, abs=0.5)
    assert (record.reason, record.exit_code) == (Reason.TIMED_OUT, 137)


@simulated
async def test_a_timeout_that_comes_too_late_changes_nothing() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(timeout="1s")
        assert (await world.ended(job)).state is State.SUCCEEDED
        await asyncio.sleep(10)
    assert world.journal.count_of("signal") == 0


@simulated
async def test_a_running_job_is_cancelled_at_once_and_a_cancel_wins_over_a_retry() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD, retries=3)
        await world.until(job, State.RUNNING)
        asked_at = world.server.clock.now()
        await world.cancel(job)
        record = await world.ended(job)
        await world.journal.until("remove")
    assert (record.state, record.reason, record.exit_code) == (CANCELLED, Reason.CANCELLED, 143)
    assert record.finished_at is not None
    assert (record.finished_at - asked_at).total_seconds() < 1
    assert record.cancel is not None
    assert world.journal.steps("record", "ack", "remove")[-3:] == ["record:cancelled", "ack", "remove"]
    assert world.waiting() == 0


@simulated
async def test_a_job_that_waits_for_its_image_is_cancelled() -> None:
    world = make_world()
    world.engine.registry.add("tool:2")
    world.engine.pull_gate = asyncio.Event()
    async with world.agent():
        job = world.submit(image="tool:2")
        await world.until(job, lambda record: record.message == "pulling tool:2")
        await world.cancel(job)
        record = await world.ended(job)
        # The agent is free again, although the engine's pull still hangs.
        assert (await world.ended(world.submit())).state is State.SUCCEEDED
    assert (record.state, record.exit_code, record.container) == (CANCELLED, None, None)
    assert world.journal.count_of("start") == 1


@simulated
async def test_a_cancel_while_the_engine_creates_waits_for_what_is_to_be_removed() -> None:
    world = make_world()
    world.engine.gates["create"] = asyncio.Event()
    async with world.agent():
        job = world.submit()
        await world.journal.until("create")
        await world.cancel(job)
        await asyncio.sleep(10)
        assert (await world.record(job)).state is State.PREPARING
        world.engine.gates["create"].set()
        assert (await world.ended(job)).state is CANCELLED
        await world.journal.until("remove")
    assert world.engine.containers == {}
    assert world.journal.count_of("start") == 0


@simulated
async def test_a_job_that_fails_while_it_is_being_cancelled_is_not_tried_again() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD, retries=3)
        await world.until(job, State.RUNNING)
        # The request stands in the record, but its announcement was lost.
        await world.cancel(job, announce=False)
        world.engine.exit(world.container(job).id, 1)
        record = await world.ended(job)
        await world.journal.until("ack")
    assert (record.state, record.reason, record.attempt) == (CANCELLED, Reason.CANCELLED, 1)
    assert record.message == "cancelled; the last attempt: exited with code 1"


@simulated
async def test_a_job_that_was_cancelled_while_queued_never_starts() -> None:
    world = make_world()
    job = world.submit()
    async with world.agent(job_types=("other",)):
        now = world.server.clock.now()
        first = JobRecord(queue="q", seq=job.seq, job_type="train", submitted_at=now, updated_at=now)
        await world.client.records.create(first)
        await world.cancel(job)
    async with world.agent():
        record = await world.ended(job)
        await world.journal.until("ack")
    assert (record.state, record.reason) == (CANCELLED, Reason.CANCELLED)
    assert world.journal.count_of("create") == 0
    assert world.waiting() == 0


@simulated
async def test_a_job_that_was_cancelled_between_attempts_does_not_start_again() -> None:
    world = make_world()
    world.engine.scripts["x",] = Script(exit_code=1)
    async with world.agent():
        job = world.submit(command=["x"], retries=3)
        await world.until(job, State.QUEUED)
        await world.cancel(job)
        record = await world.ended(job)
    assert (record.state, record.reason, record.attempt) == (CANCELLED, Reason.CANCELLED, 1)
    assert world.journal.count_of("start") == 1


# -- the engine's troubles ------------------------------------------------------------------------------------------


async def run_one(world: World, **spec: Any) -> JobRecord:
    async with world.agent():
        job = world.submit(**spec)
        record = await world.ended(job)
        await world.journal.until("ack")
    return record


@simulated
async def test_a_job_without_trouble_is_looked_at_once() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.engine.exit(world.container(job).id)
        await world.ended(job)
    assert world.journal.count_of("inspect") == 1


@simulated
async def test_a_look_that_the_engine_refuses_once_costs_the_job_nothing() -> None:
    world = make_world()
    world.engine.fail("inspect", EngineError("inspect", 500, "no space left on device"))
    record = await run_one(world)
    assert (record.state, record.attempt, record.failures, record.interruptions) == (State.SUCCEEDED, 1, 0, 0)


@pytest.mark.parametrize("step", ["image", "create", "start"])
@simulated
async def test_what_the_engine_refuses_once_is_tried_again_as_not_the_jobs_fault(step: str) -> None:
    world = make_world()
    world.engine.fail(step, EngineError(step, 500, "no space left on device"))
    record = await run_one(world)
    assert (record.state, record.attempt, record.failures, record.interruptions) == (State.SUCCEEDED, 2, 0, 1)


@simulated
async def test_an_engine_that_restarts_kills_the_job_which_is_run_again() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.engine.stop(kill=True)
        asyncio.get_running_loop().call_later(20, world.engine.start_again)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
        world.engine.exit(world.container(job, 2).id, 0)
        record = await world.ended(job)
    assert (record.state, record.attempt, record.failures, record.interruptions) == (State.SUCCEEDED, 2, 0, 1)


@simulated
async def test_an_engine_that_restarts_and_keeps_its_containers_costs_the_job_nothing() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.engine.stop(kill=False)
        await asyncio.sleep(20)
        world.engine.start_again()
        world.engine.write(world.container(job).id, "stdout", b"still here\n")
        world.engine.exit(world.container(job).id, 0)
        record = await world.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert world.output(job) == b"still here\n"


@simulated
async def test_a_container_that_somebody_removed_is_told_so_and_run_again() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        await world.engine.remove(world.container(job).id)
        queued = await world.until(job, State.QUEUED)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
    assert queued.reason is Reason.ENGINE_ERROR
    assert queued.message is not None
    assert "removed by somebody else" in queued.message


@simulated
async def test_a_container_that_can_not_be_removed_stops_nothing() -> None:
    world = make_world()
    world.engine.fail("remove", EngineError("remove", 500, "device or resource busy"))
    async with world.agent():
        job = world.submit()
        await world.journal.until("remove")
        assert (await world.ended(job)).state is State.SUCCEEDED
        await world.presence(lambda entry: entry is not None and not entry.holds)
        assert (await world.ended(world.submit())).state is State.SUCCEEDED
