"""The Docker Engine's images: which there are, pulls, removal, and the disk that they lie on."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiodocker.exceptions import DockerError

from agent.adapters.docker_answers import image_of, message_of, roots_of, space_of
from agent.adapters.docker_link import CHANGE_LIMIT_S, CONFLICT, LOOK_LIMIT_S, NOT_FOUND, SERVER_ERROR, EngineLink
from agent.core.pulls import PullMeter
from agent.core.registry_login import Credential, header_of
from agent.ports import DiskSpace, EngineError, ImageInfo, PullProgress
from launch.core.registry import registry_of

_LOGIN_HEADER: Final = "X-Registry-Auth"


class EngineImages(EngineLink):
    """The part of the `Engine` port that is about images."""

    async def image(self, reference: str) -> ImageInfo | None:
        """The image if it is present, else None."""
        try:
            with self._translated("image"):
                async with asyncio.timeout(LOOK_LIMIT_S):
                    found = await self._client().images.inspect(quote(reference, safe="/:@"))
                return image_of(found, reference)
        except EngineError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def pull(
        self, reference: str, *, login: Credential | None = None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """Fetch an image; returns when it is there. Takes as long as it takes."""
        headers = {_LOGIN_HEADER: header_of(login, registry_of(reference))} if login is not None else {}
        meter = PullMeter()
        parameters = {"fromImage": reference}
        if not {":", "@"} & set(reference.rsplit("/", 1)[-1]):
            # Without a tag the engine would fetch every tag there is.
            parameters["tag"] = "latest"
        async with self._stream("pull", "POST", "images/create", parameters, headers=headers) as content:
            while True:
                with self._translated("pull"):
                    line = await content.readline()
                    said = json.loads(line) if line.strip() else {}
                if "error" in said:
                    raise EngineError("pull", SERVER_ERROR, str(said["error"]))
                if not line:
                    break
                come = meter.feed(said)
                if come is not None and progress is not None:
                    progress(come)
        if await self.image(reference) is None:
            raise EngineError("pull", SERVER_ERROR, "the engine ended the pull, but the image is not there")

    async def remove_image(self, reference: str) -> bool:
        """Take a name from an image, and the image from the disk if that was its last; False if it is needed."""
        with self._translated("remove image"):
            path = f"images/{quote(reference, safe='/:@')}"
            async with asyncio.timeout(CHANGE_LIMIT_S), self._request("DELETE", path, {}) as reply:
                said = await reply.text()
                if reply.status == CONFLICT:
                    return False
                if not reply.ok and reply.status != NOT_FOUND:
                    raise DockerError(reply.status, message_of(said))
                return True

    async def disk(self) -> DiskSpace | None:
        """The engine's disk as it is now: its folder where this machine has that, else what the engine says."""
        with self._translated("disk"):
            async with asyncio.timeout(LOOK_LIMIT_S):
                found = await self._client().system.info()
            if self.host.startswith("unix://"):
                spaces = [space for root in roots_of(found) if (space := await asyncio.to_thread(_space, root))]
                if spaces:
                    return min(spaces, key=lambda space: space.free_bytes)
            return space_of(found)


def _space(root: str) -> DiskSpace | None:
    """The disk of a folder; None if this machine has no such folder, or may not look at it."""
    try:
        usage = shutil.disk_usage(Path(root))
    except OSError:
        return None
    return DiskSpace(usage.free, usage.total)
