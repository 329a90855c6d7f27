"""What ends an agent's work from outside: drain requests, spot notices, lost contact, and jobs that waited too long."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from agent.main import LINGER_S
from agent.settings import OnLostContact
from agent.stops import LEFT_FOR_RECORDS_S, NOTICE_POLL_S, heed_spot_notices
from launch.core.states import Reason, State
from launch.presence import AgentPresence, AgentState
from tests.unit.agent.worlds import HOLD, Worker, World, make_world, simulated

LEASE_S = 15.0


class Notices:
    """A metadata service that plans an interruption when told to."""

    def __init__(self) -> None:
        self.gone_at: datetime | None = None
        self.asked = 0
        self.closed = False

    async def interruption(self) -> datetime | None:
        self.asked += 1
        return self.gone_at

    async def close(self) -> None:
        self.closed = True


def now_s() -> float:
    return asyncio.get_running_loop().time()


# -- drain requests -------------------------------------------------------------------------------------------------


@simulated
async def test_a_drain_request_is_heard_and_the_agent_leaves_when_it_holds_nothing() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        await world.client.agents.ask_to_drain("b")
        await asyncio.sleep(60)
        assert not worker.stop.is_set()
        await world.client.agents.ask_to_drain("a")
        await world.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINING)
        await world.client.agents.ask_to_drain("a")
        late = world.submit()
        await asyncio.sleep(600)
        assert await world.client.records.get(late) is None
        world.engine.exit(world.container(job).id, 0)
        await worker.task
    assert (await world.ended(job)).state is State.SUCCEEDED
    assert world.journal.count_of("signal") == 0


@simulated
async def test_who_was_started_by_others_and_is_asked_to_drain_stays_to_be_ended_for_a_while() -> None:
    world = make_world()
    async with world.agent(instance="i-1") as worker:
        await world.presence(lambda entry: entry is not None)
        await world.client.agents.ask_to_drain("a")
        await world.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINED)
        asked_at = now_s()
        late = world.submit()
        await asyncio.sleep(LINGER_S - 10)
        entry = await world.client.agents.get("a")
        assert entry is not None
        assert (entry.state, entry.holds) == (AgentState.DRAINED, ())
        assert await world.client.records.get(late) is None
        await worker.task
        assert LINGER_S <= now_s() - asked_at < LINGER_S + 10
    assert await world.client.agents.get("a") is None


@simulated
async def test_who_is_stopped_on_its_own_machine_leaves_at_once() -> None:
    world = make_world()
    async with world.agent(instance="i-1") as worker:
        await world.presence(lambda entry: entry is not None)
        began = now_s()
        worker.stop.set()
        await worker.task
        assert now_s() - began < 10


@simulated
async def test_a_drain_request_is_heard_after_the_connection_was_lost() -> None:
    world = make_world()
    async with world.agent() as worker:
        await world.presence(lambda entry: entry is not None)
        worker.broker.disconnect()
        await asyncio.sleep(30)
        worker.broker.reconnect()
        await world.presence(lambda entry: entry is not None)
        await world.client.agents.ask_to_drain("a")
        await worker.task


# -- spot notices ---------------------------------------------------------------------------------------------------


async def noticed(world: World, worker: Worker, notices: Notices) -> asyncio.Task[None]:
    """The loop of an agent on a spot instance, beside the others of this agent."""
    heed = heed_spot_notices(notices, world.server.clock, worker.agent._holds, worker.stop)
    return asyncio.create_task(heed, name="spot notices")


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


@simulated
async def test_a_spot_notice_gives_jobs_back_at_once_and_spends_no_retry() -> None:
    world, notices = make_world(), Notices()
    async with world.agent() as worker:
        task = await noticed(world, worker, notices)
        job = world.submit(command=HOLD, retries=2, stop_grace="1h")
        await world.until(job, State.RUNNING)
        await asyncio.sleep(3600)
        assert notices.asked >= 3600 / NOTICE_POLL_S - 1
        notices.gone_at = world.server.clock.now() + timedelta(seconds=120)
        since = now_s()
        record = await world.until(job, State.QUEUED)
        # The fake's container heeds SIGTERM at once.
        assert now_s() - since < NOTICE_POLL_S + 2
        assert (record.reason, record.failures, record.interruptions) == (Reason.PREEMPTED, 0, 1)
        await worker.task
        async with world.agent(agent_id="b"):
            again = await world.until(job, lambda found: found.state is State.RUNNING and found.attempt == 2)
            assert again.agent == "b"
        await ended(task)
    assert notices.closed


@simulated
async def test_the_grace_ends_early_enough_to_tell_the_broker() -> None:
    world, notices = make_world(), Notices()
    async with world.agent() as worker:
        task = await noticed(world, worker, notices)
        job = world.submit(command=HOLD, stop_grace="1h")
        await world.until(job, State.RUNNING)
        hold = worker.agent._holds.get(job)
        assert hold is not None
        notices.gone_at = world.server.clock.now() + timedelta(seconds=120)
        await hold.stop
        assert 120 - LEFT_FOR_RECORDS_S - NOTICE_POLL_S <= hold.grace_s <= 120 - LEFT_FOR_RECORDS_S
        await ended(task)


@simulated
async def test_a_notice_that_comes_too_late_leaves_a_second() -> None:
    world, notices = make_world(), Notices()
    async with world.agent() as worker:
        job = world.submit(command=HOLD, stop_grace="1h")
        await world.until(job, State.RUNNING)
        hold = worker.agent._holds.get(job)
        assert hold is not None
        notices.gone_at = world.server.clock.now() - timedelta(seconds=5)
        task = await noticed(world, worker, notices)
        await hold.stop
        assert hold.grace_s == 1.0
        await ended(task)


# -- lost contact ---------------------------------------------------------------------------------------------------


@simulated
async def test_with_stop_what_runs_is_stopped_before_the_lease_has_run_out() -> None:
    world = make_world()
    async with world.agent(presence_ttl_s=LEASE_S, on_lost_contact=OnLostContact.STOP) as worker:
        job = world.submit(command=HOLD, retries=3)
        await world.until(job, State.RUNNING)
        await asyncio.sleep(600)
        assert world.journal.count_of("signal") == 0
        worker.broker.disconnect()
        since = now_s()
        await world.journal.until("signal")
        # The entry was renewed up to a third of the lease before.
        assert LEASE_S / 3 - 1 <= now_s() - since <= LEASE_S * 2 / 3 + 0.1
        worker.broker.reconnect()
        record = await world.until(job, lambda found: found.state is State.QUEUED or found.attempt == 2)
        assert (record.failures, record.interruptions) == (0, 1)


@simulated
async def test_with_stop_a_short_break_stops_nothing() -> None:
    world = make_world()
    async with world.agent(presence_ttl_s=LEASE_S, on_lost_contact=OnLostContact.STOP) as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        for _ in range(20):
            worker.broker.disconnect()
            await asyncio.sleep(LEASE_S / 4)
            worker.broker.reconnect()
            await asyncio.sleep(LEASE_S)
        assert world.journal.count_of("signal") == 0
        assert (await world.record(job)).attempt == 1


@simulated
async def test_with_continue_it_runs_on_however_long_nobody_answers() -> None:
    world = make_world()
    async with world.agent(presence_ttl_s=LEASE_S) as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        worker.broker.disconnect()
        await asyncio.sleep(3600)
        assert world.journal.count_of("signal") == 0
        world.engine.exit(world.container(job).id, 0)
        worker.broker.reconnect()
        record = await world.ended(job)
        assert (record.state, record.attempt) == (State.SUCCEEDED, 1)


async def nothing(*_: object, **__: object) -> None:
    """What is said and not heard."""


@pytest.mark.parametrize("told_by", ["the new owner", "its own silence"])
def test_an_agent_that_was_out_of_sight_fences_what_was_taken_over(told_by: str) -> None:
    """Its connection never broke, so no reconnect makes it look."""

    @simulated
    async def run() -> None:
        world = make_world()
        async with world.agent(presence_ttl_s=LEASE_S, max_jobs=1) as old:
            job = world.submit(command=HOLD)
            await world.until(job, State.RUNNING)
            first = world.container(job)
            put, gate = old.broker.agents.put, asyncio.Event()

            async def held_back(presence: AgentPresence, *, ttl_s: float) -> None:
                await gate.wait()
                await put(presence, ttl_s=ttl_s)

            old.broker.agents.put = held_back  # type: ignore[method-assign]  # its word does not get through
            old.broker.work.progress = nothing  # type: ignore[method-assign]  # nor does this
            async with world.agent(agent_id="b", presence_ttl_s=LEASE_S) as new:
                if told_by == "its own silence":
                    new.broker.cancels.announce = nothing  # type: ignore[method-assign]
                await world.until(job, lambda found: found.state is State.RUNNING and found.attempt == 2)
                if told_by == "its own silence":
                    assert world.journal.count_of("signal") == 0
                    gate.set()
                await world.journal.until("signal")
                gate.set()
                await world.presence(lambda entry: entry is not None and not entry.holds)
                assert first not in world.engine.containers.values()
                record = await world.record(job)
                assert (record.state, record.agent, record.attempt) == (State.RUNNING, "b", 2)

    run()


@simulated
async def test_a_job_that_comes_back_while_its_earlier_attempt_still_runs_here_waits_for_that_to_end() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        first = world.container(job)
        worker.broker.work.progress = nothing  # type: ignore[method-assign]
        known = await world.client.records.get(job)
        assert known is not None
        # Another agent has had it meanwhile, and given it back.
        elsewhere = known.value.model_copy(update={"state": State.QUEUED, "attempt": 2, "agent": "b"})
        await world.client.records.update(elsewhere, known.revision)
        record = await world.until(job, lambda found: found.state is not State.QUEUED)
        assert (record.state, record.attempt, record.agent) == (State.PREPARING, 3, "a")
        await world.until(job, State.RUNNING)
        assert first not in world.engine.containers.values()
        assert world.container(job, 3).state == "running"


# -- jobs that waited too long ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waits_s", "state"), [(50, State.SUCCEEDED), (70, State.FAILED)])
def test_expire_after_counts_the_time_before_the_first_start(waits_s: float, state: State) -> None:
    @simulated
    async def run() -> None:
        world = make_world()
        job = world.submit(expire_after="1m")
        await asyncio.sleep(waits_s)
        async with world.agent():
            record = await world.ended(job)
            assert record.state is state
            if state is State.FAILED:
                assert record.reason is Reason.EXPIRED
                assert record.attempt == 0
                assert "expire_after" in (record.message or "")
                assert world.engine.containers == {}
            await world.journal.until("term" if state is State.FAILED else "ack")
        assert world.waiting() == 0

    run()


@simulated
async def test_a_job_that_has_started_once_does_not_expire_between_attempts() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD, retries=1, expire_after="1m")
        await world.until(job, State.RUNNING)
        await asyncio.sleep(600)
        world.engine.exit(world.container(job).id, 1)
        await world.until(job, lambda found: found.state is State.RUNNING and found.attempt == 2)
        world.engine.exit(world.container(job, 2).id, 0)
        assert (await world.ended(job)).state is State.SUCCEEDED
        assert not worker.stop.is_set()
