"""Images of the jobs that come next are fetched while there is no room for them, and at no other time."""

from __future__ import annotations

import asyncio

from agent.ahead import LOOK_GAP_S, REST_S
from agent.ports import EngineError
from launch.core.states import State
from launch.policy import AgentPolicy
from tests.unit.agent.worlds import HOLD, World, make_world, simulated

B, C, D = (f"r.lan/{name}:1" for name in "bcd")


def pulled(world: World) -> list[str]:
    """The images pulled so far."""
    return [what for step, what in world.journal if step == "pull"]


def stocked() -> World:
    world = make_world()
    world.engine.registry |= {B, C, D}
    return world


@simulated
async def test_the_next_jobs_images_come_while_slots_are_busy() -> None:
    world = stocked()
    async with world.agent(max_jobs=1):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        second = world.submit(image=B)
        await world.journal.until("pull")
        assert (await world.record(first)).state is State.RUNNING
        assert await world.client.records.get(second) is None
        world.engine.exit(world.container(first).id)
        assert (await world.ended(second)).state is State.SUCCEEDED
        assert pulled(world) == [B]


@simulated
async def test_of_many_only_a_few_and_in_their_order() -> None:
    world = stocked()
    async with world.agent(max_jobs=1):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        for image in (C, C, B, D):
            world.submit(image=image)
        await asyncio.sleep(10 * LOOK_GAP_S)
        assert pulled(world) == [C, B]


@simulated
async def test_an_agent_with_room_leaves_it_to_the_job() -> None:
    world = stocked()
    async with world.agent(max_jobs=2, images_ahead=2):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        await asyncio.sleep(10 * LOOK_GAP_S)
        looks = world.server.connect("x")
        assert await looks.jobs.upcoming("q", None, 9) == []
        assert pulled(world) == []


@simulated
async def test_a_job_that_is_kept_back_for_want_of_gpus_has_its_image_fetched() -> None:
    world = stocked()
    async with world.agent(gpus=("GPU-1",), max_jobs=4, hold_s=3600.0):
        first = world.submit(command=HOLD, resources={"gpu": 1})
        await world.until(first, State.RUNNING)
        second = world.submit(image=B, resources={"gpu": 1})
        await world.journal.until("pull")
        assert await world.client.records.get(second) is None
        world.engine.exit(world.container(first).id)
        assert (await world.ended(second)).state is State.SUCCEEDED
        assert pulled(world) == [B]


@simulated
async def test_what_may_not_run_or_not_be_pulled_is_not_fetched() -> None:
    world = stocked()
    policy = AgentPolicy.model_validate({"images": {"allow": ["docker.io/library/*", "r.lan/d"]}})
    async with world.agent(max_jobs=1, policy=policy):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        world.submit(image=B)
        world.submit(image=C, pull="never")
        world.raw(b"nonsense")
        world.submit(image=D)
        await asyncio.sleep(10 * LOOK_GAP_S)
        assert pulled(world) == [D]


@simulated
async def test_a_failure_is_left_alone_for_a_while_and_is_the_jobs_to_tell() -> None:
    world = stocked()
    async with world.agent(max_jobs=1):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        world.engine.fail("pull", EngineError("pull", 404, "manifest unknown"))
        second = world.submit(image=B)
        for _ in range(20):
            world.submit(image=B)
            await asyncio.sleep(LOOK_GAP_S)
        assert pulled(world) == [B]
        await asyncio.sleep(REST_S)
        world.submit(image=B)
        await world.journal.until("pull", 2)
        assert await world.client.records.get(second) is None


@simulated
async def test_a_broker_that_is_away_ends_nothing() -> None:
    world = stocked()
    async with world.agent(max_jobs=1) as worker:
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        worker.link.down()
        await asyncio.sleep(10)
        worker.link.up()
        world.submit(image=B)
        await world.journal.until("pull")


@simulated
async def test_none_ahead_means_none() -> None:
    world = stocked()
    async with world.agent(max_jobs=1, images_ahead=0):
        first = world.submit(command=HOLD)
        await world.until(first, State.RUNNING)
        world.submit(image=B)
        await asyncio.sleep(10 * LOOK_GAP_S)
        assert pulled(world) == []
