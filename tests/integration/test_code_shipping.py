"""A folder as a job's code, through the client and the command, to the fake store and the real one."""

import asyncio
import hashlib
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest

import launch
from launch.adapters import nats
from launch.adapters.nats.objects import NatsFiles
from launch.client import Client
from launch.code import ship
from launch.core.states import Event
from launch.errors import LaunchError, NotFound, SpecError
from launch.job import CodeRef
from launch.ports import Broker
from tests.e2e.world import World
from tests.fakes.broker import FakeServer
from tests.support.nats_server import NatsServer
from tests.unit.launch.test_folder import make

SPEC = launch.JobSpec(image="busybox", command=("true",))

pytestmark = pytest.mark.nats


@pytest.fixture(params=["fake", "nats"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made: Broker
    if request.param == "fake":
        made = FakeServer().connect()
    else:
        made = await nats.connect(request.getfixturevalue("nats_url"), name="test")
    yield made
    await made.close()


@pytest.fixture
async def client(broker: Broker, queue_name: str) -> AsyncIterator[Client]:
    client = Client(broker)
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name))
    yield client
    await client.delete_queue(queue_name)


async def stored(broker: Broker, code: CodeRef | None) -> bytes:
    assert code is not None
    async with aclosing(broker.code.read(code.sha256)) as pieces:
        data = b"".join([piece async for piece in pieces])
    assert (len(data), hashlib.sha256(data).hexdigest()) == (code.size, code.sha256)
    return data


async def test_a_folder_goes_with_its_job(client: Client, broker: Broker, queue_name: str, tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"train.py": queue_name, "lib/x.py": "", "a.log": "", ".gitignore": "*.log\n"})
    job = await client.submit(queue_name, SPEC, code=root)
    spec = (await job.record()).spec
    assert spec is not None
    with tarfile.open(fileobj=BytesIO(await stored(broker, spec.code))) as tar:
        assert tar.getnames() == [".", "./.gitignore", "./lib", "./lib/x.py", "./train.py"]


async def test_a_retry_keeps_the_code(client: Client, broker: Broker, queue_name: str, tmp_path: Path) -> None:
    job = await client.submit(queue_name, SPEC, code=make(tmp_path, {"train.py": queue_name}))
    record = await job.record()
    now = datetime.now(UTC)
    claimed = record.moved(Event.CLAIM, now, agent="a", attempt=1)
    revision = await broker.records.create(claimed)
    await broker.records.update(claimed.moved(Event.FAIL, now, finished_at=now), revision)
    await broker.jobs.discard(job.id)
    again = (await (await client.retry(str(job.id))).record()).spec
    assert again is not None
    assert record.spec is not None
    assert again.code == record.spec.code != None  # noqa: E711  (one comparison for both)


async def test_several_submitters_of_one_folder(
    client: Client, broker: Broker, queue_name: str, tmp_path: Path
) -> None:
    root = make(tmp_path / "job", {"train.py": queue_name})
    (root / "data").write_bytes(os.urandom(2 << 20))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.submit(queue_name, SPEC, code=root)) for _ in range(5)]
    specs = [(await task.result().record()).spec for task in tasks]
    (code,) = {spec.code for spec in specs if spec}
    await stored(broker, code)
    assert not (await client.ship(root)).sent


async def test_what_several_send_at_once_is_kept_once(fresh_nats: Callable[..., NatsServer], tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"train.py": ""})
    (root / "data").write_bytes(os.urandom(4 << 20))
    url = fresh_nats().url
    brokers = [await nats.connect(url, name="test") for _ in range(4)]
    try:
        async with asyncio.TaskGroup() as group:
            for broker in brokers:
                group.create_task(ship(broker.code, root))
        files = brokers[0].code
        assert isinstance(files, NatsFiles)
        info = await files._connection.api("STREAM.INFO.OBJ_code")
        assert info["state"]["bytes"] < 5 << 20
    finally:
        for broker in brokers:
            await broker.close()


async def test_nothing_is_sent_for_a_job_that_is_refused(
    client: Client, broker: Broker, queue_name: str, tmp_path: Path
) -> None:
    root = make(tmp_path / "job", {"train.py": queue_name})
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name, job_types=("train",)))
    with pytest.raises(NotFound):
        await client.submit("no-such-queue", SPEC, code=root)
    with pytest.raises(SpecError):
        await client.submit(queue_name, SPEC, job_type="test", code=root)
    with pytest.raises(LaunchError, match="is no folder"):
        await client.submit(queue_name, SPEC, code=root / "train.py")
    assert (await client.ship(root)).sent


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def queue(served: World, queue_name: str) -> str:
    """A queue without workers."""
    served.run("queue", "apply", str(served.queue_file(queue_name, provider={"type": "static"})))
    return queue_name


