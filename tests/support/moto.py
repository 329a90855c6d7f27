"""AWS on loopback: moto's server as a child process, with S3, SSM, Secrets Manager and the rest.

The invariant is that of the other servers: `start` returns once it listens, `stop` once it has ended. What it holds is
in its memory, and gone with it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from typing import IO, Any, Self

START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
REGION = "eu-central-1"

_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class MotoServer:
    """One server; tests that share it keep apart by unique names."""

    def __init__(self) -> None:
        self.url = ""
        """What an endpoint's address is."""
        self.log: deque[str] = deque(maxlen=200)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()

    @property
    def env(self) -> dict[str, str]:
        """What leads an AWS client here, as environment variables; the credentials are made up."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A plain client that blocks, to prepare what a test needs."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def start(self) -> Self:
        """Start the server on a free port and return once it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=self._read_log, args=(self._process.stderr,), name="moto-log", daemon=True
        )
        self._reader.start()
        if not self._ready.wait(START_LIMIT_S):
            self.stop()
            raise RuntimeError("moto did not start:\n" + "\n".join(list(self.log)[-10:]))
        return self

    def stop(self) -> None:
        """End the server and return once it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)
        if self._reader is not None:
            self._reader.join(STOP_LIMIT_S)
            self._reader = None

    def _read_log(self, stream: IO[str]) -> None:
        """Keep the last lines; the pipe must be emptied, or the server stops at it."""
        with stream:
            for line in stream:
                self.log.append(line.rstrip("\n"))
                found = _LISTENING.search(line)
                if found is not None:
                    self.url = found[1]
                    self._ready.set()
