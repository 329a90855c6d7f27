"""Logs of real containers reach the broker exactly: bursts, long lines, unfinished ones, and streams that are cut.

Following alone loses the end of a burst in some runs, so each case is run many times.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from agent.adapters.docker import DockerEngine
from agent.core.container import ContainerPolicy, container_config
from agent.core.outcome import outcome_of_exit
from agent.logs import LogCounts, LogPump
from agent.ports import EngineUnavailable, LogFrame
from launch.core.states import Reason
from launch.job import JobSpec
from launch.ports import Logs
from launch.subjects import LABEL_QUEUE, JobId
from tests.fakes.broker import FakeServer

pytestmark = pytest.mark.docker

AT_ONCE = 4
"""How many containers run at a time: more than there are cores, so that their ends collide."""


class CutEngine(DockerEngine):
    """The real engine over a connection that breaks after every `cut_after` frames of a followed log."""

    cut_after = 0

    async def logs(
        self, container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        async with aclosing(super().logs(container, since=since, follow=follow, tail=tail)) as frames:
            count = 0
            async for frame in frames:
                for piece in frame.pieces() if follow and self.cut_after else (frame,):
                    yield piece
                    count += 1
                    if follow and count == self.cut_after:
                        raise EngineUnavailable("the test cut the connection")


def config_of(spec: JobSpec, job: JobId) -> dict[str, Any]:
    config = container_config(spec, job, 1, "agent", "reply", ContainerPolicy(networks=("none",)), (), env={})
    return {**config, "Tty": spec.tty}


@dataclass
class Rig:
    engine: CutEngine
    image: str
    queue: str
    logs: Logs
    runs: int = 0

    async def run(self, *command: str, tty: bool = False, **options: Any) -> tuple[dict[str, bytes], LogCounts]:
        """Run a command in a container; what the broker has of its output, and the pump's account."""
        self.runs += 1
        job = JobId(self.queue, self.runs)
        spec = JobSpec(job_type="t", image=self.image, command=command, tty=tty)
        config = config_of(spec, job)
        container = await self.engine.create(f"launch-test-{self.queue}-{self.runs}", config)
        pump = LogPump(self.engine, self.logs, job, 1, container, **{"max_bytes": 2**40, **options})
        try:
            await self.engine.start(container)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump.run())
                await self.engine.wait(container)
                counts = await pump.finish()
        finally:
            await self.engine.remove(container)
        output = {"stdout": b"", "stderr": b""}
        async for chunk in self.logs.read(job):
            output[chunk.source] += chunk.data
        return output, counts

    async def run_many(
        self, times: int, check: Callable[[dict[str, bytes]], None], *command: str, **options: Any
    ) -> None:
        """Run a command so many times, some at once, and check each one's output."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def once() -> None:
            async with gate:
                output, counts = await self.run(*command, **options)
            assert counts.error is None
            check(output)

        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(once())


@pytest.fixture
async def rig(docker_host: str, busybox_image: str, queue_name: str) -> AsyncIterator[Rig]:
    engine = CutEngine(docker_host)
    yield Rig(engine, busybox_image, queue_name, FakeServer().connect().logs)
    for container in await engine.list({LABEL_QUEUE: queue_name}):
        await engine.remove(container.id)
    await engine.close()


def numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


async def test_a_burst_at_the_end_is_whole_every_time(rig: Rig) -> None:
    def check(output: dict[str, bytes]) -> None:
        assert output == {"stdout": numbers(1, 3000) + b"unfinished", "stderr": b""}

    await rig.run_many(40, check, "sh", "-c", "seq 1 3000; printf unfinished")


async def test_both_sources_are_whole_every_time_over_a_connection_that_breaks(rig: Rig) -> None:
    rig.engine.cut_after = 700

    def check(output: dict[str, bytes]) -> None:
        assert output == {"stdout": numbers(1, 2000), "stderr": numbers(5001, 7000) + b"oops"}

    await rig.run_many(24, check, "sh", "-c", "seq 1 2000 & seq 5001 7000 >&2; wait; printf oops >&2")


async def test_five_megabytes_as_fast_as_they_come(rig: Rig) -> None:
    script = "head -c 3750000 /dev/urandom | base64 -w 76 | tee /tmp/out; sha256sum /tmp/out >&2"
    output, counts = await rig.run("sh", "-c", script)
    assert counts.size_bytes > 5_000_000
    assert hashlib.sha256(output["stdout"]).hexdigest() == output["stderr"].split()[0].decode()


async def test_long_lines_and_characters_of_several_bytes_are_kept(rig: Rig) -> None:
    text = "Grüße 🚀 " + secrets.token_hex(4)
    script = f"head -c 100000 /dev/zero | tr '\\0' x; echo; echo '{text}'; head -c 100000 /dev/zero | tr '\\0' y"
    output, _ = await rig.run("sh", "-c", script)
    assert output["stdout"] == b"x" * 100_000 + b"\n" + text.encode() + b"\n" + b"y" * 100_000


async def test_a_terminals_output_is_kept_as_the_engine_has_it(rig: Rig) -> None:
    bar = "i=0; while [ $i -lt 8000 ]; do printf '\\repoch 1 %5d %%' $i; i=$((i+1)); done"
    script = f"stty -onlcr; echo Grüße; echo oops >&2; {bar}; echo; {bar}; printf last"
    shown = b"".join(b"\repoch 1 %5d %%" % number for number in range(8000))
    output, counts = await rig.run("sh", "-c", script, tty=True)
    assert output == {"stdout": "Grüße\noops\n".encode() + shown + b"\n" + shown + b"last", "stderr": b""}
    assert counts.error is None

    output, _ = await rig.run("sh", "-c", "[ -t 1 ] && echo terminal; printf 'a\\rb\\n'", tty=True)
    assert output["stdout"] == b"terminal\r\na\rb\r\n"


async def test_a_terminals_output_is_whole_over_a_connection_that_breaks(rig: Rig) -> None:
    rig.engine.cut_after = 300

    def check(output: dict[str, bytes]) -> None:
        assert output["stdout"].replace(b"\r\n", b"\n") == numbers(1, 2000) + b"\r" + b"x" * 40_000

    bar = "printf '\\r'; head -c 40000 /dev/zero | tr '\\0' x"
    await rig.run_many(8, check, "sh", "-c", f"seq 1 2000; {bar}", tty=True)


async def test_output_beyond_the_limit_is_cut(rig: Rig) -> None:
    output, counts = await rig.run("sh", "-c", "seq 1 200000", max_bytes=50 * 1024)
    assert counts.cut
    assert numbers(1, 200_000).startswith(output["stdout"])
    assert 50 * 1024 - 10 < len(output["stdout"]) <= 50 * 1024
    assert output["stderr"] == b"[log cut at 50Ki: max_log_bytes]\n"


async def test_the_end_of_the_output_tells_that_the_command_was_not_there(rig: Rig) -> None:
    output, counts = await rig.run("no-such-command")
    assert b"no-such-command" in output["stderr"]
    container = await rig.engine.create(
        f"launch-test-{rig.queue}-again",
        config_of(JobSpec(image=rig.image, command=("no-such-command",)), JobId(rig.queue, 99)),
    )
    await rig.engine.start(container)
    await rig.engine.wait(container)
    seen = await rig.engine.inspect(container)
    assert seen is not None
    outcome = outcome_of_exit(seen, stop=None, spec=JobSpec(image=rig.image), tail=counts.tail)
    assert outcome.reason is Reason.COMMAND_NOT_FOUND
    assert "exec no-such-command failed" in outcome.message


async def test_a_job_over_its_memory_is_out_of_memory_and_may_do_what_jobs_do(rig: Rig) -> None:
    spec = JobSpec.model_validate(
        {
            "image": rig.image,
            "command": ["sh", "-c", "chown 1000:1000 /tmp && touch /tmp/x && echo ok && tail /dev/zero"],
            "resources": {"memory": "32Mi", "cpu": 0.5},
        }
    )
    config = config_of(spec, JobId(rig.queue, 1))
    container = await rig.engine.create(f"launch-test-{rig.queue}-oom", config)
    await rig.engine.start(container)
    await rig.engine.wait(container)
    counts = await LogPump(rig.engine, rig.logs, JobId(rig.queue, 1), 1, container, max_bytes=2**20).finish()
    assert counts.tail.startswith(b"ok\n")
    seen = await rig.engine.inspect(container)
    assert seen is not None
    outcome = outcome_of_exit(seen, stop=None, spec=spec, tail=counts.tail)
    assert outcome.reason is Reason.OOM_KILLED
    assert "32Mi" in outcome.message
