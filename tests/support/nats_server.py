"""A real nats-server as a child process: started, stopped and started again on the same port and store.

Owns one server process at a time. The invariant: `start` returns only once the server accepts clients, and `stop`
only once the process has ended, so that no test sleeps for either. The server is ended by its own process handle.
"""

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, Self

START_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0

_LISTENING = re.compile(r"Listening for client connections on \S+?:(\d+)")


class NatsServerError(RuntimeError):
    """The server could not be found, or did not start or stop in time; carries the end of its log."""


def server_binary() -> str:
    """Return the path of the nats-server that the `embedded` extra installed, or of one on PATH."""
    beside_python = Path(sys.executable).with_name("nats-server")
    if beside_python.is_file():
        return str(beside_python)
    on_path = shutil.which("nats-server")
    if on_path is None:
        message = "no nats-server found: install the embedded extra (make setup)"
        raise NatsServerError(message)
    return on_path


class NatsServer:
    """One nats-server on loopback with JetStream in `store`.

    The first start takes a free port; later starts take the same one, so a client that reconnects finds it again.
    The calls block, for a few hundredths of a second on an idle machine.
    """

    def __init__(self, store: Path, *, config: str = "") -> None:
        """Remember where to keep data; `config` is added to the generated configuration file as it is."""
        self.store = store
        self.port = -1
        self.log: deque[str] = deque(maxlen=500)
        self._config = config
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        """The client address, fixed by the first start."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            message = "the nats-server is not running"
            raise NatsServerError(message)
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return once it accepts clients."""
        if self.running:
            return self
        self.store.mkdir(parents=True, exist_ok=True)
        config = self.store / "nats-server.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            # Streams reserve what they may grow to; the default, a share of the free disk, is soon spent by queues.
            f'jetstream {{ store_dir: "{self.store / "data"}", max_file_store: 10TB }}\n'
            f"{self._config}\n"
        )
        self._ready.clear()
        self._process = subprocess.Popen(
            [server_binary(), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=self._read_log, args=(self._process.stderr,), name="nats-server-log", daemon=True
        )
        self._reader.start()
        if not self._ready.wait(START_LIMIT_S) or self._process.poll() is not None:
            self.stop(kill=True)
            message = "nats-server did not start:\n" + "\n".join(list(self.log)[-10:])
            raise NatsServerError(message)
        return self

    def stop(self, *, kill: bool = False) -> None:
        """End the server and return once it has ended; `kill` takes it away without a goodbye."""
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

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start on the same port and store."""
        self.stop(kill=kill)
        self.start()

    def _read_log(self, stream: IO[str]) -> None:
        """Keep the last lines; learn the port; say when the server is ready, or has ended before it was."""
        with stream:
            for line in stream:
                self.log.append(line.rstrip("\n"))
                if match := _LISTENING.search(line):
                    self.port = int(match[1])
                if "Server is ready" in line:
                    self._ready.set()
        self._ready.set()
