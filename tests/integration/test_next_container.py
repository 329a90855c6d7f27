"""On a real engine and broker: the next job has the container that was made while the last one ran."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from launch.core.states import State
from launch.subjects import LABEL_AGENT, JobId, container_name, next_container_name
from tests.integration.agent_lab import HOLD, LIMIT_S, Lab
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats]


def named(lab: Lab) -> dict[str, dict[str, Any]]:
    """This queue's containers by their names."""
    return {one["Names"][0].removeprefix("/"): one for one in lab.containers()}


async def ready(lab: Lab) -> str:
    """The id of the container that was made ahead, once the engine shows it."""
    async with asyncio.timeout(LIMIT_S):
        while (found := await lab.engine.inspect(next_container_name(lab.agent_id()))) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the engine's own events would be the longer way
        return found.id


async def begun(lab: Lab, job: JobId) -> None:
    await lab.until(job, State.RUNNING)
    await lab.said(job, b"ready")


async def test_the_next_job_has_the_container_made_ahead_and_is_adopted_and_ended_like_any_other(lab: Lab) -> None:
    async with lab.agent(max_jobs=1, container_ahead=True) as worker:
        first = await lab.submit(command=HOLD)
        await begun(lab, first)
        second = await lab.submit(command=HOLD)
        made = await ready(lab)
        assert await lab.client.records.get(second) is None
        await lab.release(first)
        await begun(lab, second)
        assert named(lab)[container_name(second, 1)]["Id"] == made
        # Nothing but its labels tells the next process how to ack it: a token from before the delivery.
        worker.abort.set()
        await worker.task
    async with lab.agent(max_jobs=1, container_ahead=True) as worker:
        third = await lab.submit(command=HOLD)
        await ready(lab)
        await lab.release(second)
        record = await lab.ended(second)
        assert (record.state, record.attempt, record.container) == (State.SUCCEEDED, 1, made)
        await begun(lab, third)
        fourth = await lab.submit(command=["true"])
        await ready(lab)
        worker.stop.set()
        await lab.release(third)
        await worker.task
        assert engine.containers(f"{LABEL_AGENT}={lab.agent_id()}") == []
        assert await lab.client.records.get(fourth) is None
        assert await lab.left() == 1
