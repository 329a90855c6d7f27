"""Parts of a job's output: since when, of which attempt, the last so many lines; by the client and by the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

import launch
from launch.adapters import nats
from launch.client import Client
from launch.handle import Job
from launch.ports import Broker, LogChunk
from launch.subjects import JobId
from tests.fakes.broker import FakeServer

NOW = datetime.now(UTC)


@pytest.fixture(params=["fake", "nats"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made: Broker = (
        FakeServer().connect()
        if request.param == "fake"
        else await nats.connect(request.getfixturevalue("nats_url"), name="test")
    )
    yield made
    await made.close()


@pytest.fixture
async def job(broker: Broker, queue_name: str) -> AsyncIterator[Job]:
    client = Client(broker)
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name))
    yield await client.submit(queue_name, launch.JobSpec(image="busybox"))
    await client.delete_queue(queue_name)


def printed(data: bytes, ago_s: float = 0, *, source: str = "stdout", attempt: int = 1) -> LogChunk:
    time = (NOW - timedelta(seconds=ago_s)).isoformat(timespec="microseconds").replace("+00:00", "123Z")
    return LogChunk(source, attempt, time, data)


async def texts(job: Job, **options: object) -> list[str]:
    async with aclosing(job.logs(follow=False, **options)) as lines:  # type: ignore[arg-type]
        return [line.text async for line in lines]


async def test_what_was_stored_before_a_moment_need_not_be_read(broker: Broker, queue_name: str) -> None:
    job = JobId(queue_name, 1)
    assert await broker.logs.before(job, datetime.now(UTC)) == 0
    await broker.logs.append(job, [LogChunk("stdout", 1, datetime.now(UTC).isoformat(), b"early\n")])
    early = await broker.logs.last_seq(job)
    moment = datetime.now(UTC)
    await broker.logs.append(JobId(queue_name, 2), [LogChunk("stdout", 1, datetime.now(UTC).isoformat(), b"other\n")])
    await broker.logs.append(job, [LogChunk("stdout", 1, datetime.now(UTC).isoformat(), b"late\n")])
    late = await broker.logs.last_seq(job)
    assert early <= await broker.logs.before(job, moment) < late
    assert await broker.logs.before(job, moment - timedelta(days=1)) < early
    assert await broker.logs.before(job, moment + timedelta(days=1)) == late


async def test_since_leaves_out_what_was_printed_earlier(broker: Broker, job: Job) -> None:
    chunks = [printed(b"%d ago\n" % ago, ago) for ago in (3600, 600, 60, 5)]
    await broker.logs.append(job.id, chunks)
    assert await texts(job, since=NOW - timedelta(hours=2)) == ["3600 ago", "600 ago", "60 ago", "5 ago"]
    assert await texts(job, since=NOW - timedelta(minutes=2)) == ["60 ago", "5 ago"]
    assert await texts(job, since=NOW - timedelta(minutes=2), tail=1) == ["5 ago"]
    assert await texts(job, since=NOW - timedelta(minutes=2), tail=100) == ["60 ago", "5 ago"]
    assert await texts(job, since=NOW + timedelta(minutes=2)) == []


async def test_a_tail_is_of_the_attempt_that_is_asked_for(broker: Broker, job: Job) -> None:
    for attempt in (1, 2, 3):
        await broker.logs.append(job.id, [printed(b"%d of %d\n" % (n, attempt), attempt=attempt) for n in range(400)])
    await broker.logs.append(job.id, [printed(b"last", attempt=3)])
    assert await texts(job, tail=2, attempt=1) == ["398 of 1", "399 of 1"]
    assert await texts(job, tail=2, attempt=2) == ["398 of 2", "399 of 2"]
    assert await texts(job, tail=2, attempt=3) == ["399 of 3", "last"]
    assert await texts(job, tail=2, attempt=4) == []
    assert len(await texts(job, tail=500, attempt=1)) == 400
    assert len(await texts(job, tail=500)) == 500
    assert await texts(job, attempt=2) == [f"{n} of 2" for n in range(400)]


async def test_a_follower_that_begins_at_the_tail_misses_nothing_and_repeats_nothing(broker: Broker, job: Job) -> None:
    await broker.logs.append(job.id, [printed(b"one\ntwo\nthr"), printed(b"oops\n", source="stderr")])
    async with aclosing(job.logs(follow=True, tail=2)) as lines:
        assert (await anext(lines)).text == "oops"
        await broker.logs.append(job.id, [printed(b"ee\nfour\n")])
        assert [(await anext(lines)).text for _ in range(2)] == ["three", "four"]


async def test_the_command_shows_what_it_is_asked_for(nats_url: str, queue_name: str) -> None:
    broker = await nats.connect(nats_url, name="test")
    client = Client(broker)
    await client.apply_queue(launch.QueueSpec(queue_name=queue_name))
    job = await client.submit(queue_name, launch.JobSpec(image="busybox"))
    await broker.logs.append(job.id, [printed(b"loss 3\nacc 1\n", 7200), printed("loss 2 ä\n".encode(), 60)])
    await broker.logs.append(job.id, [printed(b"oops\n", 30, source="stderr"), printed(b"loss 1\n", 10, attempt=2)])

    def run(*options: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "launch", "--server", nats_url, "logs", str(job.id), *options],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout, done.stderr

    assert run() == ("loss 3\nacc 1\nloss 2 ä\nloss 1\n", "oops\nlaunch: --- attempt 2 ---\n")
    assert run("--since", "90m", "--attempt", "1") == ("loss 2 ä\n", "oops\n")
    assert run("--grep", "^loss [0-2]", "--attempt", "1") == ("loss 2 ä\n", "")
    assert run("--tail", "3", "--grep", "oops|acc") == ("", "oops\n")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[0-9:.]+Z loss 1\n", run("--timestamps", "--attempt", "2")[0])
    shown = [json.loads(line) for line in run("--json", "--tail", "2")[0].splitlines()]
    assert [(line["text"], line["source"], line["attempt"], line["partial"]) for line in shown] == [
        ("oops", "stderr", 1, False),
        ("loss 1", "stdout", 2, False),
    ]
    since = (NOW - timedelta(minutes=10)).isoformat()
    assert run("--since", since, "--attempt", "1") == ("loss 2 ä\n", "oops\n")
    await client.delete_queue(queue_name)
    await broker.close()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--since", "yesterday", "allowed: how long ago"),
        ("--since", "", "allowed: how long ago"),
        ("--since", "-5m", "allowed: how long ago"),
        ("--since", "2026-13-01", "allowed: how long ago"),
        ("--grep", "(", "no regular expression"),
        ("--grep", "*", "no regular expression"),
        ("--tail", "-1", "--tail"),
        ("--tail", "x", "--tail"),
        ("--attempt", "0", "--attempt"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(option: str, value: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch", "logs", "q/1", f"{option}={value}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
    )
    assert done.returncode == 2
    assert option in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