@pytest.fixture
def served(tmp_path: Path, nats_url: str) -> Iterator[World]:
    world = World(tmp_path, url=nats_url)
    yield world
    world.close()


def test_the_command_sends_a_folder_once_and_shows_what_went_in(served: World, queue: str) -> None:
    make(served.home / "job", {"train.py": queue, "env/pyvenv.cfg": ""})
    line = (
        "submit", "-q", queue, "--code", "job", "--image", "x:1", "--input", "q/1:/data", "--input", "s3://bucket/p",
        "--artifact", "/out", "--secret", "WANDB_API_KEY=wandb-key", "--tty", "--", "python", "train.py",
    )  # fmt: skip
    first = served.run(*line)
    assert first.out == [f"{queue}/1"]
    assert any("env is a virtual environment" in text for text in first.err)
    assert any("code sent" in text for text in first.err)
    again = served.run(*line)
    assert again.out == [f"{queue}/2"]
    assert not any("code sent" in text for text in again.err)
    spec = served.json("show", f"{queue}/2")["spec"]
    assert spec["inputs"] == [
        {"job": "q/1", "s3": None, "path": "/data"},
        {"job": None, "s3": "s3://bucket/p", "path": None},
    ]
    assert (spec["artifacts"], spec["tty"]) == (["/out"], True)
    assert spec["env"] == {"WANDB_API_KEY": {"secret": "wandb-key"}}
    shown = served.run("show", f"{queue}/1").out
    assert any(text.startswith("code:") and spec["code"]["sha256"][:12] in text for text in shown)
    assert [text.split()[1:] for text in shown if text.startswith("input:")] == [
        ["q/1", "at", "/data"],
        ["s3://bucket/p"],
    ]


def test_a_file_may_name_its_folder(served: World, queue: str) -> None:
    make(served.home / "job", {"src/train.py": queue, "job.yaml": "image: x:1\ncommand: [python]\ncode: ./src\n"})
    served.run("submit", "-q", queue, "-c", "job/job.yaml")
    served.run("--job-type", "t", "--queue", queue, "--config", "job/job.yaml")
    codes = {served.json("show", f"{queue}/{seq}")["spec"]["code"]["sha256"] for seq in (1, 2)}
    assert len(codes) == 1
    make(served.home / "job", {"job.yaml": "image: x:1\ncode: ./nowhere\n"})
    refused = served.run("submit", "-q", queue, "-c", "job/job.yaml", code=1)
    assert refused.err == ["launch: error: job/nowhere is no folder (allowed: a folder with the job's code)"]


def test_a_folder_that_is_too_large_is_refused_with_what_to_do(served: World, queue: str) -> None:
    make(served.home / "job", {"train.py": queue})
    (served.home / "job/weights.bin").write_bytes(os.urandom(300_000))
    refused = served.run("submit", "-q", queue, "--image", "x", "--code", "job", "--code-limit", "100Ki", code=1)
    assert "is more than 100Ki when packed" in refused.err[0]
    assert "weights.bin" in refused.err[1]
    assert refused.out == []
    served.run("submit", "-q", queue, "--image", "x", "--code", "job", "--code-limit", "1Mi")
    served.run("submit", "-q", queue, "--image", "x", "--code", "job", "--code-limit", "lots", code=2)


def test_a_plain_secret_is_warned_of_without_being_shown(served: World, queue: str) -> None:
    value = "hunter2-" + queue
    warned = served.run("submit", "-q", queue, "--image", "x", "-e", f"DB_PASSWORD={value}", "-e", "N=1")
    assert warned.out == [f"{queue}/1"]
    (line,) = warned.err
    assert "DB_PASSWORD looks like a secret" in line
    assert "--secret DB_PASSWORD=NAME" in line
    assert value not in line
    assert served.run("submit", "-q", queue, "--image", "x", "--secret", "DB_PASSWORD").err == []


def test_ctrl_c_ends_the_packing(served: World, queue: str) -> None:
    """A file that never ends (by its size) is packed until someone has had enough."""
    make(served.home / "job", {"train.py": ""})
    with (served.home / "job/huge").open("wb") as file:
        file.truncate(1 << 40)
    served.env["TMPDIR"] = str(served.home / "tmp")
    (served.home / "tmp").mkdir()
    command = served.start("submit", "-q", queue, "--image", "x", "--code", "job")
    made = served.home / "tmp"
    while not any(path.stat().st_size for path in made.glob("launch-code-*/*")):
        assert command.process.poll() is None
    command.signal(signal.SIGINT)
    assert command.ended() == 130
    assert command.out == command.err == []
    assert list(made.iterdir()) == []
