"""An agent whose broker, engine, peers or own code let it down: every job still ends once, and truthfully."""

from __future__ import annotations

import asyncio
import re

import pytest
from structlog.testing import capture_logs

from launch.core.retry import MAX_CRASHES, MAX_INTERRUPTIONS
from launch.core.states import Reason, State
from launch.errors import BrokerError, BrokerUnavailable
from launch.ports import Versioned
from launch.record import JobRecord
from launch.subjects import JobId
from tests.contract.broker_world import presence
from tests.fakes.engine import Script
from tests.unit.agent.worlds import ACK_WAIT_S, HOLD, FaultyLink, World, make_world, simulated

LEASE_S = 15.0
"""The presence TTL that agents have here."""


async def claim_for(world: World, job: JobId, agent: str, *, state: State = State.PREPARING) -> JobRecord:
    """Another agent, played by the test, owns the job."""
    now = world.server.clock.now()
    record = JobRecord(
        queue=job.queue,
        seq=job.seq,
        job_type="train",
        agent=agent,
        attempt=1,
        state=state,
        submitted_at=now,
        updated_at=now,
    )
    await world.client.records.create(record)
    return record


def deliveries(world: World, job: JobId) -> int:
    return world.server.stream("q").durables["train"].delivered.get(job.seq, 0)


# -- the broker is away -------------------------------------------------------------------------------------------


@simulated
async def test_a_job_goes_on_while_the_broker_is_away_and_its_end_is_told_afterwards() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.server.stop()
        world.engine.write(world.container(job).id, "stdout", b"nobody hears this yet\n")
        world.engine.exit(world.container(job).id, 0)
        # Longer than the ack wait and the lease: nobody else is here to take the job over.
        await asyncio.sleep(120)
        world.server.start()
        record = await world.ended(job)
        await world.journal.until("remove")
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert world.output(job) == b"nobody hears this yet\n"
    assert world.journal.count_of("start") == 1
    assert world.waiting() == 0


@pytest.mark.parametrize("retries", [0, 1])
@simulated
async def test_an_answer_that_is_lost_doubles_nothing(retries: int) -> None:
    """Every request of the agent in turn takes effect without an answer."""
    # The first request announces the agent: without an answer to that it does not begin.
    lost_at, done_at = 1, None
    while done_at is None or lost_at < done_at:
        lost_at += 1
        world = make_world()
        world.engine.scripts["x",] = Script(exit_code=3, output=(("stdout", b"said once\n"),))
        link = FaultyLink("a", world.server)
        link.lose_at = lost_at
        async with world.agent(link=link):
            job = world.submit(command=["x"], retries=retries)
            record = await world.ended(job)
            await world.journal.until("remove", retries + 1)
            done_at = done_at or link.requests
        assert (record.state, record.failures) == (State.FAILED, retries + 1), lost_at
        assert world.journal.count_of("start") == retries + 1, lost_at
        assert world.output(job) == b"said once\n" * (retries + 1), lost_at
        history = await world.client.records.history(job)
        assert sum(record.state.terminal for record in history) == 1, lost_at
        assert world.waiting() == 0, lost_at
    assert lost_at > 10


@pytest.mark.parametrize("broken_for_s", [0.1, 3.0, 100.0])
@simulated
async def test_a_connection_that_breaks_at_any_point_costs_nothing(broken_for_s: float) -> None:
    """Just before every request of the agent in turn, its connection is lost for a while."""
    break_at, done_at = 1, None
    while done_at is None or break_at < done_at:
        break_at += 1
        world = make_world()
        world.engine.scripts["x",] = Script(exit_code=3)
        link = FaultyLink("a", world.server)
        link.break_at, link.broken_for_s = break_at, broken_for_s
        async with world.agent(link=link):
            job = world.submit(command=["x"], retries=1)
            record = await world.ended(job)
            await world.journal.until("remove", 2)
            done_at = done_at or link.requests
        assert (record.state, record.failures) == (State.FAILED, 2), break_at
        assert world.journal.count_of("start") == 2, break_at
        assert world.waiting() == 0, break_at


@pytest.mark.parametrize("state", [State.RUNNING, State.QUEUED, State.SUCCEEDED])
@simulated
async def test_a_write_that_was_stored_and_read_back_before_its_repeat_is_not_repeated(state: State) -> None:
    """The connection breaks after a write took effect, and on reconnecting every record is read again."""
    world = make_world()
    world.engine.scripts["x",] = Script(exit_code=0 if state is State.SUCCEEDED else 3)
    async with world.agent() as worker:
        broken = asyncio.Event()

        async def break_once(record: JobRecord) -> None:
            if record.state is state and not broken.is_set():
                broken.set()
                worker.broker.disconnect()
                worker.broker.reconnect()
                raise BrokerUnavailable("no answer in time")

        worker.records.on_stored = break_once
        job = world.submit(command=["x"], retries=1)
        record = await world.ended(job)
        await world.journal.until("ack")
        assert broken.is_set()
    assert world.journal.count_of("start") == (1 if state is State.SUCCEEDED else 2)
    assert record.interruptions == 0
    assert world.waiting() == 0


