"""Agents as processes of their own, to be killed, frozen and started again with the same data directory.

Every process that is started here is ended here, by its own handle; nothing waits by sleeping.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from launch.adapters.nats import NatsBroker
from launch.ports import Synced

READY_LIMIT_S = 60.0
END_LIMIT_S = 60.0


@dataclass
class AgentProcess:
    """One agent by its id, over as many processes as its test gives it. What they say is appended to `log`."""

    agent_id: str
    queue: str
    url: str
    folder: Path
    broker: NatsBroker
    """A connection of the test's own, to see the agent's presence."""
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    process: Process | None = None

    @property
    def log(self) -> Path:
        """Where its stderr goes, that of every process after the other's."""
        return self.folder / f"{self.agent_id}.log"

    @property
    def pid(self) -> int:
        """The process id of the one that was started last."""
        assert self.process is not None
        return self.process.pid

    async def start(self, *, ready: bool = True) -> None:
        """Start a process; returns once its own presence is there (so it has looked after what was left behind)."""
        command = ["-m", "launch", "agent", "-q", self.queue, "--server", self.url, "--agent-id", self.agent_id]
        command += ["--data-dir", str(self.folder), *self.options]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_"))}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, "HOME": str(self.folder), "LAUNCH_LOG_FORMAT": "json", **self.env},
                start_new_session=True,
            )
        if ready:
            await self.ready()

    async def ready(self) -> None:
        """Wait until the process that was started last is present."""
        seen = asyncio.create_task(self._present(), name=f"presence of {self.agent_id}")
        assert self.process is not None
        ended = asyncio.create_task(self.process.wait(), name=f"end of {self.agent_id}")
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                await asyncio.wait({seen, ended}, return_when=asyncio.FIRST_COMPLETED)
            assert seen.done(), f"{self.agent_id} ended with {self.process.returncode}: {self.said()[-2000:]}"
            await seen
        finally:
            for task in (seen, ended):
                task.cancel()
            await asyncio.wait({seen, ended})

    async def _present(self) -> None:
        async with aclosing(self.broker.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced) or change.key != self.agent_id or change.value is None:
                    continue
                if change.value.labels["pid"] == str(self.pid):
                    return
        raise AssertionError("the watch ended")

    def said(self) -> str:
        """All that its processes have said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process where it stands (SIGSTOP): its connections stay, and nothing is heard of it."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End the process without a word (SIGKILL)."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self.process is not None
        async with asyncio.timeout(END_LIMIT_S):
            return await self.process.wait()
