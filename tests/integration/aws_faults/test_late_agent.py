"""An agent that comes at the last moment, when its instance's end is decided already, and takes a job."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.aws_faults.runs import hurried
from tests.integration.aws_faults.scenario import Burst, Scenario
from tests.integration.aws_faults.world import World
from tests.support.aws_proxy import Regions
from tests.support.ec2_faults import Faults
from tests.support.fleet_agent import AgentCall, RunningAgent
from tests.support.moto import REGION, MotoServer
from tests.support.quick_agents import QuickAgent

pytestmark = [
    pytest.mark.nats,
    pytest.mark.slow,
    # Connections whose server is killed under them are left to the garbage collector by the vendor's client.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning"),
]
SCENARIO = Scenario(1, Faults(), (0.0, 0.0), 1, (Burst(0.0, 1, 2.0),), ())


async def test_a_late_agent_that_took_a_job_is_not_ended(moto_server: MotoServer, tmp_path: Path) -> None:
    """It registers while the console of its instance is read, of which its end waits for."""
    gate, watching = asyncio.Event(), list[asyncio.Task[None]]()
    async with Regions() as regions:
        with hurried(regions.url):
            world = World(SCENARIO, tmp_path / "w", regions, REGION, moto_server.url)
            late = world.agents.start

            async def start(call: AgentCall) -> RunningAgent:
                await world.proxy.until(lambda: world.proxy.counts["GetConsoleOutput"] > 0)
                agent = await late(call)
                watching.append(asyncio.create_task(_once_busy(world.agents.by_id[call.agent_id], gate)))
                return agent

            world.agents.start = start  # type: ignore[method-assign]
            world.proxy.gates["GetConsoleOutput"] = gate
            verdict = await world.run()
    assert verdict.violations == []
    assert len(watching) == 1


async def _once_busy(agent: QuickAgent, gate: asyncio.Event) -> None:
    while not agent.holds:  # noqa: ASYNC110 - what an agent holds is asked, not told
        await asyncio.sleep(0.02)
    gate.set()
