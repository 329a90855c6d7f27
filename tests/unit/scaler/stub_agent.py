"""Processes that stand in for agents: they say when they are up, obey SIGTERM as an agent does, and end on command.

Invariant: none outlives its `StubAgents`: each ends when its connection does.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

STUB = """
import signal, socket, sys
path, patience, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
link = socket.socket(socket.AF_UNIX)
terms = 0
def terminate(*_):
    global terms
    terms += 1
    if terms > patience:
        sys.exit(0)
signal.signal(signal.SIGTERM, terminate)
print("stub is up", flush=True)
link.connect(path)
link.sendall(" ".join(rest).encode() + b"\\n")
code = link.recv(1)
sys.exit(code[0] if code else 0)
"""


class StubAgents:
    """The other end of every stub's connection. `socket` must be a short path."""

    def __init__(self, socket: Path) -> None:
        self.arguments: dict[str, list[str]] = {}
        """What each was started with, by agent id."""
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._links: dict[str, asyncio.StreamWriter] = {}
        self._up: dict[str, asyncio.Event] = {}

    def command(self, *, patience: int = 0) -> list[str]:
        """What starts a stub that ignores `patience` SIGTERMs before it ends on the next one."""
        return [sys.executable, "-I", "-S", "-c", STUB, str(self._socket), str(patience)]

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._meet, str(self._socket))

    async def until_up(self, agent_id: str) -> None:
        """Wait until this one runs and handles signals."""
        async with asyncio.timeout(20):
            await self._up.setdefault(agent_id, asyncio.Event()).wait()

    async def end(self, agent_id: str, code: int) -> None:
        """Have it exit by itself with this code."""
        self._links[agent_id].write(bytes([code]))
        await self._links[agent_id].drain()

    async def close(self) -> None:
        """End all."""
        if self._server is not None:
            self._server.close()
        for link in self._links.values():
            link.close()
            with suppress(ConnectionError):
                await link.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arguments = (await reader.readline()).decode().split()
        agent_id = arguments[arguments.index("--agent-id") + 1]
        self.arguments[agent_id] = arguments
        if agent_id in self._links:
            self._links[agent_id].close()  # That of a predecessor of the same name.
            await self._links[agent_id].wait_closed()
        self._links[agent_id] = writer
        self._up.setdefault(agent_id, asyncio.Event()).set()
