"""One process on this machine that may outlive the scaler.

Invariant: a signal never reaches another process that got the same pid, and an exit is an event, for a process that an
earlier scaler started too. Both rest on pidfds (Linux).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TOLERANCE_S = 1.5
"""How much the start time of a process may seem to move when the machine's clock is set."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process as the system knows it."""

    pid: int
    created: float


def spawn(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Found]:
    """Start a process of its own session, with its output in `log`. Blocks for a moment. Raises `OSError`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        created = psutil.Process(process.pid).create_time()
    except psutil.Error:
        created = 0.0
    return process, Found(process.pid, created)


def find(marks: Sequence[str], known: Found | None) -> Found | None:
    """The process whose arguments contain `marks` in a row: the `known` one, or any. None if it doesn't run. Blocks.

    One that is only just being started has no arguments yet: the known one is then known by its start time alone.
    """
    for pid in psutil.pids() if known is None else [known.pid]:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            created = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if known is not None and abs(created - known.created) > START_TOLERANCE_S:
                continue
            arguments = process.cmdline()
            if _contains(arguments, marks) or (known is not None and not arguments):
                return Found(pid, created)
    return None


def _contains(words: Sequence[str], marks: Sequence[str]) -> bool:
    return any(list(words[at : at + len(marks)]) == list(marks) for at in range(len(words)))


class AgentProcess:
    """A running process, watched until it ends: then `exited` is set, and `on_exit` is called with its exit code.

    The code is known only of a process that this scaler started itself (None otherwise). Raises `ProcessLookupError`
    if there is no such process any more.
    """

    def __init__(
        self, found: Found, child: subprocess.Popen[bytes] | None, *, on_exit: Callable[[int | None], None]
    ) -> None:
        self.pid = found.pid
        self.exited = asyncio.Event()
        self._child = child
        self._on_exit = on_exit
        self._fd: int | None = os.pidfd_open(found.pid)
        asyncio.get_running_loop().add_reader(self._fd, self._ended)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; no error if it has ended."""
        if self._fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def release(self) -> None:
        """Watch it no more; it goes on."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
        if self._child is not None and self._child.returncode is None:
            # Python warns of a child that is dropped while it runs; this one is meant to stay.
            self._child.returncode = 0

    def _ended(self) -> None:
        returncode = self._child.wait() if self._child is not None else None  # Returns at once: it only reaps.
        self.release()
        self.exited.set()
        self._on_exit(returncode)
