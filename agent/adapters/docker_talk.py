"""What only keepers of network namespaces need of the Docker Engine: to make an image, and to talk to a process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from urllib.parse import quote

from agent.adapters.docker_link import SERVER_ERROR, EngineLink
from agent.ports import EngineError

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
        with self._translated("talk"):
            stream = self._client().containers.container(quote(container, safe="")).attach(stdin=True, stdout=True)
        try:
            with self._translated("talk"):
                await stream.write_in(said)
            while True:
                with self._translated("talk"):
                    message = await stream.read_out()
                if message is None:
                    return
                if message.stream == _OUT:
                    yield message.data
        finally:
            await stream.close()
