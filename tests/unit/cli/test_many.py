"""Jobs as lines: what is read, what is refused, how options lie below a line, and what an interrupted call says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.cli import joblines, many
from launch.cli.joblines import JobLines, Stop, Stopped, laid_over
from launch.cli.many import Asked, _Meter, _Submit
from launch.client import Client
from launch.errors import BrokerUnavailable, LaunchError
from launch.ports import NewJob, Published
from launch.subjects import Priority
from tests.contract.broker_world import queue_spec
from tests.fakes.broker import FakeServer


async def read(lines: JobLines, stop: Stop | None = None) -> list[tuple[str, Any]]:
    return [pair async for pair in lines.trees(stop or Stop())]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.mark.parametrize("block", [1, 7, 1000])
async def test_lines_are_numbered_and_empty_ones_are_no_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(joblines, "BLOCK_BYTES", block)
    file = tmp_path / "f"
    file.write_bytes(b'{"a": 1}\r\n\n  \n{"b": 0.10}\n{"c": "\xc3\xa9"}')
    with JobLines.opened(file, skip=1) as lines:
        for _ in range(2):
            assert await read(lines) == [(f"{file}, line 4", {"b": "0.10"}), (f"{file}, line 5", {"c": "é"})]
            lines.rewind()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", r"has no jobs \(allowed: a JobSpec"),
        (b"\n \n", "has no jobs"),
        (b"[\n", "line 1: found the begin of a list, .*jq -c"),
        (b"{\n", "line 1: found the begin"),
        (b'\n"a"\n', "line 2: found no JSON object"),
        (b"image: busybox\n", "line 1: found a body that is not JSON"),
        (b'{"image": "\xff"}\n', "line 1: found a body that is not JSON"),
        (b'\n{"image": "' + b"x" * 600_000, "line 2: found more than 262144 bytes"),
    ],
)
async def test_what_is_no_line_of_json_is_said_so(tmp_path: Path, given: bytes, said: str) -> None:
    (tmp_path / "f").write_bytes(given)
    with JobLines.opened(tmp_path / "f", skip=0) as lines, pytest.raises(LaunchError, match=said):
        await read(lines)


@pytest.mark.parametrize(("name", "said"), [("nothing", "No such file"), ("", "Is a directory"), ("a\0b", "null byte")])
async def test_what_can_t_be_read_is_said_so(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(LaunchError, match=f"can't be read: .*{said}"):  # noqa: SIM117  (opened, or read)
        with JobLines.opened(tmp_path / name, skip=0) as lines:
            await read(lines)


async def test_a_stop_is_heard_while_a_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    stop = Stop()
    lines = JobLines(pipe[0], "pipe", skip=0)
    os.write(pipe[1], b'{"a": "1"}\n{"b"')
    trees = lines.trees(stop)
    assert await anext(trees) == ("pipe, line 1", {"a": "1"})
    asyncio.get_running_loop().call_soon(stop.ask, 130)
    with pytest.raises(Stopped):
        await anext(trees)


async def test_a_pipe_that_ends_because_of_the_same_signal_has_not_ended(pipe: tuple[int, int]) -> None:
    stop = Stop()
    os.write(pipe[1], b'{"a": "1"}\n')
    trees = JobLines(pipe[0], "pipe", skip=0).trees(stop)
    await anext(trees)
    os.close(pipe[1])
    # The reader is woken by the end first; the loop gets to our signal right after it.
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(stop.ask, 130)))
    with pytest.raises(Stopped):
        await anext(trees)


def test_a_line_wins_over_what_is_said_of_every_job() -> None:
    defaults = {"image": "a", "env": {"A": "1", "B": "2"}, "inputs": ({"job": "q/1"},), "command": ["x"], "tty": True}
    line = {"image": "b", "env": {"B": "3"}, "inputs": [{"job": "q/2"}], "command": [], "labels": {"l": "m"}}
    assert laid_over(defaults, line) == {
        "image": "b",
        "env": {"A": "1", "B": "3"},
        "inputs": [{"job": "q/1"}, {"job": "q/2"}],
        "command": [],
        "tty": True,
        "labels": {"l": "m"},
    }
    assert laid_over({"env": {"A": "1"}}, {"env": "no mapping"}) == {"env": "no mapping"}


async def test_a_second_ctrl_c_does_not_wait_for_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeServer().connect()
    client = Client(broker)
    await client.apply_queue(queue_spec("q", job_types=["train"]))
    store = broker.jobs.publish_batch

    async def first_only(queue: str, jobs: Sequence[NewJob], *, msg_id: str) -> Published:
        if msg_id == "a/0":
            return await store(queue, jobs, msg_id=msg_id)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(broker.jobs, "publish_batch", first_only)
    monkeypatch.setattr("launch.bulk.RETRY_S", 3600.0)
    monkeypatch.setattr(many, "STOP_S", 3600.0)
    file = tmp_path / "f"
    file.write_text('{"image": "i"}\n' * 1500)
    with JobLines.opened(file, skip=0) as lines:
        asked = Asked("q", file, {}, Priority.MEDIUM, "a", 0, True, None, None)
        async with asyncio.timeout(20):
            assert await _Submit(client, asked, lines).run() == 130
    out, err = capsys.readouterr()
    assert '"jobs": 1000' in out
    assert '"complete": false' in out
    assert "stored the first 1000 jobs, and the next ones may be; to go on, within two minutes: " in err
    assert "--msg-id a --skip 1000" in err


def test_a_long_run_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    with _Meter(1000, lambda: now_s) as meter:
        for now_s in (59.0, 60.0, 61.0, 119.0, 120.0):
            meter.show(1000 + round(now_s) * 100)
    assert capsys.readouterr().err.splitlines() == [
        "launch: stored 7,000 jobs, 100 a second",
        "launch: stored 13,000 jobs, 100 a second",
    ]
