"""Files of jobs when things go wrong: stores that are away or refuse, agents that leave half-way, hostile lists."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Callable
from datetime import UTC, datetime

import pytest

from agent.artifacts import AT_A_TIME, MAX_REFUSALS
from agent.core.outcome import StopCause
from agent.ports import EngineError
from launch.core.states import Reason, State
from launch.errors import BrokerUnavailable, StoreClosed, StoreError, StoreUnavailable
from launch.files import ArtifactFile, Files, Manifest, StoredArtifacts, StoredFile
from launch.record import JobRecord
from launch.stores import Stores
from launch.subjects import JobId, artifact_name, checkpoint_name, manifest_name
from tests.fakes.engine import Script
from tests.fakes.files import FakeFiles
from tests.unit.agent.worlds import HOLD, IMAGE, QUEUE, World, make_world, simulated

LEAVES = Script(leaves={"/launch/artifacts/a": b"one", "/launch/artifacts/deep/b": b"2" * 400_000})


def stored(world: World, record: JobRecord, attempt: int | None = None) -> dict[str, bytes]:
    """What the store has of an attempt, by path, after its manifest."""
    at = attempt or record.attempt
    files = world.server.artifacts.files
    manifest = Manifest.model_validate_json(files[manifest_name(record.id, record.submitted_at, at)])
    assert all(file.name == artifact_name(record.id, record.submitted_at, at, file.path) for file in manifest.files)
    return {file.path: files[file.name] for file in manifest.files}


@simulated
async def test_artifacts_are_stored_before_the_end_is_recorded() -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
        await world.journal.until("remove")
    assert stored(world, record) == {"a": b"one", "deep/b": b"2" * 400_000}
    assert record.artifacts is not None
    assert (record.artifacts.files, record.artifacts.size, record.artifacts.error) == (2, 400_003, None)
    assert world.journal.steps("get", "record", "remove")[-3:] == ["get", "record:succeeded", "remove"]


@simulated
async def test_a_job_that_leaves_nothing_costs_three_looks() -> None:
    world = make_world()
    async with world.agent():
        record = await world.ended(world.submit())
        await world.journal.until("remove")
    assert record.artifacts is None
    assert world.journal.steps("stat", "put", "get") == ["stat", "stat", "stat"]  # points, artifacts, checkpoint
    assert world.server.artifacts.files == {}


@simulated
async def test_a_store_that_is_away_for_long_is_waited_for() -> None:
    """The broker is gone just when the first file is to be stored, for longer than any patience."""
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    async with world.agent():
        job = world.submit(command=["x"])
        await world.journal.until("get")
        world.server.stop()
        await asyncio.sleep(3600)
        world.server.start()
        record = await world.ended(job)
        await world.journal.until("remove")
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert stored(world, record) == {"a": b"one", "deep/b": b"2" * 400_000}


@simulated
async def test_a_full_store_leaves_the_end_as_it_is_and_says_so() -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    world.server.artifacts.max_bytes = 1000
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
    assert record.state is State.SUCCEEDED
    assert record.artifacts is not None
    assert record.artifacts.error is not None
    assert "full" in record.artifacts.error
    assert record.message == f"exited with code 0; artifacts: {record.artifacts.error}"


class Store(FakeFiles):
    """A store in S3 that answers as the test says, file by file; names what it was asked to take."""

    def __init__(self, world: World, answer: Callable[[str], StoreError | None]) -> None:
        super().__init__(world.server.artifacts, where="s3://bucket")
        self._answer = answer
        self.asked: list[str] = []
        self.takes_s = 0.0

    async def put(self, name: str, data: AsyncIterable[bytes], *, size: int | None = None) -> StoredFile:
        path = name.partition("/files/")[2] or name.rpartition("/")[2]
        self.asked.append(path)
        await asyncio.sleep(self.takes_s)
        error = self._answer(path)
        if error is not None:
            async for _ in data:
                break  # half-way
            raise error
        return await super().put(name, data, size=size)


def keep_in(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    async def opened(_: Stores, where: str) -> Files:
        return store

    monkeypatch.setattr(Stores, "open", opened)


@simulated
async def test_the_record_says_that_a_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    away = True
    store = Store(world, lambda path: StoreUnavailable("no route to bucket") if away and path != "a" else None)
    keep_in(monkeypatch, store)
    async with world.agent():
        job = world.submit(command=["x"])
        record = await world.until(job, lambda record: record.state is State.RUNNING and bool(record.message))
        said = "its container has exited; waiting for s3://bucket to take its artifacts: no route to bucket"
        assert record.message == said
        writes = world.journal.count_of("record")
        await asyncio.sleep(300)
        assert world.journal.count_of("record") == writes, "it is said once"
        away = False
        record = await world.ended(job)
    assert (record.state, record.message) == (State.SUCCEEDED, "exited with code 0")
    assert stored(world, record) == {"a": b"one", "deep/b": b"2" * 400_000}


@simulated
async def test_a_store_that_fails_after_longer_than_the_patience_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    store = Store(world, lambda path: StoreUnavailable("cut off") if store.asked.count(path) == 1 else None)
    store.takes_s = 100.0
    keep_in(monkeypatch, store)
    async with world.agent(store_patience_s=30.0):
        record = await world.ended(world.submit(command=["x"]))
    assert record.message == "exited with code 0"
    assert stored(world, record) == {"a": b"one", "deep/b": b"2" * 400_000}


@simulated
async def test_news_that_the_broker_does_not_take_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    since_s = asyncio.get_running_loop().time()

    def answer(_: str) -> StoreError | None:
        return StoreUnavailable("no") if asyncio.get_running_loop().time() - since_s < 100 else None

    keep_in(monkeypatch, Store(world, answer))
    async with world.agent() as worker:

        async def refuse_news(record: JobRecord) -> None:
            if record.message is not None and "waiting" in record.message:
                raise BrokerUnavailable("not now")

        worker.records.before_write = refuse_news
        record = await world.ended(world.submit(command=["x"]))
    assert (record.state, record.message) == (State.SUCCEEDED, "exited with code 0")
    assert asyncio.get_running_loop().time() - since_s < 115


@simulated
async def test_an_attempt_that_learns_by_its_news_that_it_was_taken_over_stops_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world()
    world.engine.scripts["x",] = LEAVES
    keep_in(monkeypatch, Store(world, lambda _: StoreUnavailable("no")))
    async with world.agent() as worker:
        since_s = 0.0

        async def taken_over(record: JobRecord) -> None:
            nonlocal since_s
            if record.message is not None and "waiting" in record.message:
                known = await world.client.records.get(record.id)
                assert known is not None
                worker.records.before_write = _pass_by
                since_s = asyncio.get_running_loop().time()
                other = known.value.model_copy(update={"agent": "other", "attempt": 2})
                await world.client.records.update(other, known.revision)

        worker.records.before_write = taken_over
        job = world.submit(command=["x"])
        await world.journal.until("remove")
        assert asyncio.get_running_loop().time() - since_s < 2
        known = await world.client.records.get(job)
    assert known is not None
    assert (known.value.agent, known.value.attempt, known.value.message) == ("other", 2, None)


async def _pass_by(_: JobRecord) -> None:
    pass


@simulated
async def test_one_file_that_the_store_refuses_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    names = ["a", "deep/b", "deep/c", "z"]
    world.engine.scripts["x",] = Script(leaves={f"/launch/artifacts/{name}": b"x" * 400_000 for name in names})
    first = True

    def answer(path: str) -> StoreError | None:
        nonlocal first
        if path == "z" and first:
            first = False
            return StoreUnavailable("come back")
        return StoreError("store it: the name is not allowed") if path == "deep/b" else None

    store = Store(world, answer)
    keep_in(monkeypatch, store)
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
    assert sorted(stored(world, record)) == ["a", "deep/c", "z"]
    assert store.asked.count("deep/b") == 1, "it is not asked for again"
    assert record.artifacts is not None
    assert record.artifacts.error == "'deep/b' was refused: store it: the name is not allowed"
    assert record.message == f"exited with code 0; artifacts: {record.artifacts.error}"
    assert listed(world, record).left_out == ("deep/b",)


@simulated
async def test_a_path_that_no_store_can_keep_is_left_out_and_told() -> None:
    world = make_world()
    path = "/".join(["d" * 200] * 6)
    world.engine.scripts["x",] = Script(leaves={f"/launch/artifacts/{name}": b"x" for name in ("a", path, "z")})
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
    assert sorted(stored(world, record)) == ["a", "z"]
    assert listed(world, record).left_out == (path,)
    assert record.artifacts is not None
    assert record.artifacts.error == f"'{path[:300]}…' was refused: its path is too long for the store"


def listed(world: World, record: JobRecord) -> Manifest:
    name = manifest_name(record.id, record.submitted_at, record.attempt)
    return Manifest.model_validate_json(world.server.artifacts.files[name])


@simulated
async def test_a_store_that_refuses_one_file_after_the_other_is_not_asked_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world()
    leaves = {f"/launch/artifacts/{number:03}": b"x" for number in range(300)}
    world.engine.scripts["x",] = Script(leaves=leaves)
    refused = {f"{number:03}" for number in range(100, 300)}
    store = Store(world, lambda path: StoreError("no " * 1000) if path in refused else None)
    keep_in(monkeypatch, store)
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
    assert len(stored(world, record)) == 100
    assert MAX_REFUSALS <= len(refused.intersection(store.asked)) < MAX_REFUSALS + AT_A_TIME
    assert record.artifacts is not None
    assert record.artifacts.error is not None
    assert record.artifacts.error.startswith("'100' was refused: no no")
    assert record.artifacts.error.endswith("more were refused; the rest was not tried")
    assert len(record.artifacts.error) < 2000


@simulated
async def test_a_store_that_would_refuse_any_file_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    leaves = {f"/launch/artifacts/{number}": b"x" * 400_000 for number in range(10)}
    world.engine.scripts["x",] = Script(leaves=leaves)
    store = Store(world, lambda path: StoreClosed("access denied") if path != "0" else None)
    keep_in(monkeypatch, store)
    async with world.agent():
        record = await world.ended(world.submit(command=["x"]))
    assert store.asked == ["0", "1", "manifest.json"]
    assert record.artifacts is not None
    assert record.artifacts.error == "access denied"


@pytest.mark.parametrize("gate", ["get", "stat"])
@simulated
async def test_what_an_agent_that_left_half_way_began_the_next_one_ends(gate: str) -> None:
    world = make_world()
    world.engine.scripts[HOLD] = Script(hold=True)
    async with world.agent() as first:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        container = world.container(job).id
        world.engine.leave(container, "/launch/artifacts/a", b"one")
        world.engine.gates[gate] = asyncio.Event()
        world.engine.exit(container, 0)
        await world.journal.until(gate, 2 if gate == "stat" else 1)
        await first.leave()
        del world.engine.gates[gate]
        async with world.agent():
            record = await world.ended(job)
            await world.journal.until("remove")
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert stored(world, record) == {"a": b"one"}
    assert world.journal.count_of("start") == 1


@simulated
async def test_a_machine_that_is_taken_away_does_not_wait_for_its_store() -> None:
    world = make_world()
    world.engine.scripts[HOLD] = Script(hold=True)
    async with world.agent() as worker:
        job = world.submit(command=HOLD)
        await world.until(job, State.RUNNING)
        world.engine.leave(world.container(job).id, "/launch/artifacts/a", b"one")
        world.engine.gates["get"] = asyncio.Event()
        hold = worker.agent._holds.get(job)
        assert hold is not None
        hold.ask_to_stop(StopCause.PREEMPTED, within_s=100)
        asked_s = asyncio.get_running_loop().time()
        record = await world.until(job, lambda record: record.reason is Reason.PREEMPTED)
        assert 95 < asyncio.get_running_loop().time() - asked_s < 105
        del world.engine.gates["get"]
    assert record.artifacts is not None
    assert record.artifacts.error == "the machine was taken away before they were stored"


@simulated
async def test_an_attempts_artifacts_stay_when_the_next_one_leaves_nothing() -> None:
    world = make_world()
    world.engine.scripts["x",] = Script(exit_code=1, leaves={"/launch/artifacts/a": b"one"})
    async with world.agent():
        job = world.submit(command=["x"], retries=1)
        await world.until(job, lambda record: record.state is State.QUEUED and record.attempt == 1)
        world.engine.scripts["x",] = Script()
        record = await world.ended(job)
    assert record.artifacts is not None
    assert record.artifacts.manifest == manifest_name(job, record.submitted_at, 1)


# -- checkpoints ----------------------------------------------------------------------------------------------------


@simulated
async def test_a_checkpoint_is_saved_when_its_folder_has_changed_and_restored_elsewhere() -> None:
    world = make_world()
    async with world.agent() as worker:
        job = world.submit(command=HOLD, checkpoint_every=60)
        record = await world.until(job, State.RUNNING)
        name = checkpoint_name(job, record.submitted_at, 1)
        await asyncio.sleep(100)
        assert name not in world.server.artifacts.files, "an empty folder is no checkpoint"
        world.engine.leave(world.container(job).id, "/launch/checkpoint/epoch", b"1")
        await asyncio.sleep(100)
        assert name in world.server.artifacts.files
        gets = world.journal.count_of("get")
        await asyncio.sleep(1000)
        assert world.journal.count_of("get") == gets, "what has not changed is not read again"
        hold = worker.agent._holds.get(job)
        assert hold is not None
        world.engine.leave(world.container(job).id, "/launch/checkpoint/epoch2", b"2")
        hold.ask_to_stop(StopCause.PREEMPTED, within_s=100)
        await world.until(job, lambda record: record.state is State.RUNNING and record.attempt == 2)
        files = world.container(job, 2).files
        assert files.read("/launch/checkpoint/epoch") == b"1"
        assert files.read("/launch/checkpoint/epoch2") == b"2"
        world.engine.leave(world.container(job, 2).id, "/launch/checkpoint/epoch3", b"3")
        await asyncio.sleep(100)
        assert name not in world.server.artifacts.files, "the newer one has taken its place"
        assert checkpoint_name(job, record.submitted_at, 2) in world.server.artifacts.files
        world.engine.exit(world.container(job, 2).id, 0)
        await world.ended(job)
        await world.journal.until("remove", 2)
    assert world.server.artifacts.files == {}


@simulated
async def test_a_checkpoint_that_was_torn_is_not_stored() -> None:
    world = make_world()
    async with world.agent():
        job = world.submit(command=HOLD, checkpoint_every=60)
        record = await world.until(job, State.RUNNING)
        container = world.container(job)
        world.engine.leave(container.id, "/launch/checkpoint/epoch", b"1" * 100_000)
        whole = container.files.pack
        container.files.pack = lambda path: whole(path)[:50_000]  # type: ignore[method-assign]
        await asyncio.sleep(100)
        assert world.server.artifacts.files == {}
        container.files.pack = whole  # type: ignore[method-assign]
        await asyncio.sleep(60)
        assert list(world.server.artifacts.files) == [checkpoint_name(job, record.submitted_at, 1)]


@simulated
async def test_checkpoints_of_an_earlier_process_are_deleted_when_the_job_succeeds() -> None:
    world = make_world()
    async with world.agent() as first:
        job = world.submit(command=HOLD, checkpoint_every=60)
        record = await world.until(job, State.RUNNING)
        world.engine.leave(world.container(job).id, "/launch/checkpoint/epoch", b"1")
        await asyncio.sleep(100)
        assert list(world.server.artifacts.files) == [checkpoint_name(job, record.submitted_at, 1)]
        await first.leave()
        world.engine.exit(world.container(job).id, 0)
        async with world.agent():
            await world.ended(job)
            await world.journal.until("remove")
    assert world.server.artifacts.files == {}


# -- what goes in -----------------------------------------------------------------------------------------------------


def ended_job(world: World, manifest: bytes, **files: bytes) -> JobId:
    """A job that has ended, whose list of artifacts somebody wrote."""
    job = JobId(QUEUE, 4711)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    record = JobRecord(
        queue=job.queue, seq=job.seq, job_type="train", state=State.SUCCEEDED, submitted_at=now, updated_at=now,
        artifacts=StoredArtifacts(where="nats", manifest="list"),
    )  # fmt: skip
    world.server.records.put(job.key, record.model_dump_json().encode())
    world.server.artifacts.files |= {"list": manifest, **files}
    return job


def listing(path: str, size: int = 3) -> bytes:
    file = ArtifactFile(path=path, size=size, sha256="", name="f")
    return Manifest(job="q/1", attempt=1, stored_at=datetime.now(UTC), files=(file,)).model_dump_json().encode()


HOSTILE = {
    "out": (listing("../../etc/passwd"), "leads out of its folder"),
    "absolute": (listing("/etc/passwd"), "leads out of its folder"),
    "longer": (listing("a", 2), "has more bytes"),
    "shorter": (listing("a", 10), "has 3 bytes"),
    "no list": (b"{", "can't be read"),
    "no text": (json.dumps({"job": "q/1", "attempt": 1, "stored_at": 3, "files": [{"path": 3}]}).encode(), "be read"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@simulated
async def test_a_hostile_list_of_inputs_is_refused(kind: str) -> None:
    world = make_world()
    manifest, words = HOSTILE[kind]
    source = ended_job(world, manifest, f=b"abc")
    async with world.agent():
        record = await world.ended(world.submit(inputs=[{"job": str(source)}], retries=3))
        await world.journal.until("remove")
    assert (record.reason, record.attempt) == (Reason.INVALID_SPEC, 1)
    assert record.message is not None
    assert words in record.message
    assert world.engine.containers == {}
    assert world.journal.count_of("start") == 0


@simulated
async def test_damaged_code_does_not_start() -> None:
    world = make_world()
    name = "a" * 64
    world.server.code.files[name] = b"not what it was"
    world.server.code.damage(name)
    async with world.agent():
        record = await world.ended(world.submit(code={"sha256": name, "size": 3}))
    assert record.reason in (Reason.INVALID_SPEC, Reason.ENGINE_ERROR)
    assert world.journal.count_of("start") == 0


@simulated
async def test_an_engine_that_is_out_of_room_is_no_fault_of_the_job() -> None:
    world = make_world()
    world.engine.fail("put", EngineError("put", 500, "write /x: no space left on device"))
    async with world.agent():
        job = world.submit(image=IMAGE, user="1000")
        record = await world.until(job, lambda record: record.reason is Reason.ENGINE_ERROR)
        assert record.message is not None
        assert "disk is full" in record.message
        assert (await world.ended(job)).state is State.SUCCEEDED
