"""How an agent goes, and what the next one finds; and what runs on while the broker is away."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from launch.core.states import Reason, State
from launch.errors import LaunchError, NotFound
from launch.ports import Synced
from launch.presence import AgentState
from launch.subjects import container_name
from tests.integration.agent_lab import HOLD, LIMIT_S, Lab, open_lab
from tests.support import engine
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.docker, pytest.mark.nats]


async def states_shown(lab: Lab, until: str) -> list[str]:
    """Every state that agent a shows from now on, up to this one."""
    seen: list[str] = []
    async with asyncio.timeout(LIMIT_S), aclosing(lab.client.agents.watch()) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.key == lab.agent_id():
                state = str(change.value.state) if change.value is not None else "gone"
                if [state] != seen[-1:]:
                    seen.append(state)
                if state == until:
                    return seen
    raise AssertionError("the watch ended")


async def test_a_drain_takes_nothing_new_and_sees_what_runs_to_its_end(lab: Lab) -> None:
    async with lab.agent() as worker:
        shown = asyncio.create_task(states_shown(lab, "gone"))
        job = await lab.submit(command=HOLD)
        await lab.until(job, State.RUNNING)
        worker.stop.set()
        await lab.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINING)
        late = await lab.submit(command=["true"])
        await lab.release(job)
        await asyncio.wait_for(worker.task, LIMIT_S)
        assert await shown == ["ready", "draining", "drained", "gone"]
    record = await lab.ended(job)
    assert (record.state, record.exit_code) == (State.SUCCEEDED, 0)
    assert await lab.client.records.get(late) is None
    assert await lab.left() == 1
    assert lab.containers() == []


async def test_a_drain_that_takes_too_long_gives_the_job_to_another_agent(lab: Lab) -> None:
    async with lab.agent("a", drain_timeout_s=0.2) as worker:
        job = await lab.submit(command=HOLD)
        await lab.until(job, State.RUNNING)
        async with lab.agent("b"):
            worker.stop.set()
            await asyncio.wait_for(worker.task, LIMIT_S)
            await lab.until(job, lambda found: found.state is State.RUNNING and found.attempt == 2)
            await lab.said(job, b"ready")
            await lab.engine.signal(container_name(job, 2), "SIGUSR1")
            record = await lab.ended(job)
    history = await lab.client.records.history(job)
    preempted = next(one for one in history if one.state is State.QUEUED)
    assert (preempted.reason, preempted.failures, preempted.interruptions) == (Reason.PREEMPTED, 0, 1)
    assert record.agent == lab.agent_id("b")


async def test_the_next_process_goes_on_with_the_same_containers(lab: Lab) -> None:
    count = "i=0; trap 'exit 4' USR1; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    async with lab.agent() as worker:
        runs, ends = await lab.submit(command=["sh", "-c", count]), await lab.submit(command=HOLD)
        before = {job: await lab.until(job, State.RUNNING) for job in (runs, ends)}
        await lab.said(runs, b"\n10\n")
        await lab.said(ends, b"ready")
        worker.abort.set()
        await asyncio.wait_for(worker.task, LIMIT_S)
    assert {found["State"] for found in lab.containers()} == {"running"}
    for job, record in before.items():
        known = await lab.client.records.get(job)
        assert known is not None
        assert known.value == record
    container = before[ends].container
    assert container is not None
    await lab.engine.signal(container, "SIGUSR1")
    await asyncio.wait_for(lab.engine.wait(container), LIMIT_S)
    async with lab.agent():
        ended = await lab.ended(ends)
        await lab.engine.signal(container_name(runs, 1), "SIGUSR1")
        ran = await lab.ended(runs)
    assert (ended.state, ended.attempt, ended.container) == (State.SUCCEEDED, 1, container)
    assert (ran.exit_code, ran.attempt, ran.container) == (4, 1, before[runs].container)
    numbers = [int(line) for line in (await lab.output(runs)).split()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert await lab.left() == 0
    assert lab.containers() == []


async def test_a_job_outlives_its_broker_and_its_end_is_told_when_that_is_back(
    fresh_nats: Callable[..., NatsServer], queue_name: str, queue_containers: str, busybox_image: str, tmp_path: Path
) -> None:
    server = fresh_nats()
    async with open_lab(server.url, queue_name, busybox_image, tmp_path) as lab, lab.agent():
        job = await lab.submit(command=["sh", "-c", HOLD[2].replace("exit 0", "echo bye; exit 3")])
        container = (await lab.until(job, State.RUNNING)).container
        assert container is not None
        await lab.said(job, b"ready")
        await asyncio.to_thread(server.stop)
        await lab.engine.signal(container, "SIGUSR1")
        await asyncio.wait_for(lab.engine.wait(container), LIMIT_S)
        await asyncio.to_thread(server.start)
        record = await lab.ended(job)
        assert (record.state, record.exit_code, record.attempt) == (State.FAILED, 3, 1)
        assert await lab.output(job) == b"ready\nbye\n"
        # And the same agent takes new work.
        assert (await lab.ended(await lab.submit(command=["true"]))).state is State.SUCCEEDED


# -- starting -------------------------------------------------------------------------------------------------------


async def test_an_agent_for_a_queue_that_is_not_there_says_so(lab: Lab) -> None:
    missing = Lab(lab.url, "no-such-queue", lab.image, lab.folder, lab.client, lab.raw, lab.engine)
    with pytest.raises(NotFound, match="no-such-queue"):
        async with missing.agent():
            pass


async def test_an_agent_without_an_engine_says_so(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"/no\.sock"):
        async with lab.agent(docker_host=f"unix://{tmp_path}/no.sock"):
            pass


async def test_the_same_agent_does_not_run_twice(lab: Lab) -> None:
    async with lab.agent():
        with pytest.raises(LaunchError, match="runs already"):
            async with lab.agent():
                pass
        assert (await lab.ended(await lab.submit(command=["true"]))).state is State.SUCCEEDED


# -- as a process -----------------------------------------------------------------------------------------------------


async def test_sigterm_drains_the_process(lab: Lab) -> None:
    command = [str(Path(sys.executable).with_name("launch")), "agent", "-q", lab.queue, "--server", lab.url]
    command += ["--agent-id", lab.agent_id(), "--data-dir", str(lab.folder)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await lab.presence(lambda entry: entry is not None)
        job = await lab.submit(command=HOLD)
        await lab.until(job, State.RUNNING)
        process.send_signal(signal.SIGTERM)
        await lab.presence(lambda entry: entry is not None and entry.state is AgentState.DRAINING)
        await lab.release(job)
        _, said = await asyncio.wait_for(process.communicate(), LIMIT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"Traceback" not in said
    assert (await lab.ended(job)).state is State.SUCCEEDED
    assert await lab.client.agents.get(lab.agent_id()) is None
    assert engine.containers(f"launch.queue={lab.queue}") == []
