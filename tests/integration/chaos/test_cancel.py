"""A cancel reaches a job that says nothing, at once, and one that does not listen, in the end."""

from __future__ import annotations

import time

import pytest

from launch.core.states import Reason, State
from tests.integration.chaos.lab import LEASE_S, Chaos

pytestmark = [pytest.mark.docker, pytest.mark.nats]

SILENT = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
GRACE_S = 2
SIGTERM, SIGKILL = 15, 9


async def test_sigterm_soon_and_sigkill_after_the_grace(lab: Chaos) -> None:
    await lab.started("a")
    job = await lab.submit(command=SILENT, stop_grace=f"{GRACE_S}s", retries=5)
    await lab.running(job)
    run = await lab.runs.started(job)
    await lab.said(job, b"ready")
    asked_ns = time.time_ns()
    await lab.api.cancel(job)
    record = await lab.ended(job)
    assert (record.state, record.reason, record.attempt) == (State.CANCELLED, Reason.CANCELLED, 1)
    await lab.runs.ended(job)
    (first, term_ns), (last, kill_ns) = run.signals[0], run.signals[-1]
    assert (first, last) == (SIGTERM, SIGKILL)
    # An announcement that was not heard would cost an ack wait and a lease.
    assert term_ns - asked_ns < LEASE_S * 1e9
    assert GRACE_S * 1e9 <= kill_ns - term_ns < (GRACE_S + 20) * 1e9
    await lab.nothing_left()


async def test_a_cancel_reaches_a_job_whose_agent_is_away_when_it_is_back(lab: Chaos) -> None:
    agent = await lab.started("a")
    job = await lab.submit(command=SILENT, stop_grace="0.2s")
    await lab.running(job)
    await agent.kill()
    await lab.api.cancel(job)
    await agent.start()
    assert (await lab.ended(job)).state is State.CANCELLED
    assert len(lab.runs.of(job)) == 1
    await lab.nothing_left()
