"""Following a job by its handle: the record that ended the output is enough for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from launch.adapters.clock import SystemClock
from launch.cli.follow import follow_job
from launch.client import Client
from launch.core.states import Reason, State
from launch.handle import Job
from launch.lines import LogLine
from launch.subjects import JobId
from tests.contract.broker_world import chunk, record
from tests.fakes.broker import FakeServer

JOB = JobId("q", 1)


class LastLineHeard(Job):
    """Something happens between the end of the output and whatever follows it."""

    then: Callable[[], None]

    async def logs(self, **options: Any) -> AsyncGenerator[LogLine]:
        async for line in super().logs(**options):
            yield line
        self.then()


async def test_a_server_that_goes_after_the_output_takes_the_end_of_the_job_not_along(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = FakeServer()
    broker, agent = server.connect(), server.connect()
    revision = await agent.records.create(record(JOB, state=State.RUNNING, attempt=1))
    await agent.logs.append(JOB, [chunk(b"the last line\n")])
    ended = record(JOB, state=State.FAILED, attempt=1, exit_code=3, reason=Reason.EXIT_NONZERO)
    await agent.records.update(ended, revision)
    job = LastLineHeard(broker, SystemClock(), JOB)
    job.then = server.stop
    async with asyncio.timeout(5):
        assert await follow_job(Client(broker), job) == 3
    said = capsys.readouterr()
    assert said.out == "the last line\n"
    assert said.err == "launch: q/1 failed: exit_nonzero\n"
