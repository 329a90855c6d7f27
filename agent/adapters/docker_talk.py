"""What only keepers of network namespaces need of the Docker Engine: to make an image, and to talk to a process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from urllib.parse import quote

from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream
from yarl import URL

from agent.adapters.docker_link import SERVER_ERROR, EngineLink
from agent.ports import EngineError

_CONFLICT: Final = 409
_OUT: Final = 1
"""The engine's number for standard output."""


class EngineTalk(EngineLink):
    """A link that can do both."""

    async def make_image(self, reference: str, tar: bytes, labels: Mapping[str, str]) -> None:
        """Make the image `name:tag` whose root filesystem is `tar`."""
        name, _, tag = reference.rpartition(":")
        changes = [("changes", f"LABEL {key}={json.dumps(value)}") for key, value in labels.items()]
        parameters = [("fromSrc", "-"), ("repo", name), ("tag", tag), *changes]
        headers = {"Content-Type": "application/x-tar"}
        async with self._stream("make_image", "POST", "images/create", parameters, data=tar, headers=headers) as told:
            while True:
                with self._translated("make_image"):
                    line = await told.readline()
                    said = json.loads(line) if line.strip() else {}
                if "error" in said:
                    raise EngineError("make_image", SERVER_ERROR, str(said["error"]))
                if not line:
                    return

    async def talk(self, container: str, said: bytes) -> AsyncGenerator[bytes]:
        """Write to a running container's standard input; yields what it writes to its output from then on."""
        docker = self._client()

        async def setup() -> tuple[URL, None, bool]:
            found = await docker.containers.container(quote(container, safe="")).show()
            if not found["State"]["Running"]:
                # The engine would wait until it is started.
                raise DockerError(_CONFLICT, f"container {container} is not running")
            parameters = {"stream": "1", "stdin": "1", "stdout": "1"}
            return URL(f"containers/{found['Id']}/attach").with_query(parameters), None, bool(found["Config"]["Tty"])

        stream = Stream(docker, setup)
        try:
            with self._translated("talk"):
                try:
                    await stream.write_in(said)
                except AssertionError:  # aiodocker's, of a connection that has just gone
                    raise OSError("the connection broke off") from None
            while True:
                with self._translated("talk"):
                    message = await stream.read_out()
                if message is None:
                    return
                if message.stream == _OUT:
                    yield message.data
        finally:
            with contextlib.suppress(AssertionError):  # aiodocker's, where there is no connection to close
                await stream.close()
