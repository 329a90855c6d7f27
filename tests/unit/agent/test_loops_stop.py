"""How an agent is seen by others, and how it goes: drained, in a hurry, or because its queue is gone."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from agent.intake import CRASH_DELAY_S
from launch.core.states import Reason, State
from launch.ports import Synced
from launch.presence import AgentPresence, AgentState
from launch.record import JobRecord
from tests.fakes.engine import Script
from tests.unit.agent.worlds import ACK_WAIT_S, HOLD, QUEUE, Worker, World, make_world, simulated


async def watch_states(world: World, seen: list[str]) -> None:
    """Note every state that the agent shows, `gone` at last."""
    async with aclosing(world.client.agents.watch()) as changes:
        async for change in changes:
            if not isinstance(change, Synced):
                state = str(change.value.state) if change.value is not None else "gone"
                if not seen or seen[-1] != state:
                    seen.append(state)


# -- presence -------------------------------------------------------------------------------------------------------


def ready(entry: AgentPresence | None) -> bool:
    return entry is not None and entry.state is AgentState.READY


@simulated
async def test_presence_tells_what_the_agent_has_and_holds() -> None:
    world = make_world()
    async with world.agent(job_types=("train",), labels={"zone": "b"}, instance="i-1", max_jobs=2):
        idle = await world.presence(ready)
        assert idle is not None
        assert (idle.queue, idle.job_types, idle.instance) == (QUEUE, ("train",), "i-1")
        assert idle.labels["zone"] == "b"
        assert idle.holds == ()
        assert idle.idle_since == idle.started_at
        assert (idle.capacity.cpu_milli, idle.capacity.memory_bytes, idle.capacity.slots) == (4000, 2**33, 2)
        job = world.submit(command=HOLD, resources={"cpu": 1, "memory": "1Gi"})
        busy = await world.presence(lambda entry: entry is not None and entry.holds == (str(job),))
        assert busy is not None
        assert busy.idle_since is None
        assert (busy.free.cpu_milli, busy.free.memory_bytes, busy.free.slots) == (3000, 2**33 - 2**30, 1)
        world.engine.exit(world.container(job).id, 0)
        again = await world.presence(lambda entry: entry is not None and not entry.holds)
        assert again is not None
        assert again.free == again.capacity
        assert again.idle_since is not None
        assert again.idle_since > idle.started_at


@simulated
async def test_presence_is_kept_up_expires_with_the_connection_and_comes_back_with_it() -> None:
    world = make_world()
    async with world.agent(presence_ttl_s=15.0) as worker:
        await world.presence(ready)
        seen: list[str] = []
        watching = asyncio.create_task(watch_states(world, seen))
        await asyncio.sleep(600)
        assert seen == ["ready"]
        worker.broker.disconnect()
        await world.presence(lambda entry: entry is None)
        worker.broker.reconnect()
        await asyncio.sleep(60)
        assert seen == ["ready", "gone", "ready"]
        watching.cancel()


@simulated
async def test_a_held_job_is_listed_until_its_message_is_answered() -> None:
    world = make_world()
    world.engine.gates["remove"] = asyncio.Event()
    async with world.agent():
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.engine.exit(world.container(job).id, 0)
        await world.journal.until("ack")
        # The room is free as soon as the container has exited, whatever is still to be said of it.
        await world.presence(
            lambda entry: entry is not None and entry.holds == (str(job),) and entry.free == entry.capacity
        )
        world.engine.gates["remove"].set()
        await world.presence(lambda entry: entry is not None and not entry.holds)


# -- drain --------------------------------------------------------------------------------------------------------


@simulated
async def test_a_drain_takes_nothing_new_and_sees_what_runs_to_its_end() -> None:
    world = make_world()
    seen: list[str] = []
    watching = asyncio.create_task(watch_states(world, seen))
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        worker.stop.set()
        entry = await world.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINING)
        assert entry is not None
        assert entry.holds == (str(job),)
        late = world.submit()
        await asyncio.sleep(ACK_WAIT_S * 10)
        assert await world.client.records.get(late) is None
        assert not worker.task.done()
        world.engine.exit(world.container(job).id, 0)
        await worker.task
        assert (await world.ended(job)).state is State.SUCCEEDED
        assert world.engine.containers == {}
    await asyncio.sleep(60)
    watching.cancel()
    assert seen == ["ready", "draining", "drained", "gone"]
    assert world.journal.count_of("signal") == 0
    assert world.waiting() == 1


@simulated
async def test_a_drain_of_an_idle_agent_is_over_at_once() -> None:
    world = make_world()
    async with world.agent() as worker:
        await world.presence(ready)
        begun = asyncio.get_running_loop().time()
        await worker.drained()
        assert asyncio.get_running_loop().time() - begun < 1
    assert await world.client.agents.get("a") is None


@simulated
async def test_a_drain_does_not_wait_for_a_broker_that_is_away_for_ever() -> None:
    world = make_world()
    async with world.agent() as worker:
        await world.presence(ready)
        worker.broker.disconnect()
        await asyncio.sleep(10)
        await worker.drained()


@simulated
async def test_a_drain_that_takes_too_long_gives_its_jobs_back_without_spending_retries() -> None:
    world = make_world()
    world.engine.scripts["save",] = Script(hold=True, on_term=0)
    async with world.agent(drain_timeout_s=120.0) as worker:
        # A job that saves its work on SIGTERM and exits with 0 has not done what it was to do.
        jobs = [world.submit(command=HOLD), world.submit(command=["save"])]
        for job in jobs:
            await world.until(job, State.RUNNING)
        begun = asyncio.get_running_loop().time()
        await worker.drained()
        assert asyncio.get_running_loop().time() - begun == pytest.approx(120, abs=2)
    for job in jobs:
        record = await world.record(job)
        assert (record.state, record.reason, record.failures) == (State.QUEUED, Reason.PREEMPTED, 0)
    assert world.journal.count_of("signal") == 2
    assert world.engine.containers == {}
    async with world.agent(agent_id="b"):
        for job in jobs:
            again = await world.until(job, State.RUNNING)
            assert (again.agent, again.attempt) == ("b", 2)


def stop_after(worker: Worker, state: State) -> None:
    """Have the agent asked to stop once it has written a record in this state, before it does anything more."""

    async def stop(record: JobRecord) -> None:
        if record.state is state:
            worker.stop.set()
            await asyncio.sleep(1)

    worker.records.on_stored = stop


@simulated
async def test_a_drain_that_comes_upon_a_refusal_lets_it_be_made() -> None:
    world = make_world()
    async with world.agent() as worker:
        stop_after(worker, State.FAILED)
        job = world.raw(b"no job")
        await worker.task
    assert (await world.record(job)).reason is Reason.INVALID_SPEC
    assert world.journal.steps("nak", "term") == ["term"]
    assert world.waiting() == 0


@simulated
async def test_a_drain_that_comes_upon_a_claim_runs_its_job() -> None:
    world = make_world()
    async with world.agent() as worker:
        stop_after(worker, State.PREPARING)
        job = world.submit()
        await worker.task
    record = await world.record(job)
    assert (record.state, record.agent, record.attempt, record.interruptions) == (State.SUCCEEDED, "a", 1, 0)
    assert world.journal.steps("nak", "ack") == ["ack"]
    assert world.waiting() == 0


@simulated
async def test_a_drain_waits_only_a_while_for_an_answer_that_the_broker_does_not_take() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def away(record: JobRecord) -> None:
            worker.stop.set()
            worker.broker.disconnect()

        worker.records.on_stored = away
        job = world.raw(b"no job")
        begun = asyncio.get_running_loop().time()
        await worker.task
        assert asyncio.get_running_loop().time() - begun < 10
    # Whoever gets it next finds that it has ended.
    assert (await world.record(job)).state is State.FAILED
    assert world.waiting() == 1
    async with world.agent(agent_id="b"):
        await world.journal.until("ack")
    assert world.waiting() == 0


@simulated
async def test_a_drain_that_comes_upon_a_message_that_is_set_aside_lets_that_be_done() -> None:
    world = make_world()
    async with world.agent() as worker:

        async def broken(record: JobRecord) -> None:
            raise ZeroDivisionError

        async def stop(reply: str, *, delay_s: float = 0.0) -> None:
            worker.stop.set()
            await asyncio.sleep(1)
            given.append(delay_s)

        given: list[float] = []
        worker.records.before_write = broken
        worker.broker.work.nak = stop  # type: ignore[method-assign]
        world.submit()
        await worker.task
    assert given == [CRASH_DELAY_S]


@pytest.mark.parametrize("drains", [False, True])
@simulated
async def test_an_agent_that_leaves_at_once_does_not_finish_a_claim(drains: bool) -> None:
    world = make_world()
    async with world.agent() as worker:

        async def leave(record: JobRecord) -> None:
            if drains:
                worker.stop.set()
                await asyncio.sleep(0.5)
            worker.abort.set()
            await asyncio.sleep(3)

        worker.records.on_stored = leave
        job = world.submit(command=HOLD)
        begun = asyncio.get_running_loop().time()
        await worker.task
        assert asyncio.get_running_loop().time() - begun < 1
    assert world.engine.containers == {}
    assert await world.client.agents.get("a") is None
    async with world.agent(agent_id="b"):
        again = await world.until(job, State.RUNNING)
        assert (again.agent, again.attempt) == ("b", 2)
        assert asyncio.get_running_loop().time() - begun < ACK_WAIT_S


@simulated
async def test_what_was_kept_back_goes_to_others_at_once_when_its_agent_drains() -> None:
    world = make_world({"provider": {"type": "local"}})
    async with world.agent(agent_id="a", cpu_milli=4000) as worker:
        running = world.submit(command=HOLD, resources={"cpu": 4})
        await world.until(running, State.RUNNING)
        kept = world.submit(resources={"cpu": 4})
        await asyncio.sleep(5)
        async with world.agent(agent_id="b", cpu_milli=2000):
            await world.presence(ready, "b")
        asked = asyncio.get_running_loop().time()
        worker.stop.set()
        async with world.agent(agent_id="c", cpu_milli=4000):
            assert (await world.ended(kept)).agent == "c"
        assert asyncio.get_running_loop().time() - asked < 5


# -- abort ----------------------------------------------------------------------------------------------------------


@simulated
async def test_an_agent_that_leaves_at_once_leaves_containers_and_records_as_they_are() -> None:
    world = make_world()
    world.engine.registry.add("tool:2")
    world.engine.pull_gate = asyncio.Event()
    async with world.agent() as worker:
        running, pulling = world.submit(command=HOLD), world.submit(image="tool:2")
        before = await world.until(running, State.RUNNING)
        await world.until(pulling, lambda record: record.message is not None)
        container = world.container(running)
        await worker.leave()
    assert await world.record(running) == before
    assert (container.state, container.signals) == ("running", [])
    assert world.journal.steps("ack", "nak", "term", "remove", "signal") == []
    # Nobody else takes them before the next process had time to come.
    entry = await world.client.agents.get("a")
    assert entry is not None
    assert set(entry.holds) == {str(running), str(pulling)}
    assert world.waiting() == 2


@simulated
async def test_the_next_process_of_the_same_agent_goes_on_with_what_was_left() -> None:
    world = make_world()
    async with world.agent():
        running, ended = world.submit(command=HOLD), world.submit(command=HOLD)
        for job in (running, ended):
            await world.until(job, State.RUNNING)
    world.engine.write(world.container(running).id, "stdout", b"while nobody looked\n")
    world.engine.exit(world.container(ended).id, 3)
    async with world.agent():
        failed = await world.ended(ended)
        world.engine.exit(world.container(running).id, 0)
        record = await world.ended(running)
        await world.journal.until("remove", 2)
    assert (failed.state, failed.exit_code, failed.attempt) == (State.FAILED, 3, 1)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert world.output(running) == b"while nobody looked\n"
    assert world.journal.count_of("start") == 2
    assert world.waiting() == 0


@simulated
async def test_an_agent_drains_in_two_stages() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        worker.stop.set()
        await world.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINING)
        await worker.leave()
        assert world.container(job).state == "running"
        assert (await world.record(job)).state is State.RUNNING


# -- the queue goes -----------------------------------------------------------------------------------------------


@simulated
async def test_an_agent_whose_queue_is_deleted_ends_and_stops_its_jobs_for_want_of_a_record() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        container = world.container(job)
        await world.client.queues.delete(QUEUE)
        # A blink, after which the agent asks for everything again: there is no queue to ask.
        worker.broker.disconnect()
        worker.broker.reconnect()
        await worker.task
    assert container.signals == ["SIGTERM"]
    assert world.engine.containers == {}
