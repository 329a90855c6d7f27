"""`launch submit --many` on a real server: what is stored and told, refused lines, Ctrl-C, and how it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch.adapters import nats
from launch.adapters.nats import NatsBroker
from launch.job import JobSpec
from launch.subjects import JobId
from tests.contract.broker_world import queue_spec

pytestmark = pytest.mark.nats


@dataclass
class World:
    """A queue for any job type, and the command line beside it."""

    broker: NatsBroker
    queue: str
    url: str
    home: Path

    async def start(self, *options: str, stdout: int = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_"))}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "launch", "submit", "-q", self.queue, *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**kept, "HOME": str(self.home), "NATS_URL": self.url},
        )

    async def run(self, *options: str, given: bytes = b"", code: int = 0) -> tuple[str, str]:
        async with asyncio.timeout(30):
            started = await self.start(*options)
            out, err = await started.communicate(given)
        assert started.returncode == code, err.decode()
        return out.decode(), err.decode()

    async def specs(self) -> list[JobSpec]:
        lying = await self.broker.jobs.peek(self.queue, 100_000)
        return [JobSpec.model_validate_json(message.body) for message in lying]

    async def images(self) -> list[str]:
        return [spec.image for spec in await self.specs()]


@pytest.fixture
async def world(nats_url: str, queue_name: str, tmp_path: Path) -> AsyncIterator[World]:
    broker = await nats.connect(nats_url, name="test")
    await broker.queues.apply(queue_spec(queue_name, job_types=["train", "test"]))
    yield World(broker, queue_name, nats_url, tmp_path)
    await broker.queues.delete(queue_name)
    await broker.close()


def lines(numbers: Iterable[int], **more: Any) -> bytes:
    return b"".join(json.dumps({"image": f"i{n}", "job_type": "train", **more}).encode() + b"\n" for n in numbers)


def names(count: int) -> list[str]:
    return [f"i{number}" for number in range(count)]


async def test_a_line_is_a_job_with_the_options_as_its_defaults(world: World) -> None:
    given = lines([0]) + b"\n" + lines([1], job_type="test", env={"B": 3}, resources={"cpu": 1}) + b'{"command": []}'
    options = ("-t", "train", "--image", "i2", "-e", "A=1", "-e", "B=2", "--cpu", "2", "--memory", "1Gi")
    out, err = await world.run("--many", "-", *options, "-e", "DB_PASSWORD=hunter22", given=given)
    assert err.count("DB_PASSWORD looks like a secret") == 1
    assert out.split() == [f"{world.queue}/{seq}" for seq in (1, 2, 3)]
    assert re.search(r"message id (\w+): within two minutes .*--msg-id \1", err)
    first, second, third = await world.specs()
    assert (first.image, first.job_type, first.env["B"], first.resources.cpu) == ("i0", "train", "2", 2.0)
    assert (second.image, second.job_type, second.env["A"], second.env["B"]) == ("i1", "test", "1", "3")
    assert (second.resources.cpu, second.resources.memory) == (1.0, 2**30)
    assert (third.image, third.job_type) == ("i2", "train")


async def test_a_file_is_checked_before_anything_is_sent(world: World, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(lines(range(1500)) + b'\n{"image": "i", "job_type": "other"}\n')
    out, err = await world.run("--many", str(file), code=1)
    assert out == ""
    assert f"jobs.jsonl, line 1502: the queue {world.queue}: job_type: found 'other'" in err
    assert await world.specs() == []
    file.write_bytes(lines(range(1500)))
    out, _ = await world.run("--many", str(file), "--json", "--msg-id", "a", "--skip", "1")
    found = json.loads(out)
    assert found.pop("ids") == [{"first": f"{world.queue}/1", "last": f"{world.queue}/1499", "jobs": 1499}]
    assert found == {
        "queue": world.queue,
        "complete": True,
        "error": None,
        "jobs": 1499,
        "repeated": 0,
        "done": 1500,
        "msg_id": "a",
    }


async def test_a_refused_line_of_a_pipe_tells_what_is_stored_and_goes_on(world: World) -> None:
    good = lines(range(1500))
    bad = good.replace(b'"i1400"', b'"i1400", "retries": -1')
    out, err = await world.run("--many", "-", "--json", "--msg-id", "a", given=bad, code=1)
    assert json.loads(out)["ids"][0]["jobs"] == 1000
    assert json.loads(out)["complete"] is False
    assert "stored the first 1000 jobs, then: stdin, line 1401: retries: found '-1'" in err
    assert "--msg-id a --skip 1000" in err
    out, _ = await world.run("--many", "-", "--msg-id", "a", "--skip", "1000", given=good)
    assert len(out.split()) == 500
    out, err = await world.run("--many", "-", "--msg-id", "a", given=good)
    assert (len(out.split()), "1500 jobs had been stored before" in err) == (1500, True)
    _, err = await world.run("--many", "-", "--msg-id", "a", given=good + lines([1500]), code=1)
    assert "give the rest another message id" in err
    assert await world.images() == names(1500)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_while_a_pipe_is_waited_for(world: World, number: signal.Signals) -> None:
    async with asyncio.timeout(30), aclosing(world.broker.jobs.notices(world.queue)) as notices:
        assert await anext(notices) is None
        started = await world.start("--many", "-")
        assert started.stdin is not None
        started.stdin.write(lines(range(1500)))
        async for job in notices:
            if job == JobId(world.queue, 1000):
                break
        started.send_signal(number)
        out, err = await asyncio.gather(*(stream.read() for stream in (started.stdout, started.stderr) if stream))
        assert await started.wait() == 128 + number
    assert len(out.split()) == 1000
    again = re.search(r"stopped: stored the first 1000 jobs; .* and (--msg-id \w+ --skip 1000)\n", err.decode())
    assert again is not None
    await world.run("--many", "-", *again[1].split(), given=lines(range(1500)))
    assert await world.images() == names(1500)


async def test_how_to_go_on_is_told_though_nobody_reads_the_ids(world: World) -> None:
    async with asyncio.timeout(30), aclosing(world.broker.jobs.notices(world.queue)) as notices:
        assert await anext(notices) is None
        reading, writing = os.pipe()
        started = await world.start("--many", "-", stdout=writing)
        os.close(writing)
        assert started.stdin is not None
        assert started.stderr is not None
        started.stdin.write(lines(range(1500)))
        async for job in notices:
            if job == JobId(world.queue, 1000):
                break
        os.close(reading)  # as Ctrl-C ends what the ids are piped into
        started.send_signal(signal.SIGINT)
        err = await started.stderr.read()
        assert await started.wait() == 128 + signal.SIGINT
    assert re.search(r"stopped: stored the first 1000 jobs; .* and --msg-id \w+ --skip 1000\n$", err.decode()), err
    assert b"rror" not in err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--many", "-", "--follow"), 2, "--follow: it does not go with --many"),
        (("--skip", "1", "--image", "i"), 2, "--skip: it goes with --many"),
        (("--many", "-", "--skip", "3"), 1, "can't skip 3 jobs: stdin has 2 (allowed: up to 2)"),
        (("--many", "-", "--memory", "8Gx"), 1, "the command line: resources.memory: found '8Gx'"),
    ],
)
async def test_what_can_t_be_is_refused(world: World, options: tuple[str, ...], code: int, said: str) -> None:
    out, err = await world.run(*options, given=lines(range(2)), code=code)
    assert (out, said in err) == ("", True), err
    assert await world.specs() == []


async def test_a_folder_is_sent_once_for_all(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "a.py").write_text(f"# {world.queue}\n")
    (tmp_path / "base.yaml").write_text("image: base\njob_type: test\ncode: code\n")
    given = lines([0]) + b'{"retries": 2}\n'
    _, err = await world.run("--many", "-", "-c", str(tmp_path / "base.yaml"), given=given)
    assert err.count("code sent") == 1
    first, second = await world.specs()
    assert (first.image, first.job_type, second.image, second.job_type) == ("i0", "train", "base", "test")
    assert second.retries == 2
    assert first.code is not None
    assert first.code == second.code


async def test_one_job_as_json(world: World) -> None:
    out, _ = await world.run("--image", "i", "-t", "train", "--json")
    assert json.loads(out) == {"id": f"{world.queue}/1", "duplicate": False}
