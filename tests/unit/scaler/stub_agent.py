"""Processes that stand in for agents: they say when they are up, obey SIGTERM as an agent does, and end on command.

Invariant: none outlives its `StubAgents`: each ends when its connection does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

STUB = """
import select, signal, socket, sys
path, patience, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
link = socket.socket(socket.AF_UNIX)
terms = 0
def terminate(*_):
    global terms
    terms += 1
    link.sendall(b"t")
    if terms > patience:
        sys.exit(0)
# A signal that comes just before a blocking call would not be handled until that returns: so it wakes a socket.
woken, waker = socket.socketpair()
waker.setblocking(False)
signal.set_wakeup_fd(waker.fileno())
# One that comes before the arguments are told waits until they are.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.signal(signal.SIGTERM, terminate)
print("stub is up", flush=True)
link.connect(path)
link.sendall(" ".join(rest).encode() + b"\\n")
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
while link not in select.select([link, woken], [], [])[0]:
    woken.recv(64)
code = link.recv(1)
sys.exit(code[0] if code else 0)
"""


class StubAgents:
    """The other end of every stub's connection. The path must be a short one."""

    def __init__(self, path: Path) -> None:
        self.arguments: dict[str, list[str]] = {}
        """What each was started with, by agent id."""
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._links: dict[str, socket.socket] = {}
        self._all: list[socket.socket] = [self._listener]
        self._up: dict[str, asyncio.Event] = {}
        self._terms: dict[str, int] = {}
        self._heard = asyncio.Event()

    def command(self, *, patience: int = 0) -> list[str]:
        """What starts a stub that ignores `patience` SIGTERMs before it ends on the next one."""
        return [sys.executable, "-I", "-S", "-c", STUB, str(self._path), str(patience)]

    async def start(self) -> None:
        """Listen."""
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._meet)

    async def until_up(self, agent_id: str) -> None:
        """Wait until this one runs and handles signals."""
        async with asyncio.timeout(20):
            await self._up.setdefault(agent_id, asyncio.Event()).wait()

    async def until_terms(self, agent_id: str, count: int) -> None:
        """Wait until this one, which is up, has handled so many SIGTERMs.

        A signal sent while one of its kind is still pending is lost.
        """
        async with asyncio.timeout(20):
            while self._terms[agent_id] < count:
                self._heard.clear()
                await self._heard.wait()

    async def end(self, agent_id: str, code: int) -> None:
        """Have it exit by itself with this code."""
        await asyncio.get_running_loop().sock_sendall(self._links[agent_id], bytes([code]))

    async def close(self) -> None:
        """End all, those that have not connected yet included."""
        loop = asyncio.get_running_loop()
        for link in self._all:
            loop.remove_reader(link)
            link.close()

    def _meet(self) -> None:
        """A stub connects: kept at once, so that none can get lost whatever the test does next."""
        link, _ = self._listener.accept()
        link.setblocking(False)
        self._all.append(link)
        asyncio.get_running_loop().add_reader(link, self._hear, link, bytearray())

    def _hear(self, link: socket.socket, said: bytearray) -> None:
        """Its arguments in a line, then a byte for every SIGTERM."""
        try:
            piece = link.recv(65536)
        except ConnectionResetError:  # Killed before it read what it was told.
            piece = b""
        if not piece:
            asyncio.get_running_loop().remove_reader(link)
            return
        said += piece
        line, told, terms = said.partition(b"\n")
        if not told:
            return
        arguments = line.decode().split()
        agent_id = arguments[arguments.index("--agent-id") + 1]
        self.arguments[agent_id] = arguments
        self._links[agent_id] = link
        self._terms[agent_id] = len(terms)
        self._heard.set()
        self._up.setdefault(agent_id, asyncio.Event()).set()
