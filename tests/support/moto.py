"""AWS on loopback: moto's server as a child process, with S3, SSM, Secrets Manager and the rest.

What it holds is in its memory, and gone with it.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Self

from tests.support.server_process import ServerProcess

START_LIMIT_S = 30.0
REGION = "eu-central-1"

_LISTENING = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


class MotoServer:
    """One server; tests that share it keep apart by unique names."""

    def __init__(self) -> None:
        self.url = ""
        """What an endpoint's address is."""
        self._server = ServerProcess("moto", self._hear, start_limit_s=START_LIMIT_S)

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
        self._server.start([sys.executable, "-W", "ignore", "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
        return self

    def stop(self) -> None:
        """End the server and return once it has ended."""
        self._server.stop()

    def _hear(self, line: str) -> bool:
        found = _LISTENING.search(line)
        if found is not None:
            self.url = found[1]
        return found is not None
