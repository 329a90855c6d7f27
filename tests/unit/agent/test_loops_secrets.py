"""A job's secrets over the life of an agent: looked up before anything else is done, and masked as they were given."""

from __future__ import annotations

from typing import Any

from agent.adapters.local_secrets import EnvSecrets
from agent.core.secret_source import parse_source
from agent.ports import SecretUnavailable
from agent.secrets import Secrets
from launch.core.states import Reason, State
from tests.fakes.engine import Script
from tests.unit.agent.test_secrets import FIRST, Stored
from tests.unit.agent.worlds import HOLD, make_world, simulated

ENV = {"KEY": {"secret": "key"}}


def holding(value: str) -> Secrets:
    return Secrets([EnvSecrets(parse_source("env"), {"LAUNCH_SECRET_KEY": value})])


@simulated
async def test_a_missing_secret_is_told_before_the_image_is_fetched() -> None:
    world = make_world()
    async with world.agent(secrets=Secrets()):
        record = await world.ended(world.submit(image="far-away:1", env=ENV, retries=5))
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.INVALID_SPEC, 1)
    assert not [about for step, about in world.journal if step in ("pull", "create")]


@simulated
async def test_a_source_that_is_away_costs_no_retry() -> None:
    world = make_world()
    store = Stored(FIRST, {"key": b"the value"}, SecretUnavailable("AWS is away"))
    async with world.agent(secrets=Secrets([store])):
        job = world.submit(env=ENV)
        record = await world.until(job, State.QUEUED)
        assert record.reason is Reason.ENGINE_ERROR
        assert "secret 'key' for KEY: AWS is away" in str(record.message)
        store.error = None
        record = await world.ended(job)
    assert (record.state, record.failures, record.crashes) == (State.SUCCEEDED, 0, 0)


@simulated
async def test_a_container_made_by_the_process_before_is_masked_with_what_it_was_given() -> None:
    world = make_world()
    world.engine.scripts["say",] = Script(output=(("stdout", b"the old value, the new value\n"),))
    async with world.agent(secrets=holding("the old value")) as first:
        job = world.submit(command=["say"], env=ENV)
        await world.journal.until("create")
        first.abort.set()
        await first.task
    assert world.container(job).state == "created"
    async with world.agent(secrets=holding("the new value")):
        record = await world.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert world.output(job) == b"*************, the new value\n"


@simulated
async def test_a_container_that_runs_is_masked_with_what_it_was_given() -> None:
    world = make_world()
    world.engine.scripts[HOLD] = Script(hold=True, output=(("stdout", b"before: the old value\n"),))
    async with world.agent(secrets=holding("the old value")) as first:
        job = world.submit(command=list(HOLD), env=ENV)
        await world.until(job, State.RUNNING)
        first.abort.set()
        await first.task
    container = world.container(job)
    async with world.agent(secrets=holding("the new value")):
        world.engine.write(container.id, "stdout", b"after: the old value\n")
        world.engine.exit(container.id)
        record = await world.ended(job)
    assert record.state is State.SUCCEEDED
    assert world.output(job) == b"before: *************\nafter: *************\n"


@simulated
async def test_a_task_that_is_shown_does_not_show_the_environment() -> None:
    world = make_world()
    seen = []
    async with world.agent(secrets=holding("the value")) as worker:
        runner = worker.agent._runner
        prepare = runner._prepare

        async def noted(*given: Any) -> Any:
            seen.append(await prepare(*given))
            return seen[0]

        runner._prepare = noted  # type: ignore[method-assign, assignment]
        await world.ended(world.submit(env=ENV))
    assert seen[0].env["KEY"] == "the value"
    assert "the value" not in repr(seen[0])
