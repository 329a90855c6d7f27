"""Many jobs at once: what is stored, what an interrupted call says, and that its repeat doubles nothing."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest

from launch.bulk import BATCH_BYTES, BATCH_JOBS, BulkInterrupted, JobIds
from launch.client import Client
from launch.errors import BrokerUnavailable, ForgottenBatch, LaunchError, NotFound, OtherBatch, QueueFull, SpecError
from launch.job import JobSpec
from launch.queue import QueueSpec
from launch.subjects import JobId, Priority
from tests.contract.broker_world import queue_spec
from tests.fakes.broker import FakeBroker, FakeServer


class World:
    """A fake server with the queue `q`."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.broker: FakeBroker = self.server.connect()
        self.client = Client(self.broker)

    async def images(self) -> list[str]:
        lying = await self.server.connect().jobs.peek("q", 100_000)
        return [JobSpec.model_validate_json(message.body).image or "" for message in lying]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.client.apply_queue(queue_spec("q", job_types=["train", "test"]))
    return made


def specs(count: int, *, bad: int | None = None) -> Iterator[JobSpec]:
    for number in range(count):
        yield JobSpec(image=f"i{number}", job_type="other" if number == bad else "train")


def names(count: int) -> list[str]:
    return [f"i{number}" for number in range(count)]


async def test_all_are_stored_in_order(world: World) -> None:
    heard: list[int] = []
    ids = await world.client.submit_many("q", specs(2500), priority=Priority.HIGH, progress=heard.append)
    assert list(ids) == [JobId("q", seq) for seq in range(1, 2501)]
    assert heard == [1000, 2000, 2500]
    assert await world.images() == names(2500)
    message = await world.broker.jobs.get(ids[-1])
    assert message is not None
    assert (message.consumer.job_type, message.consumer.priority) == ("train", Priority.HIGH)


async def test_no_more_than_a_batch_is_taken_from_a_generator(world: World) -> None:
    taken = 0
    stored: list[tuple[int, int]] = []

    def counted() -> Iterator[JobSpec]:
        nonlocal taken
        for spec in specs(3 * BATCH_JOBS):
            taken += 1
            yield spec

    await world.client.submit_many("q", counted(), progress=lambda done: stored.append((done, taken)))
    assert all(taken <= done + 1 for done, taken in stored)


async def test_none_at_all(world: World) -> None:
    assert list(await world.client.submit_many("q", [])) == []
    with pytest.raises(NotFound):
        await world.client.submit_many("none", [])


async def test_large_specs_go_in_smaller_batches(world: World) -> None:
    heard: list[int] = []
    big = JobSpec(image="i", env={"A": "x" * 200_000}, job_type="train")
    count = BATCH_BYTES // 200_000 + 5
    await world.client.submit_many("q", [big] * count, progress=heard.append)
    assert len(heard) == 2
    assert heard[-1] == count


async def test_a_lost_answer_doubles_nothing(world: World) -> None:
    await world.client.queue("q")
    ids = None

    def losing(done: int) -> None:
        if done == 1000:
            world.broker.lose_replies(2)

    ids = await world.client.submit_many("q", specs(2500), progress=losing)
    assert await world.images() == names(2500)
    assert list(ids) == [JobId("q", seq) for seq in range(1, 2501)]


async def test_an_interrupted_call_says_what_is_stored_and_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.bulk.PATIENCE_S", 0.0)

    def losing(done: int) -> None:
        if done == 1000:
            world.broker.lose_replies(1)

    with pytest.raises(BulkInterrupted, match=r"stored the first 1000 jobs.*within two minutes") as caught:
        await world.client.submit_many("q", specs(2500), progress=losing)
    stop = caught.value
    assert isinstance(stop.__cause__, BrokerUnavailable)
    assert list(stop.stored) == [JobId("q", seq) for seq in range(1, 1001)]
    assert len(await world.images()) == 2000  # the answer was lost, not the batch
    rest = await world.client.submit_many("q", specs(2500), msg_id=stop.msg_id, skip=stop.done)
    assert list(rest) == [JobId("q", seq) for seq in range(1001, 2501)]
    assert await world.images() == names(2500)


async def test_a_spec_that_is_refused_leaves_its_batch_out(world: World) -> None:
    with pytest.raises(BulkInterrupted, match=r"1000 jobs, then: job 1501: .*job_type.*mend it.*skip=1000") as caught:
        await world.client.submit_many("q", specs(2500, bad=1500))
    assert isinstance(caught.value.__cause__, SpecError)
    assert await world.images() == names(1000)
    with pytest.raises(BulkInterrupted, match=r"first 1200 jobs, then: job 1501: "):
        await world.client.submit_many("q", specs(2500, bad=1500), skip=1200)


