"""A user with a home of their own, who types `launch …`: commands run as subprocesses, outputs are read as they come.

Every process that a world starts, it ends; every wait is for output or an exit, and bounded.
"""

import json
import os
import queue as queues
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

LIMIT_S = 40.0


class Command:
    """A running command; its output is collected by threads as it comes."""

    def __init__(self, args: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._heard: queues.SimpleQueue[str | None] = queues.SimpleQueue()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            for stream, kept in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], kept: list[str]) -> None:
        with stream:
            for line in stream:
                kept.append(line.rstrip("\n"))
                self._heard.put(line)
        self._heard.put(None)

    def until(self, text: str) -> str:
        """The first line, on either stream, that holds `text` and was not passed over by an earlier `until`."""
        ended = 0
        while ended < 2:
            try:
                line = self._heard.get(timeout=LIMIT_S)
            except queues.Empty:
                break
            if line is None:
                ended += 1
            elif text in line:
                return line.rstrip("\n")
        raise AssertionError(f"never said {text!r}: {self.out} {self.err}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code, once it has ended and all its output has been read."""
        code = self.process.wait(LIMIT_S)
        for reader in self._readers:
            reader.join(LIMIT_S)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.ended()


class World:
    """A home, a data directory, and the commands run in it."""

    def __init__(self, home: Path, *, url: str | None = None) -> None:
        self.home = home
        self.data = home / "data"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_"))}
        self.env = {**kept, "HOME": str(home), "LAUNCH_DATA_DIR": str(self.data), "LAUNCH_SERVER_PORT": "0"}
        if url is not None:
            self.env["NATS_URL"] = url
        self._started: list[Command] = []

    def start(self, *args: str) -> Command:
        command = Command(args, self.env, self.home)
        self._started.append(command)
        return command

    def run(self, *args: str, code: int | None = 0) -> Command:
        """Run to the end; `code` is the exit code to insist on."""
        command = self.start(*args)
        found = command.ended()
        assert code is None or found == code, f"{args}: exit {found}\n{command.out}\n{command.err}"
        assert not any("Traceback" in line for line in command.err), command.err
        return command

    def json(self, *args: str) -> Any:
        return json.loads("\n".join(self.run(*args, "--json").out))

    def json_until(self, as_wanted: Callable[[Any], bool], *args: str) -> Any:
        """The same, asked for until it is as wanted."""
        until_s = time.monotonic() + LIMIT_S
        while not as_wanted(found := self.json(*args)):
            assert time.monotonic() < until_s, f"{args}: still {found}"
        return found

    def queue_file(self, name: str, **more: object) -> Path:
        path = self.home / f"{name}.yaml"
        keys = {"queue_name": name, "provider": {"type": "local"}, "max_instances": 1, "idle_timeout": "2s", **more}
        path.write_text(json.dumps(keys))  # JSON is YAML too
        return path

    def close(self) -> None:
        """End what is left: gently, so that agents and servers go too, then not."""
        for _ in range(2):
            for command in self._started:
                if command.process.poll() is None:
                    command.signal(signal.SIGTERM)
        for command in self._started:
            try:
                command.process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                command.kill()
            command.ended()
