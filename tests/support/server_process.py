"""A server as a child process: started until it says that it is ready, ended by its own handle, its last lines kept.

The invariant: `start` returns only once the server is ready, `stop` only once it has ended, so that no test sleeps for
either.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO

STOP_LIMIT_S = 10.0
KEPT_LINES = 500


class ServerProcess:
    """One server, at most one process of it at a time. The calls block, on an idle machine hardly."""

    def __init__(self, name: str, hear: Callable[[str], bool], *, start_limit_s: float) -> None:
        """`hear` gets each line that the server writes to stderr, and is True of one that says that it is ready."""
        self.log: deque[str] = deque(maxlen=KEPT_LINES)
        self._name = name
        self._hear = hear
        self._start_limit_s = start_limit_s
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = False
        self._known = threading.Event()
        """Whether it is ready, or has ended before it was."""

    @property
    def pid(self) -> int | None:
        """The process id; None if there is no process."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, command: Sequence[str]) -> None:
        """Start it and return once it is ready. Raises `RuntimeError` with its last lines if that takes too long."""
        self._ready = False
        self._known.clear()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=self._read_log, args=(self._process.stderr,), name=f"{self._name}-log", daemon=True
        )
        self._reader.start()
        if not self._known.wait(self._start_limit_s) or not self._ready:
            self.stop(kill=True)
            raise RuntimeError(f"{self._name} did not start:\n" + "\n".join(list(self.log)[-10:]))

    def stop(self, *, kill: bool = False) -> None:
        """End it and return once it has ended; `kill` takes it away without a goodbye. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)
        if self._reader is not None:
            self._reader.join(STOP_LIMIT_S)
            self._reader = None

    def _read_log(self, stream: IO[str]) -> None:
        """Empty the pipe, or the server stops at it; say when it is ready, or has ended before it was."""
        with stream:
            for line in stream:
                self.log.append(line.rstrip("\n"))
                if self._hear(line):
                    self._ready = True
                    self._known.set()
        self._known.set()
