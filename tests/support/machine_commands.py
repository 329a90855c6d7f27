"""The commands of a machine that is none: each one on PATH hands what it was called with to the test, which answers.

A command is one small script; what it does is decided here, in the test's process, by a function for each machine.
Invariant: a command ends with the answer, or with the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MAX_CALL_BYTES = 2**20
# Bash, because it starts in a few milliseconds and can open a connection by itself.
_SCRIPT = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 137
{{ printf '%s\\0' "$(($# + 2))" {machine} "${{0##*/}}" "$@"; }} >&3
IFS=' ' read -r code out err <&3 || exit 137
[ "$out" = 0 ] || head -c "$out" <&3
[ "$err" = 0 ] || head -c "$err" <&3 >&2
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command says, and its exit code."""

    code: int = 0
    out: str = ""
    err: str = ""


Answerer = Callable[[str, Sequence[str]], Awaitable[Said]]
"""Called with a command's name and its arguments."""


class Commands:
    """Serves the commands of all machines on one port."""

    def __init__(self) -> None:
        self._port = 0
        self._answerers: dict[str, Answerer] = {}
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], str] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_CALL_BYTES)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for machine in list(self._answerers):
            await self.forget(machine)

    def install(self, machine: str, folder: Path, names: Sequence[str], answerer: Answerer) -> None:
        """Put the commands of this machine into `folder`."""
        self._answerers[machine] = answerer
        folder.mkdir(parents=True)
        for name in names:
            script = folder / name
            script.write_text(_SCRIPT.format(port=self._port, machine=machine))
            script.chmod(0o755)

    async def forget(self, machine: str) -> None:
        """The machine is gone: its open calls end without an answer."""
        self._answerers.pop(machine, None)
        mine = [task for task, of in self._open.items() if of == machine and task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            count = int((await reader.readuntil(b"\0"))[:-1])
            machine, name, *words = [(await reader.readuntil(b"\0"))[:-1].decode() for _ in range(count)]
            answerer = self._answerers.get(machine)
            if answerer is not None:
                self._open[task] = machine
                said = await answerer(name, words)
                out, err = said.out.encode(), said.err.encode()
                writer.write(b"%d %d %d\n" % (said.code, len(out), len(err)) + out + err)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Whoever called is gone, or the machine is; nobody awaits this task.
            return
        finally:
            self._open.pop(task, None)
            writer.close()
