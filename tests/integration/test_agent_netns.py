"""An agent whose policy asks for a network pool, on a real engine: its jobs have it, and nothing is left of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from launch.core.states import State
from launch.policy import AgentPolicy
from launch.subjects import LABEL_AGENT, LABEL_KEEPER, LABEL_NETNS, JobId
from tests.integration.agent_lab import HOLD, LIMIT_S, Lab
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats]

POOLED = AgentPolicy(network_pool=True)


def keepers(lab: Lab) -> set[str]:
    return {one["Id"] for one in engine.containers(f"{LABEL_AGENT}={lab.agent_id()}") if LABEL_KEEPER in one["Labels"]}


async def ready(lab: Lab) -> None:
    """Wait until a namespace is there to be joined: they are made one after the other, and this is the next one's."""
    async with asyncio.timeout(LIMIT_S):
        while len(keepers(lab)) < 2:  # noqa: ASYNC110  (the engine tells the pool alone)
            await asyncio.sleep(0.05)


async def held_alone(lab: Lab) -> tuple[JobId, dict[str, Any]]:
    """A job that runs until it is released, and its container, once nothing is left of the one before."""
    held = await lab.submit(command=HOLD)
    await lab.said(held, b"ready")
    await lab.presence(lambda one: one is not None and one.holds == (str(held),))
    [container] = lab.containers()
    return held, container


async def test_jobs_are_run_in_kept_namespaces_and_none_is_left_after_the_drain(lab: Lab) -> None:
    async with lab.agent(policy=POOLED, max_jobs=1) as worker:
        await ready(lab)
        held, container = await held_alone(lab)
        assert container["HostConfig"]["NetworkMode"] == f"container:{container['Labels'][LABEL_NETNS]}"
        assert container["Labels"][LABEL_NETNS] in keepers(lab)
        await lab.release(held)
        assert (await lab.ended(held)).state is State.SUCCEEDED
        assert (await lab.ended(await lab.submit(command=["true"]))).state is State.SUCCEEDED
        worker.stop.set()
        await worker.task
        assert keepers(lab) == set()


async def test_a_job_keeps_its_namespace_while_its_agent_is_replaced(lab: Lab) -> None:
    async with lab.agent(policy=POOLED, max_jobs=1) as worker:
        await ready(lab)
        held, container = await held_alone(lab)
        worker.abort.set()
        await worker.task
    used = container["Labels"][LABEL_NETNS]
    assert keepers(lab) == {used}
    # A policy without the pool puts away what one with it has left.
    async with lab.agent() as worker:
        await lab.presence(lambda one: one is not None and one.capacity.slots == 4)
        assert keepers(lab) == {used}
        await lab.release(held)
        record = await lab.ended(held)
        assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
        worker.stop.set()
        await worker.task
        assert keepers(lab) == set()
