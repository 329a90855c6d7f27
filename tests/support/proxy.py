"""A proxy in front of a server's port or socket: one client's connection cut, delayed or black-holed, the others' not.

The invariant: a proxy passes every byte on in order or ends the connection; it never loses one in the middle. What it
holds back in a black hole is passed on when the hole ends, as a network does whose packets are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Self

_PIECE = 64 * 1024


class Proxy:
    """Passes on connections to a port on loopback (`int`) or to a unix socket (`Path`).

    Listens likewise: on a free port, `url`, or on the socket `listen`. Runs in the test's own event loop, so a test
    must not block it.
    """

    def __init__(self, target: int | Path, *, listen: Path | None = None) -> None:
        self.port = 0
        self.delay_s = 0.0
        """How long each piece that is passed on is kept back, in both directions."""
        self._target = target
        self._listen = listen
        self._listener: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepted: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address for a NATS client."""
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        """Accept connections; later starts listen at the same address."""
        if self._listen is not None:
            self._listener = await asyncio.start_unix_server(self._accept, self._listen)
        else:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def cut(self) -> None:
        """Reset every connection and refuse new ones until the next `start`; returns once they have ended."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._writers):
            writer.transport.abort()
        self._open.set()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    async def until_quiet(self) -> None:
        """Wait until every connection has ended."""
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def black_hole(self) -> None:
        """Pass nothing on any more, and tell nobody: connections stay open, new ones are accepted."""
        self._open.clear()

    def heal(self) -> None:
        """End the black hole: what was held back is passed on."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)
        self._writers.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError):
            if isinstance(self._target, Path):
                far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            else:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far_writer)
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        for end in (writer, far_writer):
            if end is not None:
                self._writers.discard(end)
                end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._open.wait()
                writer.write(data)
                await writer.drain()
            await self._open.wait()
            # Half of a connection may end before the other: HTTP clients and servers do that.
            if writer.can_write_eof():
                writer.write_eof()
                return
        writer.transport.abort()