@simulated
async def test_a_late_answer_does_not_undo_what_is_known_since() -> None:
    """A read from before a write comes back after it, as it may from another replica."""
    world = make_world()
    async with world.agent() as worker:
        held_back, let_go = asyncio.Event(), asyncio.Event()

        async def answer_late(job: JobId) -> Versioned[JobRecord] | None:
            before = await world.client.records.get(job)
            held_back.set()
            await let_go.wait()
            return before

        world.engine.gates["start"] = asyncio.Event()
        job = world.submit(command=HOLD)
        await world.journal.until("start")
        worker.records.instead_of_get = answer_late
        await world.client.cancels.announce(job)
        await held_back.wait()
        world.engine.gates["start"].set()
        await world.until(job, State.RUNNING)
        let_go.set()
        await asyncio.sleep(1)
        world.engine.exit(world.container(job).id, 0)
        assert (await world.ended(job)).state is State.SUCCEEDED
    assert world.journal.count_of("start") == 1


@simulated
async def test_an_answer_from_before_this_attempt_does_not_fence_it() -> None:
    """As a replica may give it that has not caught up."""
    world = make_world()
    world.engine.scripts["x",] = Script(exit_code=1)
    async with world.agent() as worker:
        job = world.submit(command=["x"], retries=1)
        await world.until(job, State.QUEUED)
        before = await world.client.records.get(job)
        world.engine.scripts["x",] = Script(hold=True)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)

        async def answer_old(_: JobId) -> Versioned[JobRecord] | None:
            return before

        worker.records.instead_of_get = answer_old
        await world.client.cancels.announce(job)
        await asyncio.sleep(1)
        world.engine.exit(world.container(job, 2).id, 0)
        record = await world.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 2)


@simulated
async def test_a_broker_that_refuses_a_write_for_a_while_is_asked_again() -> None:
    world = make_world()
    async with world.agent() as worker:
        refusals = 0

        async def refuse(record: JobRecord) -> None:
            nonlocal refusals
            if record.state.terminal and refusals < 5:
                refusals += 1
                raise BrokerError("NATS: insufficient storage resources available")

        worker.records.before_write = refuse
        job = world.submit()
        record = await world.ended(job)
    assert (record.state, record.attempt, refusals) == (State.SUCCEEDED, 1, 5)


# -- others ---------------------------------------------------------------------------------------------------------


@simulated
async def test_a_job_that_somebody_else_claims_first_is_left_to_them() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def be_faster(record: JobRecord) -> None:
            worker.records.before_write = _nothing
            await claim_for(world, record.id, "b")
            await world.client.agents.put(presence("b", "q", holds=(str(record.id),)), ttl_s=1000)

        worker.records.before_write = be_faster
        job = world.submit()
        await asyncio.sleep(ACK_WAIT_S * 5)
        record = await world.record(job)
    assert (record.agent, record.attempt) == ("b", 1)
    assert world.journal.steps("record", "create", "ack", "nak", "term") == []
    assert deliveries(world, job) > 3


@simulated
async def test_a_claim_that_lost_a_race_against_a_cancel_is_given_up() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def cancel_first(record: JobRecord) -> None:
            worker.records.before_write = _nothing
            ended = record.model_copy(update={"state": State.CANCELLED, "agent": None, "attempt": 0})
            await world.client.records.create(ended)

        worker.records.before_write = cancel_first
        world.submit()
        await world.journal.until("ack")
    assert world.journal.count_of("create") == 0
    assert world.waiting() == 0


@simulated
async def test_a_lost_agents_job_is_taken_over_as_another_attempt() -> None:
    world = make_world()
    job = world.submit()
    await claim_for(world, job, "b", state=State.RUNNING)
    begun_at = world.server.clock.now()
    async with world.agent(presence_ttl_s=LEASE_S):
        # Taken from the queue before, by the one who is gone.
        record = await world.ended(job)
    assert (record.state, record.agent, record.attempt) == (State.SUCCEEDED, "a", 2)
    assert (record.interruptions, record.failures) == (1, 0)
    taken = next(one for one in await world.client.records.history(job) if one.agent == "a")
    assert (taken.reason, taken.message) == (Reason.AGENT_LOST, "b is gone")
    assert taken.claimed_at is not None
    # Not before this agent was connected for a lease: everybody may just have blinked.
    assert (taken.claimed_at - begun_at).total_seconds() == pytest.approx(LEASE_S, abs=1)


