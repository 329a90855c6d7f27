"""The engine is restarted, slow, or silent, and containers vanish: the agent lives, jobs end for the right reason."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from launch.core.states import Reason, State
from launch.subjects import container_name
from tests.integration.agent_lab import HOLD
from tests.integration.chaos.lab import LEASE_S, Chaos, counting, exact
from tests.integration.chaos.own_engine import OwnEngine
from tests.support import engine
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow, pytest.mark.timeout(200)]


async def test_a_container_removed_by_hand_is_the_infrastructures_doing(lab: Chaos) -> None:
    agent = await lab.started("a")
    pid = agent.pid
    job = await lab.submit(command=HOLD)
    await lab.running(job)
    run = await lab.runs.started(job)
    await lab.said(job, b"ready")
    await asyncio.to_thread(engine.call, "DELETE", f"/containers/{run.container}", {"force": "1"})
    record = await lab.running(job, 2)
    assert (record.failures, record.interruptions) == (0, 1)
    before = next(one for one in await lab.client.records.history(job) if one.state is State.QUEUED)
    assert before.reason is Reason.ENGINE_ERROR
    await lab.runs.started(job, 2)
    await lab.said(job, b"ready\nready")
    await lab.told(job, 2)
    assert (await lab.ended(job)).state is State.SUCCEEDED
    assert agent.pid == pid
    assert lab.runs.doubled() == []
    await lab.nothing_left()


@asynccontextmanager
async def slow_way(folder: Path) -> AsyncIterator[tuple[Proxy, str]]:
    """A socket beside the machine's engine's, and its address."""
    path = folder / "slow.sock"
    target = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    proxy = await Proxy(target, listen=path).start()
    try:
        yield proxy, f"unix://{path}"
    finally:
        await proxy.cut()


async def test_an_engine_that_answers_slowly_and_then_not_at_all_for_a_while(lab: Chaos) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with slow_way(Path(folder)) as (proxy, host):
            proxy.delay_s = 0.4
            agent = await lab.started("a", DOCKER_HOST=host)
            job = await lab.submit(command=counting())
            await lab.running(job)
            await lab.said(job, b"\n10\n")
            proxy.delay_s = 0.0
            proxy.black_hole()
            # The job ends while nobody can ask for it; the agent keeps its place for longer than its lease.
            await lab.told(job)
            await lab.runs.ended(job)
            async with lab.answers() as heard:
                async with asyncio.timeout(LEASE_S * 5):
                    for _ in range(5):
                        assert (await heard.get())[2] == b"+WPI"
            entry = await lab.client.agents.get(agent.agent_id)
            assert entry is not None
            assert entry.holds == (str(job),)
            proxy.heal()
            record = await lab.ended(job)
            assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
            assert exact(await lab.output(job))
            await lab.nothing_left()


async def test_an_engine_restart_takes_the_containers_along_and_the_jobs_run_again(
    lab: Chaos, other_engine: OwnEngine
) -> None:
    agent = await lab.started("a", DOCKER_HOST=other_engine.host)
    pid = agent.pid
    job = await lab.submit(command=HOLD)
    first = await lab.running(job)
    await lab.said(job, b"ready")
    await other_engine.stop()
    await other_engine.start()
    # The engine takes and refuses containers while it shuts down: that may cost attempts, and never a retry.
    record = await lab.until(job, lambda found: found.state is State.RUNNING and found.attempt > 1)
    assert (record.failures, record.interruptions) == (0, record.attempt - 1)
    assert record.container != first.container
    before = next(one for one in await lab.client.records.history(job) if one.state is State.QUEUED)
    assert before.reason is Reason.ENGINE_ERROR
    await lab.said(job, b"ready\nready")
    await other_engine.call("POST", f"/containers/{record.container}/kill?signal=USR1")
    assert (await lab.ended(job)).state is State.SUCCEEDED
    assert agent.pid == pid
    await lab.presence(lambda entry: entry is not None and not entry.holds)
    assert await other_engine.containers() == []


async def test_with_live_restore_the_container_goes_on(lab: Chaos, other_engine: OwnEngine) -> None:
    await other_engine.stop()
    await other_engine.start(live_restore=True)
    await lab.started("a", DOCKER_HOST=other_engine.host)
    job = await lab.submit(command=counting())
    first = await lab.running(job)
    await lab.said(job, b"\n10\n")
    await other_engine.stop()
    await other_engine.start(live_restore=True)
    seen = int((await lab.output(job)).split()[-1])
    await lab.said(job, f"\n{seen + 200}\n".encode())
    await other_engine.call("POST", f"/containers/{container_name(job, 1)}/kill?signal=USR1")
    record = await lab.ended(job)
    assert (record.state, record.attempt, record.container) == (State.SUCCEEDED, 1, first.container)
    # What it wrote while the engine was away may be lost to the engine; nothing is doubled or out of order.
    numbers = [int(line) for line in (await lab.output(job)).split()[2:-2]]
    assert numbers == sorted(set(numbers))
