"""Agents for machines by the dozen: the real agent's code and a real connection, with containers in memory.

Each runs in the test's own process and starts in milliseconds. A job's container runs for as many seconds as its
command says: `run 0.3`. Killed, it falls silent in the middle of whatever it does, as a process does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from agent.main import Agent
from agent.settings import AgentSettings
from launch.adapters.clock import SystemClock
from launch.adapters.nats import connect
from launch.errors import LaunchError
from tests.fakes.engine import FakeEngine, Script
from tests.support.fleet_agent import AgentCall, RunningAgent
from tests.support.proxy import Proxy

IMAGE = "job"
KILLED, FAILED = 137, 1


def command(seconds: float) -> list[str]:
    """What makes a job take so long."""
    return ["run", str(seconds)]


class TimedEngine(FakeEngine):
    """Its containers run for as long as their commands say."""

    def __init__(self) -> None:
        super().__init__(images=[IMAGE], clock=SystemClock())

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """A container that runs on."""
        self.scripts[tuple(config.get("Cmd") or ())] = Script(hold=True)
        return await super().create(name, config)

    async def start(self, container: str) -> None:
        """It ends by itself."""
        await super().start(container)
        seconds = float(self.containers[container].config["Cmd"][1])
        asyncio.get_running_loop().call_later(seconds, self._end, container)

    def _end(self, container: str) -> None:
        found = self.containers.get(container)
        if found is not None and found.state == "running":
            self.exit(container, 0)


class QuickAgent:
    """One agent, from its start to its end."""

    def __init__(self, call: AgentCall, *, presence_ttl_s: float, ack_wait_s: float) -> None:
        self._call = call
        self._ttl_s = presence_ttl_s
        self._ack_wait_s = ack_wait_s
        self._agent: Agent | None = None
        self._link: Proxy | None = None
        self._killed = asyncio.Event()
        self._work = asyncio.get_running_loop().create_task(self._run(), name=f"agent {call.agent_id}")

    @property
    def holds(self) -> list[str]:
        """The jobs that it holds at this moment, whatever it has told; none if it is dead."""
        if self._agent is None or self._work.done() or self._killed.is_set():
            return []
        return [str(hold.job) for hold in self._agent._holds.all()]

    async def wait(self) -> int:
        """Its exit code."""
        try:
            return await asyncio.shield(self._work)
        except asyncio.CancelledError:
            if self._work.cancelled():
                return KILLED
            raise

    def kill(self) -> None:
        """No more words from now on."""
        self._killed.set()

    async def clean_up(self) -> None:
        """What it ran was in its own memory."""

    async def _run(self) -> int:
        work = asyncio.get_running_loop().create_task(self._agent_life(), name=f"life of {self._call.agent_id}")
        killed = asyncio.get_running_loop().create_task(self._killed.wait())
        await asyncio.wait({work, killed}, return_when=asyncio.FIRST_COMPLETED)
        if self._killed.is_set() and self._link is not None:
            await self._link.cut()
        for task in (work, killed):
            task.cancel()
        await asyncio.wait({work, killed})
        if self._link is not None:
            await self._link.cut()
        if work.cancelled():
            return KILLED
        return FAILED if work.exception() is not None else work.result()

    async def _agent_life(self) -> int:
        call = self._call
        server = urlsplit(call.option("--server", "-s") or "")
        self._link = await Proxy(server.port or 4222).start()
        try:
            broker = await connect(self._link.url, name=f"agent {call.agent_id}", ack_wait_s=self._ack_wait_s)
        except LaunchError:
            return FAILED
        try:
            queue = call.option("--queue", "-q") or ""
            spec, engine = await broker.queues.get(queue), TimedEngine()
            settings = AgentSettings(
                queue=queue,
                agent_id=call.agent_id,
                instance=call.option("--instance"),
                data_dir=call.folder,
                cpu_milli=2000,
                memory_bytes=4 * 2**30,
                presence_ttl_s=self._ttl_s,
            )
            info = await engine.info()
            self._agent = Agent(broker, engine, SystemClock(), settings, spec, info, call.agent_id, ())
            await self._agent.run(asyncio.Event(), asyncio.Event())
            return 0
        except LaunchError:
            return FAILED
        finally:
            if self._killed.is_set():
                await self._link.cut()
            with contextlib.suppress(LaunchError):
                await broker.close()


class QuickAgents:
    """Starts them; `start` is a `StartAgent`."""

    def __init__(self, *, presence_ttl_s: float = 2.0, ack_wait_s: float = 2.0) -> None:
        self._ttl_s = presence_ttl_s
        self._ack_wait_s = ack_wait_s
        self.by_id: dict[str, QuickAgent] = {}
        """The latest of each id."""

    async def start(self, call: AgentCall) -> RunningAgent:
        """One more."""
        made = QuickAgent(call, presence_ttl_s=self._ttl_s, ack_wait_s=self._ack_wait_s)
        self.by_id[call.agent_id] = made
        return made
