"""The next job's container is made while the last one runs, is its own only once it is claimed, and is never left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent import next_container
from agent.next_container import IDLE_S
from agent.ports import EngineError, ImageInfo
from launch.core.states import State
from launch.policy import AgentPolicy
from launch.queue import QueueSpec
from launch.subjects import ARTIFACTS_DIR, LABEL_SEQ, JobId, Priority, container_name, next_container_name
from tests.fakes.engine import FakeContainer
from tests.unit.agent.worlds import HOLD, IMAGE, World, make_world, simulated

NAME = next_container_name("a")


def ready(world: World) -> FakeContainer | None:
    """The container that was made ahead, if there is one."""
    return next((one for one in world.engine.containers.values() if one.name == NAME), None)


async def running(world: World, **spec: Any) -> JobId:
    """A job that holds the one slot."""
    job = world.submit(command=HOLD, **spec)
    await world.until(job, State.RUNNING)
    return job


async def made(world: World, count: int = 1) -> FakeContainer:
    """The container made ahead, once it is there; the `count`th of all."""
    for steps in range(1, len(world.journal) + 1000):
        if [about for step, about in world.journal if step == "create"].count(NAME) >= count:
            break
        await world.journal.until("create", steps)
    await asyncio.sleep(1)  # of a time that costs nothing
    found = ready(world)
    assert found is not None
    return found


def finish(world: World, job: JobId) -> None:
    world.engine.exit(world.container(job).id)


@simulated
async def test_the_next_job_has_the_container_that_was_made_while_the_last_one_ran() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        first = await running(world)
        second = world.submit(command=HOLD)
        container = await made(world)
        assert container.state == "created"
        assert await world.client.records.get(second) is None
        finish(world, first)
        assert (await world.until(second, State.RUNNING)).container == container.id
        assert container.name == container_name(second, 1)
        finish(world, second)
        assert (await world.ended(second)).state is State.SUCCEEDED
        await worker.drained()
    assert world.journal.count_of("create") == 2
    assert world.engine.containers == {}
    assert world.waiting() == 0


@simulated
async def test_each_of_many_jobs_after_the_first_has_one() -> None:
    world = make_world()
    jobs = [world.submit(command=HOLD) for _ in range(5)]
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        for job in jobs:
            await world.until(job, State.RUNNING)
            if job != jobs[-1]:
                await made(world, jobs.index(job) + 1)
            finish(world, job)
        assert (await world.ended(jobs[-1])).state is State.SUCCEEDED
        await worker.drained()
    assert [about for step, about in world.journal if step == "rename"] == [container_name(job, 1) for job in jobs[1:]]
    assert world.engine.containers == {}


@simulated
async def test_nothing_else_is_asked_of_the_engine_between_the_claim_and_the_start() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        second, _third = world.submit(command=HOLD), world.submit(command=HOLD)
        await made(world)
        before = len(world.journal)
        world.engine.start_gate = asyncio.Event()
        finish(world, first)
        await world.journal.until("start", 2)
        await asyncio.sleep(10)
        assert [step for step, _ in list(world.journal)[before:]].count("create") == 0
        world.engine.start_gate.set()
        await world.until(second, State.RUNNING)
        await made(world, 2)
    looks = [step for step in list(world.journal)[before:] if step == ("stat", ARTIFACTS_DIR)]
    assert len(looks) == 2, "once at the first job's end, once in the third's container"


@simulated
async def test_what_went_to_another_agent_is_removed() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        second = world.submit(command=HOLD)
        await made(world)
        async with world.agent(agent_id="b", max_jobs=1):
            assert (await world.until(second, State.RUNNING)).agent == "b"
            finish(world, first)
            await world.ended(first)
            await asyncio.sleep(3 * IDLE_S)
            assert ready(world) is None
            finish(world, second)
            assert (await world.ended(second)).state is State.SUCCEEDED


@simulated
async def test_a_more_urgent_job_goes_first_and_the_next_one_is_still_the_next() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        first = await running(world)
        second = world.submit(command=HOLD)
        container = await made(world)
        urgent = world.submit(command=HOLD, priority=Priority.HIGH)
        await asyncio.sleep(1)  # so that the agent has heard of the new kind
        finish(world, first)
        assert (await world.until(urgent, State.RUNNING)).container != container.id
        assert await made(world) is container
        finish(world, urgent)
        await world.until(second, State.RUNNING)
        finish(world, second)
        await world.ended(second)
        await worker.drained()
    assert world.engine.containers == {}


@simulated
async def test_an_image_that_has_changed_meanwhile_counts() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        second = world.submit(command=HOLD)
        container = await made(world)
        world.engine.images[IMAGE] = ImageInfo("sha256:" + "0" * 64, None)
        finish(world, first)
        assert (await world.until(second, State.RUNNING)).container != container.id
        await asyncio.sleep(1)
        assert container.id not in world.engine.containers


@simulated
async def test_a_body_that_is_another_one_meanwhile_counts() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        second = world.submit(command=HOLD)
        container = await made(world)
        defaults = {**world.spec.model_dump(exclude_unset=True), "defaults": {"env": {"COLOUR": "red"}}}
        world.server.apply(QueueSpec.model_validate(defaults))
        await asyncio.sleep(1)
        finish(world, first)
        assert (await world.until(second, State.RUNNING)).container != container.id
        assert "COLOUR=red" in world.container(second).config["Env"]


@simulated
async def test_a_job_that_was_withdrawn_makes_room_for_the_one_behind_it() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        await running(world)
        second = world.submit(command=HOLD)
        withdrawn = await made(world)
        await world.client.jobs.discard(second)
        third = world.submit(command=HOLD)
        container = await made(world, 2)
        assert container is not withdrawn
        assert container.config["Labels"][LABEL_SEQ] == str(third.seq)


@pytest.mark.parametrize("lost", [False, True])
@simulated
async def test_a_name_that_is_not_had_costs_the_job_nothing(lost: bool) -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        first = await running(world)
        second = world.submit(command=HOLD)
        await made(world)
        if lost:
            world.engine.lose_reply("rename")
        else:
            world.engine.fail("rename", EngineError("rename", 409, "in use"))
        finish(world, first)
        await world.until(second, State.RUNNING)
        await asyncio.sleep(1)
        assert ready(world) is None
        finish(world, second)
        assert (await world.ended(second)).attempt == 1
        await worker.drained()
    assert world.engine.containers == {}


@simulated
async def test_a_create_whose_answer_is_lost_leaves_nothing() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        world.engine.lose_reply("create")
        second = world.submit(command=HOLD)
        await made(world)
        await asyncio.sleep(3 * IDLE_S)
        assert [one.name for one in world.engine.containers.values() if one.state == "running"] == [
            container_name(first, 1)
        ]
        finish(world, first)
        await world.until(second, State.RUNNING)
        await asyncio.sleep(3 * IDLE_S)
        assert [one.name for one in world.engine.containers.values()] == [container_name(second, 1)]


@simulated
async def test_a_create_whose_answer_is_lost_leaves_nothing_of_a_job_that_went_elsewhere() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        await running(world)
        world.engine.lose_reply("create")
        second = world.submit(command=HOLD)
        await made(world)
        await world.client.jobs.discard(second)
        await asyncio.sleep(3 * IDLE_S)
        assert ready(world) is None


@simulated
async def test_a_defect_that_a_job_brings_out_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("no such mount")

    world = make_world()
    with monkeypatch.context() as patch:
        patch.setattr(next_container, "container_config", fail)
        async with world.agent(max_jobs=1, container_ahead=True):
            first = await running(world)
            second = world.submit(command=HOLD)
            await asyncio.sleep(30)
            finish(world, first)
            await world.until(second, State.RUNNING)


@pytest.mark.parametrize("how", ["stop", "abort"])
@simulated
async def test_none_is_left_when_the_agent_goes(how: str) -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        first = await running(world)
        second = world.submit()
        await made(world)
        if how == "stop":
            worker.stop.set()
            await world.journal.until("remove")
            await asyncio.sleep(1)
            assert ready(world) is None
            finish(world, first)
        else:
            worker.abort.set()
        await worker.task
    assert ready(world) is None
    assert await world.client.records.get(second) is None


@pytest.mark.parametrize("refused", [1, 2], ids=["when it left", "at the next start, too"])
@simulated
async def test_what_a_crash_left_is_no_jobs_and_is_removed_by_the_next_start(refused: int) -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True):
        first = await running(world)
        second = world.submit(command=HOLD)
        left = await made(world)
        world.engine.fail("remove", EngineError("remove", 500, "driver failed"), times=refused)
    assert ready(world) is left
    async with world.agent(max_jobs=1, container_ahead=True):
        await asyncio.sleep(1)
        assert left.id not in world.engine.containers
        finish(world, first)
        await world.until(second, State.RUNNING)


@simulated
async def test_what_a_lost_create_makes_in_the_end_is_removed_when_the_agent_goes() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        await running(world)
        await world.engine.create(NAME, {"Image": IMAGE})
        worker.abort.set()
        await worker.task
    assert ready(world) is None


@simulated
async def test_a_restarted_agent_ends_a_job_that_had_one() -> None:
    world = make_world()
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        first = await running(world)
        second = world.submit(command=HOLD)
        container = await made(world)
        finish(world, first)
        await world.until(second, State.RUNNING)
    async with world.agent(max_jobs=1, container_ahead=True) as worker:
        world.engine.exit(container.id)
        assert (await world.ended(second)).attempt == 1
        await worker.drained()
        assert world.waiting() == 0


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ({"resources": {"gpu": 1}}, {}),
        ({"env": {"TOKEN": {"secret": "token"}}}, {}),
        ({"pull": "always"}, {}),
        ({"image": "r.lan/none:1"}, {}),
        ({"resources": {"memory": "1TiB"}}, {}),
        ({"capabilities": ["NET_RAW"]}, {}),
        ({}, {"container_ahead": False}),
        ({}, {"max_jobs": 2}),
        ({}, {"policy": AgentPolicy(network_pool=True)}),
    ],
    ids=["gpu", "secret", "pull", "image", "size", "policy", "off", "room", "pool"],
)
@simulated
async def test_none_is_made_ahead(spec: dict[str, Any], settings: dict[str, Any]) -> None:
    world = make_world()
    async with world.agent(**{"max_jobs": 1, "container_ahead": True, "gpus": ("GPU-1",), **settings}):
        await running(world)
        world.submit(command=HOLD, **spec)
        await asyncio.sleep(100)
        assert [about for step, about in world.journal if step == "create" and about == NAME] == []
