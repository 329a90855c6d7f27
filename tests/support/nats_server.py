"""A real nats-server as a child process: started, stopped and started again on the same port and store.

Owns one server process at a time.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Self

from tests.support.server_process import ServerProcess

START_LIMIT_S = 20.0

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
        self._config = config
        self._server = ServerProcess("nats-server", self._hear, start_limit_s=START_LIMIT_S)

    @property
    def url(self) -> str:
        """The client address, fixed by the first start."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        pid = self._server.pid
        if pid is None:
            message = "the nats-server is not running"
            raise NatsServerError(message)
        return pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._server.running

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
        try:
            self._server.start([server_binary(), "-c", str(config)])
        except RuntimeError as error:
            raise NatsServerError(str(error)) from None
        return self

    def stop(self, *, kill: bool = False) -> None:
        """End the server and return once it has ended; `kill` takes it away without a goodbye."""
        self._server.stop(kill=kill)

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start on the same port and store."""
        self.stop(kill=kill)
        self.start()

    def _hear(self, line: str) -> bool:
        """Learn the port; it is ready when it says so."""
        if match := _LISTENING.search(line):
            self.port = int(match[1])
        return "Server is ready" in line