@simulated
async def test_a_job_whose_agents_keep_getting_lost_ends() -> None:
    world = make_world()
    job = world.submit()
    record = await claim_for(world, job, "b", state=State.RUNNING)
    known = await world.client.records.get(job)
    assert known is not None
    worn_out = record.model_copy(update={"interruptions": MAX_INTERRUPTIONS})
    await world.client.records.update(worn_out, known.revision)
    async with world.agent():
        ended = await world.ended(job)
        await world.journal.until("ack")
        free = await world.presence(lambda entry: entry is not None and entry.free == entry.capacity)
    assert (ended.state, ended.reason, ended.interruptions) == (State.FAILED, Reason.AGENT_LOST, MAX_INTERRUPTIONS + 1)
    assert ended.message == "b is gone; interrupted 11 times by the infrastructure, the limit is 10"
    assert free is not None
    assert world.journal.count_of("create") == 0


@simulated
async def test_an_agent_that_is_fenced_stops_its_container_and_says_nothing() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        running = await world.until(job, State.RUNNING)
        container = world.container(job)
        world.journal.clear()
        known = await world.client.records.get(job)
        assert known is not None
        later = running.model_copy(update={"agent": "b", "attempt": 2})
        await world.client.records.update(later, known.revision)
        # A reconnect is when an agent looks whether it still owns what it holds.
        world.server.stop()
        world.server.start()
        await world.journal.until("remove")
        assert await world.record(job) == later
    assert container.signals == ["SIGTERM"]
    assert world.journal.steps("record", "ack", "nak", "term") == []
    assert world.waiting() == 1


@pytest.mark.parametrize("command", [("quick",), HOLD])
@simulated
async def test_an_agent_that_is_fenced_while_it_starts_discards_the_outcome(command: tuple[str, ...]) -> None:
    world = make_world()
    async with world.agent() as worker:

        async def take_over(record: JobRecord) -> None:
            if record.state is State.RUNNING:
                worker.records.before_write = _nothing
                known = await world.client.records.get(record.id)
                assert known is not None
                later = known.value.model_copy(update={"agent": "b", "attempt": 2})
                await world.client.records.update(later, known.revision)

        worker.records.before_write = take_over
        job = world.submit(command=command)
        await world.journal.until("remove")
        record = await world.record(job)
        # And it works on.
        assert (await world.ended(world.submit())).agent == "a"
        await world.journal.until("remove", 2)
    assert (record.agent, record.attempt, record.state) == ("b", 2, State.PREPARING)
    assert world.engine.containers == {}


@simulated
async def test_a_redelivery_of_what_runs_changes_nothing_but_the_reply() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        for _ in range(3):
            world.server.redeliver_all("q")
            await asyncio.sleep(ACK_WAIT_S * 3)
        assert deliveries(world, job) == 4
        world.engine.exit(world.container(job).id, 0)
        record = await world.ended(job)
        await world.journal.until("ack")
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert world.journal.count_of("start") == 1
    assert [about for step, about in world.journal if step == "ack"] == [f"$JS.ACK.queue_q.train.4.{job.seq}.4"]


@simulated
async def test_a_redelivery_between_record_and_ack_is_a_late_duplicate() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def redeliver(record: JobRecord) -> None:
            if record.state.terminal:
                world.server.redeliver_all("q")
                await world.journal.until("ack")

        worker.records.on_stored = redeliver
        job = world.submit()
        await world.journal.until("remove")
    assert await world.states(job) == ["preparing", "running", "succeeded"]
    assert world.journal.count_of("start") == 1
    assert world.journal.count_of("ack") == 2


@simulated
async def test_an_attempt_whose_container_goes_slowly_does_not_take_its_successor_along() -> None:
    """The next attempt begins while the engine still removes the container of the one before."""
    world = make_world()
    world.engine.gates["remove"] = asyncio.Event()
    world.engine.scripts["x",] = Script(exit_code=1)
    async with world.agent():
        job = world.submit(command=["x"], retries=1, resources={"cpu": 3})
        await world.until(job, State.QUEUED)
        world.engine.scripts["x",] = Script(hold=True)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
        world.engine.gates["remove"].set()
        await asyncio.sleep(ACK_WAIT_S * 5)
        entry = await world.client.agents.get("a")
        assert entry is not None
        assert entry.holds == (str(job),)
        assert entry.free.cpu_milli == 1000
        assert deliveries(world, job) == 2
        world.engine.exit(world.container(job, 2).id, 0)
        record = await world.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 2)
    assert world.journal.count_of("start") == 2