async def test_those_that_are_stored_are_not_looked_at_again(world: World) -> None:
    ids = await world.client.submit_many("q", specs(2500, bad=500), skip=1000)
    assert len(ids) == 1500
    assert await world.images() == names(2500)[1000:]


async def test_a_full_queue_says_so(world: World) -> None:
    world.server.change_stream("q", max_bytes=60_000)
    with pytest.raises(BulkInterrupted, match=r"full.*once there is room") as caught:
        await world.client.submit_many("q", specs(5000))
    assert isinstance(caught.value.__cause__, QueueFull)
    assert await world.images() == names(caught.value.done)


@pytest.mark.parametrize("options", [{"msg_id": "a\nb"}, {"msg_id": " "}, {"skip": -1}])
async def test_what_can_t_be_is_refused_first(world: World, options: dict[str, object]) -> None:
    with pytest.raises(LaunchError, match="allowed"):
        await world.client.submit_many("q", specs(1), **options)  # type: ignore[arg-type]
    assert await world.images() == []


async def test_a_repeat_with_more_jobs_is_no_repeat(world: World) -> None:
    await world.client.submit_many("q", specs(1500), msg_id="a")
    again = await world.client.submit_many("q", specs(1500), msg_id="a")
    assert (len(again), again.repeated) == (1500, 1500)
    with pytest.raises(BulkInterrupted, match=r"first 1000 jobs.*job 1001 was stored .*another message id") as caught:
        await world.client.submit_many("q", specs(1700), msg_id="a")
    assert isinstance(caught.value.__cause__, OtherBatch)
    assert (caught.value.done, len(caught.value.stored)) == (1000, 1000)
    assert await world.images() == names(1500)
    rest = await world.client.submit_many("q", specs(1700), msg_id="b", skip=1500)
    assert (len(rest), rest.repeated) == (200, 0)
    assert await world.images() == names(1700)


def test_a_batch_that_may_be_stored_is_not_told_to_be_given_again() -> None:
    error = ForgottenBatch("its window ended", hint="see whether it was these jobs")
    assert BulkInterrupted(JobIds("q"), error, msg_id="a", done=1000).hint == "see whether it was these jobs"


async def test_what_is_stored_by_this_call_and_what_in_all(world: World) -> None:
    await world.client.submit_many("q", specs(500))
    with pytest.raises(BulkInterrupted) as caught:
        await world.client.submit_many("q", specs(2500, bad=2000), skip=500)
    assert (caught.value.done, len(caught.value.stored)) == (1500, 1000)


async def test_none_stored_is_said_so(world: World) -> None:
    with pytest.raises(BulkInterrupted, match=r"stored no job: job 1: .*skip=0"):
        await world.client.submit_many("q", specs(10, bad=0))


def test_its_type_hints_can_be_read() -> None:
    assert typing.get_type_hints(Client.submit_many)["return"] is JobIds


def test_ids_are_a_sequence() -> None:
    ids = JobIds("q")
    assert (len(ids), list(ids), repr(ids)) == (0, [], "<0 jobs of q: >")
    for first, count in ((5, 3), (8, 2), (20, 1)):
        ids.add(first, count)
    wanted = [JobId("q", seq) for seq in (5, 6, 7, 8, 9, 20)]
    assert list(ids) == wanted
    assert [ids[n] for n in range(-6, 6)] == wanted * 2
    assert ids[1:5:2] == wanted[1:5:2]
    assert repr(ids) == "<6 jobs of q: 5-9, 20>"
    assert ids.spans() == [(wanted[0], wanted[4]), (wanted[5], wanted[5])]
    with pytest.raises(IndexError):
        ids[6]


async def test_one_job_after_the_other_asks_for_the_spec_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    get = world.broker.queues.get

    async def counted(queue: str) -> QueueSpec:
        asked.append(queue)
        return await get(queue)

    monkeypatch.setattr(world.broker.queues, "get", counted)
    for spec in specs(3):
        await world.client.submit("q", spec)
    assert asked == ["q"]
    await world.client.apply_queue(queue_spec("q", job_types=["test"]))
    with pytest.raises(SpecError, match="allowed: test"):
        await world.client.submit("q", JobSpec(image="i", job_type="train"))
    monkeypatch.setattr("launch.client.SPEC_KEPT_S", 0.0)
    await world.broker.queues.apply(queue_spec("q", job_types=["train"]))
    await world.client.submit("q", JobSpec(image="i", job_type="train"))
    await world.client.delete_queue("q")
    with pytest.raises(NotFound):
        await world.client.submit("q", JobSpec(image="i", job_type="train"))
