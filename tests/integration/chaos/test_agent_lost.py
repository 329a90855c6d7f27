"""An agent that is gone, or only looks like it: another takes its jobs over, and the old one does no harm."""

from __future__ import annotations

import asyncio
import time

import pytest

from launch.core.states import Reason, State
from tests.integration.agent_lab import HOLD
from tests.integration.chaos.lab import LEASE_S, SLACK_S, TAKEN_OVER_S, Chaos, counting

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]


async def test_a_frozen_agents_jobs_are_taken_over_and_it_fences_them_when_it_is_back(lab: Chaos) -> None:
    old = await lab.started("old")
    runs_on, ends = await lab.submit(command=counting()), await lab.submit(command=HOLD)
    for job in (runs_on, ends):
        await lab.running(job)
        await lab.runs.started(job)
    await lab.said(ends, b"ready")
    new = await lab.started("new")
    frozen_at = time.monotonic()
    old.freeze()
    for job in (runs_on, ends):
        record = await lab.running(job, 2)
        assert record.agent == new.agent_id
        assert (record.interruptions, record.failures) == (1, 0)
    assert time.monotonic() - frozen_at < TAKEN_OVER_S + SLACK_S
    history = await lab.client.records.history(runs_on)
    taken = next(record for record in history if record.attempt == 2)
    assert (taken.state, taken.reason) == (State.PREPARING, Reason.AGENT_LOST)
    # One of the old containers ends while its agent is frozen, and says so when it is back: nobody listens any more.
    await lab.told(ends, 1)
    await lab.runs.ended(ends, 1)
    assert lab.runs.of(runs_on)[0].ended_ns == 0
    old.thaw()
    fenced = await lab.runs.ended(runs_on, 1)
    assert fenced.signals[0][0] in (15, 9)
    await lab.presence(lambda entry: entry is not None and not entry.holds, "old")
    for job in (runs_on, ends):
        assert lab.runs.of(job)[1].ended_ns == 0
        record = await lab.running(job, 2)
        await lab.said(job, b"start 2\n" if job == runs_on else b"ready\nready")
        assert record.agent == new.agent_id
        await lab.told(job, 2)
        record = await lab.ended(job)
        assert (record.state, record.attempt, record.agent) == (State.SUCCEEDED, 2, new.agent_id)
        assert [run.attempt for run in lab.runs.of(job)] == [1, 2]
    assert "fenced" in old.said()
    await lab.nothing_left()


async def test_a_dead_agents_job_is_taken_over_and_its_next_process_clears_up(lab: Chaos) -> None:
    old = await lab.started("old")
    job = await lab.submit(command=counting())
    await lab.running(job)
    new = await lab.started("new")
    await old.kill()
    killed_at = time.monotonic()
    assert (await lab.running(job, 2)).agent == new.agent_id
    assert LEASE_S / 2 < time.monotonic() - killed_at < TAKEN_OVER_S + SLACK_S
    assert lab.runs.of(job)[0].ended_ns == 0
    await old.start()
    await lab.runs.ended(job, 1)
    await lab.said(job, b"start 2\n")
    await lab.told(job, 2)
    assert (await lab.ended(job)).state is State.SUCCEEDED
    await lab.nothing_left()


async def test_an_agent_frozen_for_less_than_its_lease_keeps_its_job(lab: Chaos) -> None:
    old = await lab.started("old")
    job = await lab.submit(command=counting())
    await lab.running(job)
    await lab.started("new")
    seen = asyncio.Event()

    async def renewals() -> None:
        async with lab.answers() as heard:
            while True:
                await heard.get()
                seen.set()

    listening = asyncio.create_task(renewals())
    await seen.wait()
    await lab.renewed(old)  # so that the whole lease is before it
    old.freeze()
    seen.clear()
    await asyncio.sleep(LEASE_S / 2)  # the fault itself, not a wait for anything
    old.thaw()
    await seen.wait()
    listening.cancel()
    await lab.told(job)
    record = await lab.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert lab.runs.doubled() == []
    await lab.nothing_left()
