"""What an agent takes from the queue, in which order, how much at a time, and what it says of the rest."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from launch.core.states import Reason, State
from launch.record import JobRecord
from launch.subjects import MAX_SPEC_BYTES, RAW_KEPT_BYTES, JobId, Priority
from tests.unit.agent.worlds import ACK_WAIT_S, HOLD, IMAGE, QUEUE, World, make_world, simulated

LOCAL = {"provider": {"type": "local"}}
"""A queue whose workers are all alike: no larger one may come."""

MANY_KEYS = json.dumps({f"k{number}": 1 for number in range(20_000)}).encode()


def delivered(world: World, job: JobId, job_type: str = "train") -> int:
    return world.server.stream(QUEUE).durables[job_type].delivered.get(job.seq, 0)


async def refused(world: World, body: bytes, job_type: str = "train") -> JobRecord:
    """The record of a body that is no job, after which the agent still works."""
    async with world.agent():
        job = world.raw(body, job_type)
        record = await world.ended(job)
        await world.journal.until("term")
        good = world.submit("test" if world.spec.job_types is None else world.spec.job_types[0])
        assert (await world.ended(good)).state is State.SUCCEEDED
        await world.journal.until("ack")
    assert world.waiting() == 0
    return record


# -- bodies -------------------------------------------------------------------------------------------------------

BODIES = [
    (b"", "empty body"),
    (b"train.py --epochs 3", "not JSON"),
    (b"[1, 2]", "found a list"),
    (b"null", "found nothing"),
    (b"{}", "image"),
    (b'{"image": "busybox:1", "imagee": 1}', "imagee: found an unknown key"),
    (b'{"image": "busybox:1", "resources": {"cpu": "many"}}', "resources.cpu: found 'many'"),
    (b'{"image": "busybox:1", "image": "busybox:2"}', "twice"),
    (b'{"image": "busybox:1", "job_type": "test"}', "found 'test' in a body published as 'train'"),
    (b"[" * 100_000, "not JSON"),
    (b'{"image": "' + b"x" * MAX_SPEC_BYTES + b'"}', f"at most {MAX_SPEC_BYTES}"),
    (bytes(range(256)) * 256, "not JSON"),
    (b"\x00" * 70_000, "not JSON"),
    (MANY_KEYS, "k18: found an unknown key"),
]


@pytest.mark.parametrize(("body", "words"), BODIES, ids=[words for _, words in BODIES])
@simulated
async def test_a_body_that_is_no_job_becomes_a_record_that_keeps_it(body: bytes, words: str) -> None:
    record = await refused(make_world(), body)
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.INVALID_SPEC, 0)
    assert record.message is not None
    assert "queue.q.train: " in record.message
    assert words in record.message
    assert record.raw == body[:RAW_KEPT_BYTES].decode(errors="backslashreplace")
    assert record.raw_bytes == len(body)
    assert record.spec is None
    assert record.finished_at is not None
    # What a broker can store in one message, escapes included.
    assert len(record.model_dump_json()) < 700_000


@pytest.mark.parametrize("job_type", ["Train", "a" * 64, "früh", "-x", "@x"])
@simulated
async def test_a_type_that_can_not_be_one_is_refused_by_its_name(job_type: str) -> None:
    record = await refused(make_world(), json.dumps({"image": IMAGE}).encode(), job_type)
    assert (record.reason, record.job_type) == (Reason.INVALID_SPEC, job_type)
    assert record.message is not None
    assert f"job_type: found '{job_type}'" in record.message


@simulated
async def test_a_type_that_the_queue_does_not_take_is_refused_with_those_that_it_does() -> None:
    world = make_world({"job_types": ["test", "eval"]})
    record = await refused(world, json.dumps({"image": IMAGE}).encode())
    assert record.reason is Reason.INVALID_SPEC
    assert record.message is not None
    assert "found 'train'; allowed in queue q: test, eval" in record.message


@simulated
async def test_a_change_of_the_queues_spec_takes_effect_at_once() -> None:
    world = make_world()
    async with world.agent():
        assert (await world.ended(world.submit())).state is State.SUCCEEDED
        changed = world.spec.model_copy(update={"job_types": ("test",)})
        await world.client.queues.apply(changed)
        await asyncio.sleep(1)
        assert (await world.ended(world.submit())).reason is Reason.INVALID_SPEC
        assert (await world.ended(world.submit("test"))).state is State.SUCCEEDED


# -- types and priorities -------------------------------------------------------------------------------------------


@simulated
async def test_types_never_used_before_are_taken_at_once() -> None:
    world = make_world()
    async with world.agent(max_jobs=100):
        await asyncio.sleep(100)
        for number in range(20):
            job = world.submit(f"type-{number}", priority=list(Priority)[number % 4])
            record = await world.ended(job)
            assert record.claimed_at is not None
            assert record.claimed_at - record.submitted_at < timedelta(seconds=0.1)


@simulated
async def test_a_typed_agent_leaves_the_rest() -> None:
    world = make_world()
    mine, urgent, other = world.submit("eval"), world.submit("eval", Priority.HIGH), world.submit("train")
    async with world.agent(job_types=("eval", "test")):
        for job in (mine, urgent, world.submit("test")):
            assert (await world.ended(job)).state is State.SUCCEEDED
        await asyncio.sleep(100)
        assert await world.client.records.get(other) is None
    async with world.agent():
        assert (await world.ended(other)).state is State.SUCCEEDED


@simulated
async def test_the_most_urgent_is_taken_first_and_equals_in_order() -> None:
    world = make_world()
    order = (Priority.LOW, Priority.MEDIUM, Priority.HIGH, Priority.CRITICAL, Priority.MEDIUM, Priority.HIGH)
    jobs = [world.submit(priority=priority) for priority in order]
    async with world.agent(max_jobs=1):
        await world.journal.until("remove", len(jobs))
    created = [about for step, about in world.journal if step == "create"]
    assert created == [f"launch-q-{jobs[at].seq}-1" for at in (3, 2, 5, 1, 4, 0)]


# -- capacity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "resources", "at_once"),
    [
        ({"max_jobs": 3}, {}, 3),
        ({"cpu_milli": 2000, "max_jobs": 9}, {"cpu": 0.5}, 4),
        ({"memory_bytes": 2**30, "max_jobs": 9}, {"memory": "400Mi"}, 2),
        ({"gpus": ("GPU-a", "GPU-b"), "max_jobs": 9}, {"gpu": 1}, 2),
    ],
)
@simulated
async def test_as_many_jobs_run_at_a_time_as_fit(
    offer: dict[str, Any], resources: dict[str, Any], at_once: int
) -> None:
    world = make_world(LOCAL)
    async with world.agent(**offer):
        jobs = [world.submit(command=HOLD, resources=resources) for _ in range(at_once + 2)]
        await world.journal.until("start", at_once)
        await asyncio.sleep(ACK_WAIT_S * 2)
        assert len(world.engine.containers) == at_once
        records = []
        for job in jobs:
            await world.until(job, State.RUNNING)
            assert len(world.engine.containers) <= at_once + 1  # one may be about to be removed
            world.engine.exit(world.container(job).id, 0)
            records.append(await world.ended(job))
    assert {record.state for record in records} == {State.SUCCEEDED}
    assert {record.attempt for record in records} == {1}
    held = [gpu for record in records[:at_once] for gpu in record.gpus]
    assert len(held) == len(set(held))


@simulated
async def test_a_job_that_fits_later_is_kept_back_and_nothing_smaller_overtakes_it() -> None:
    world = make_world(LOCAL)
    async with world.agent(cpu_milli=4000, max_jobs=9, hold_s=3600.0):
        small = world.submit(command=HOLD, resources={"cpu": 3})
        await world.until(small, State.RUNNING)
        large = world.submit(resources={"cpu": 2})
        behind = world.submit(resources={"cpu": 1})
        await asyncio.sleep(ACK_WAIT_S * 10)
        # Held: neither redelivered nor claimed, and what came after it waits behind it.
        assert delivered(world, large) == 1
        assert await world.client.records.get(large) is None
        assert delivered(world, behind) == 0
        world.engine.exit(world.container(small).id, 0)
        assert (await world.ended(large)).attempt == 1
        assert (await world.ended(behind)).attempt == 1
    assert world.journal.count_of("nak") == 0


@simulated
async def test_what_one_keeps_back_is_not_delivered_to_another_that_is_full_too() -> None:
    world = make_world(LOCAL)
    async with (
        world.agent(agent_id="a", cpu_milli=4000, hold_s=3600.0),
        world.agent(agent_id="b", cpu_milli=4000, hold_s=3600.0),
    ):
        for _ in range(2):
            await world.until(world.submit(command=HOLD, resources={"cpu": 3}), State.RUNNING)
        kept = world.submit(resources={"cpu": 2})
        await asyncio.sleep(ACK_WAIT_S * 10)
        assert delivered(world, kept) == 1
        world.engine.exit(next(iter(world.engine.containers)), 0)
        assert (await world.ended(kept)).attempt == 1


@simulated
async def test_what_is_kept_back_too_long_is_passed_on_and_comes_again() -> None:
    world = make_world(LOCAL)
    async with world.agent(cpu_milli=4000, hold_s=60.0):
        first = world.submit(command=HOLD, resources={"cpu": 4})
        await world.until(first, State.RUNNING)
        second = world.submit(resources={"cpu": 1})
        await world.journal.until("nak", 2)
        world.engine.exit(world.container(first).id, 0)
        record = await world.ended(second)
    assert (record.state, record.attempt, record.interruptions) == (State.SUCCEEDED, 1, 0)


@simulated
async def test_what_fits_somebody_else_now_goes_there() -> None:
    world = make_world(LOCAL)
    async with world.agent(agent_id="a", cpu_milli=4000), world.agent(agent_id="b", cpu_milli=2000):
        await world.presence(lambda entry: entry is not None, "b")
        large = world.submit(command=HOLD, resources={"cpu": 4})
        assert (await world.until(large, State.RUNNING)).agent == "a"
        small = world.submit(resources={"cpu": 2})
        record = await world.ended(small)
    assert (record.agent, record.state, record.attempt) == ("b", State.SUCCEEDED, 1)


@simulated
async def test_a_job_too_large_for_every_worker_is_unschedulable_with_the_numbers() -> None:
    world = make_world(LOCAL)
    async with world.agent(cpu_milli=4000, memory_bytes=2**30):
        job = world.submit(resources={"cpu": 8, "memory": "2Gi", "gpu": 1})
        record = await world.ended(job)
        await world.journal.until("term")
    assert (record.state, record.reason) == (State.FAILED, Reason.UNSCHEDULABLE)
    assert record.message == "it asks for more than any worker has: cpu 8 of 4, memory 2Gi of 1Gi, gpu 1 of 0"
    assert record.spec is not None
    assert record.spec.resources.cpu == 8
    assert record.raw is None
    assert world.waiting() == 0


@simulated
async def test_a_job_too_large_for_this_worker_waits_where_a_larger_one_may_come() -> None:
    world = make_world()
    async with world.agent(agent_id="a", cpu_milli=1000):
        job = world.submit(resources={"cpu": 2})
        await world.journal.until("nak", 3)
        # It blocks nobody meanwhile.
        assert (await world.ended(world.submit())).agent == "a"
        assert await world.client.records.get(job) is None
        async with world.agent(agent_id="b", cpu_milli=2000):
            assert (await world.ended(job)).agent == "b"


@simulated
async def test_a_fuller_agent_asks_before_an_emptier_one() -> None:
    world = make_world()

    def ranks() -> list[int]:
        return [pull.rank for pull in world.server.stream(QUEUE).durables["train"].waiting]

    async with world.agent(max_jobs=4):
        jobs = []
        seen = []
        for count in range(4):
            jobs.append(world.submit(command=HOLD))
            await world.until(jobs[-1], State.RUNNING)
            await asyncio.sleep(1)
            seen += ranks()
            assert len(ranks()) == (1 if count < 3 else 0)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 3


@simulated
async def test_the_image_is_looked_up_once_and_before_the_claim_is_written() -> None:
    world = make_world()
    looked_up: list[int] = []

    async def before_write(record: JobRecord) -> None:
        await asyncio.sleep(0.1)
        if record.state is State.PREPARING:
            looked_up.append(world.journal.count_of("image"))

    async with world.agent() as agent:
        agent.records.before_write = before_write
        job = world.submit()
        assert (await world.ended(job)).state is State.SUCCEEDED
        assert looked_up == [1]
        assert world.journal.count_of("image") == 1
