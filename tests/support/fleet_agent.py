"""How a machine's agent runs: as a process of the real command, as it would in its image."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.docker_run import DockerRun
from tests.support.engine import remove_containers

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AgentCall:
    """What an agent is started with: the words after `launch`, and its environment."""

    words: tuple[str, ...]
    env: dict[str, str]
    folder: Path
    run: DockerRun

    def option(self, *names: str) -> str | None:
        """The value of an option of the command, by any of its names."""
        for index, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name in names:
                return value if equals else self.words[index + 1]
        return None

    @property
    def agent_id(self) -> str:
        """The id that it was given; empty if it makes one itself."""
        return self.option("--agent-id") or ""


class RunningAgent(Protocol):
    """An agent's container, as it were."""

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    def kill(self) -> None:
        """End it without a word."""
        ...

    async def clean_up(self) -> None:
        """Once it has ended with its machine: take away what ran for it."""
        ...


StartAgent = Callable[[AgentCall], Awaitable[RunningAgent]]


class ProcessAgent:
    """The real one."""

    def __init__(self, process: Process, agent_id: str) -> None:
        self._process = process
        self._agent_id = agent_id

    async def wait(self) -> int:
        """Its exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL, to whatever it started too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def clean_up(self) -> None:
        """Its machine's engine is gone with it."""
        if self._agent_id:
            await asyncio.to_thread(remove_containers, f"launch.agent={self._agent_id}")


async def as_process(call: AgentCall) -> RunningAgent:
    """Start `python -m launch …`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_", "AWS_"))}
    with (call.folder / "agent.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "launch",
            *call.words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**kept, **call.env},
            start_new_session=True,
        )
    return ProcessAgent(process, call.agent_id)