@simulated
async def test_an_attempt_that_is_put_away_while_the_next_is_claimed_does_not_free_what_that_one_holds() -> None:
    world = make_world()
    world.engine.gates["remove"] = asyncio.Event()
    world.engine.scripts["x",] = Script(exit_code=1)
    async with world.agent(gpus=("GPU-a", "GPU-b")) as worker:

        async def put_away(record: JobRecord) -> None:
            if (record.attempt, record.state) == (2, State.PREPARING):
                world.engine.gates["remove"].set()
                await asyncio.sleep(1)

        worker.records.before_write = put_away
        job = world.submit(command=["x"], retries=1, resources={"cpu": 3, "gpu": 1})
        await world.until(job, State.QUEUED)
        world.engine.scripts["x",] = Script(hold=True)
        first = await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
        other = world.submit(command=HOLD, resources={"cpu": 1, "gpu": 1})
        second = await world.until(other, State.RUNNING)
        assert set(first.gpus) | set(second.gpus) == {"GPU-a", "GPU-b"}
        entry = await world.presence(lambda entry: entry is not None and len(entry.holds) == 2)
        assert entry is not None
        assert (entry.free.cpu_milli, entry.free.gpus) == (0, 0)


# -- our own defects --------------------------------------------------------------------------------------------


@simulated
async def test_a_job_that_breaks_our_own_code_is_set_aside_the_third_time() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def break_at(record: JobRecord) -> None:
            if record.seq == 1 and record.state is State.PREPARING:
                raise ZeroDivisionError("a defect")

        worker.records.before_write = break_at
        bad, good = world.submit(), world.submit()
        assert (await world.ended(good)).state is State.SUCCEEDED
        record = await world.ended(bad)
        await world.journal.until("term")
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.ENGINE_ERROR, 0)
    assert record.message is not None
    said = (
        r"the agent failed 3 times at this job: ZeroDivisionError: a defect, at agent\.\w+:\d+; the log of .* says more"
    )
    assert re.fullmatch(said, record.message)
    assert deliveries(world, bad) == 0
    assert world.journal.count_of("nak") == MAX_CRASHES - 1
    assert world.waiting() == 0


@simulated
async def test_a_record_that_can_not_be_read_does_not_end_the_agent() -> None:
    world = make_world()
    bad = world.submit()
    world.server.records.put(bad.key, b"{}")
    async with world.agent() as worker:
        good = world.submit()
        await asyncio.sleep(600)
        assert not worker.task.done()
        record = await world.client.records.get(good)
    assert record is not None
    assert record.value.state is State.SUCCEEDED
    # It is not tried over and over: once in a while is enough.
    assert world.journal.count_of("nak") < 12


@simulated
async def test_a_defect_in_the_run_of_a_job_is_its_outcome_and_not_the_agents_end() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def break_once(record: JobRecord) -> None:
            if record.state is State.RUNNING and record.attempt == 1:
                raise ZeroDivisionError("a defect")

        worker.records.before_write = break_once
        job = world.submit(command=HOLD)
        queued = await world.until(job, State.QUEUED)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
        assert not any(found.name.endswith("-1") for found in world.engine.containers.values())
    assert (queued.reason, queued.interruptions) == (Reason.ENGINE_ERROR, 1)
    assert queued.message is not None
    assert re.match(r"the agent itself failed: ZeroDivisionError: a defect, at agent\.\w+:\d+; the log", queued.message)
    assert "\n" not in queued.message


@simulated
async def test_a_job_that_breaks_the_agent_each_time_is_set_aside_and_the_traceback_is_in_the_log() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def always_break(record: JobRecord) -> None:
            if record.state is State.RUNNING:
                raise ZeroDivisionError("a defect")

        worker.records.before_write = always_break
        with capture_logs() as logs:
            record = await world.ended(world.submit(command=HOLD))
            await world.journal.until("ack")
        assert world.engine.containers == {}
        assert not worker.task.done()
    assert (record.state, record.reason, record.attempt, record.crashes) == (State.FAILED, Reason.ENGINE_ERROR, 3, 3)
    assert record.message is not None
    assert "ZeroDivisionError: a defect, at agent." in record.message
    assert "\n" not in record.message
    assert sum(entry["event"] == "the agent failed at this job" and entry["exc_info"] for entry in logs) == 3


@simulated
async def test_a_defect_while_an_outcome_is_written_does_not_end_the_agent() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def break_once(record: JobRecord) -> None:
            if record.state.terminal and record.attempt == 1:
                raise ZeroDivisionError("a defect")

        worker.records.before_write = break_once
        job = world.submit()
        record = await world.ended(job)
        assert not worker.task.done()
    assert (record.state, record.attempt) == (State.SUCCEEDED, 2)


async def _nothing(_: object) -> None:
    """A fault that is over."""
