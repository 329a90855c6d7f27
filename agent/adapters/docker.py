"""The Docker Engine behind the `Engine` port, through aiodocker.

Every call has a time limit but those that are meant to last: wait, pull and following logs. The connection, and what
its errors mean, are in `docker_link.py`; images in `docker_images.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from agent.adapters.docker_answers import container_of, message_of, path_of, usage_of
from agent.adapters.docker_images import EngineImages
from agent.adapters.docker_link import CHANGE_LIMIT_S, CONFLICT, LOOK_LIMIT_S, NOT_FOUND, SERVER_ERROR
from agent.adapters.docker_talk import EngineTalk
from agent.core.container import same_attempt
from agent.core.frames import FrameParser, since_parameter
from agent.ports import (
    Container,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    LogFrame,
    PathInfo,
    Usage,
)

_NOT_MODIFIED = 304
_ADOPT_PAUSE_S = 0.05
_TTYS_KEPT = 4096
READ_AHEAD_BYTES: Final = 1024**2
"""So much of an archive is read before it is asked for (at most twice as much), so that engine and store both work."""
_STAT_HEADER = "X-Docker-Container-Path-Stat"


class DockerEngine(EngineImages, EngineTalk):
    """One engine. Connects on first use and after every break; used within one event loop."""

    def __init__(self, host: str | None = None) -> None:
        super().__init__(host)
        self._ttys: dict[str, bool] = {}
        """Which of the containers that were created here last have a terminal: their logs look otherwise."""

    async def info(self) -> EngineInfo:
        """Version and size."""
        with self._translated("info"):
            async with asyncio.timeout(LOOK_LIMIT_S):
                found = await self._client().system.info()
            machine = str(found.get("Architecture") or "")
            return EngineInfo(str(found["ServerVersion"]), int(found["NCPU"]), int(found["MemTotal"]), machine)

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container, or return the id of the one that has the name.

        The engine reserves a name some tens of milliseconds before the container can be found by it, so an earlier
        try that is still under way may have to be waited for.
        """
        with self._translated("create"):
            async with asyncio.timeout(CHANGE_LIMIT_S):
                while True:
                    try:
                        made = str((await self._client().containers.create(dict(config), name=name)).id)
                        self._ttys[made] = bool(config.get("Tty"))
                        if len(self._ttys) > _TTYS_KEPT:
                            del self._ttys[next(iter(self._ttys))]
                        return made
                    except DockerError as error:
                        if error.status != CONFLICT:
                            raise
                    if (existing := await self.inspect(name)) is not None:
                        if not same_attempt(existing.labels, config.get("Labels") or {}):
                            raise EngineError("create", CONFLICT, f"the name {name} is another container's")
                        return existing.id
                    await asyncio.sleep(_ADOPT_PAUSE_S)

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        with self._translated("rename"):
            async with asyncio.timeout(CHANGE_LIMIT_S):
                await self._container(container).rename(name)

    async def start(self, container: str) -> None:
        """Start it; no error if it runs."""
        with self._translated("start", ignore=(_NOT_MODIFIED,)):
            async with asyncio.timeout(CHANGE_LIMIT_S):
                await self._container(container).start()

    async def wait(self, container: str) -> None:
        """Return once the container does not run (any more)."""
        with self._translated("wait"):
            await self._container(container).wait()

    async def inspect(self, container: str) -> Container | None:
        """The container by id or name, or None if there is none."""
        try:
            with self._translated("inspect"):
                async with asyncio.timeout(LOOK_LIMIT_S):
                    found = await self._container(container).show()
                return container_of(found)
        except EngineError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry these labels."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        with self._translated("list"):
            async with asyncio.timeout(LOOK_LIMIT_S):
                found = await self._client().containers.list(all=True, filters=_json_labels(wanted))
        # The listing lacks exit codes; what is gone by the time it is looked at was being removed.
        seen = [await self.inspect(item.id) for item in found]
        return [container for container in seen if container is not None]

    async def signal(self, container: str, name: str) -> None:
        """Send a signal; no error if the container does not run, or is gone."""
        with self._translated("signal", ignore=(NOT_FOUND, CONFLICT)):
            async with asyncio.timeout(LOOK_LIMIT_S):
                await self._container(container).kill(signal=name)

    async def remove(self, container: str) -> None:
        """Remove it with its anonymous volumes, killing it if it runs; no error if it is gone or going."""
        with self._translated("remove", ignore=(NOT_FOUND, CONFLICT)):
            async with asyncio.timeout(CHANGE_LIMIT_S):
                await self._container(container).delete(force=True, v=True)

    async def logs(
        self, container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        """Frames from `since` on; with `follow` until the container stops. Closing it closes the connection."""
        tty = self._ttys.get(container)
        if tty is None:
            present = await self.inspect(container)
            if present is None:
                raise EngineError("logs", NOT_FOUND, f"No such container: {container}")
            container, tty = present.id, present.tty
        parameters = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        if since is not None:
            parameters["since"] = since_parameter(since)
        if tail is not None:
            parameters["tail"] = str(tail)
        parser = FrameParser(tty=tty)
        # aiodocker's own log() merges the two sources and leaks its connection when it is left early.
        # Whoever follows looks whether the container still runs when the stream ends; whoever reads to the end can't.
        path = f"containers/{container}/logs"
        async with self._stream("logs", "GET", path, parameters, unframed=follow) as content:
            while True:
                with self._translated("logs"):
                    data = await content.readany()
                for frame in parser.feed(data) if data else parser.end():
                    yield frame
                if parser.error is not None:
                    raise EngineError("logs", SERVER_ERROR, parser.error)
                if not data:
                    return

    async def stat(self, container: str, path: str) -> PathInfo | None:
        """A path in the container, running or not; None if it, or the container, is not there."""
        with self._translated("stat"):
            async with (
                asyncio.timeout(LOOK_LIMIT_S),
                self._request("HEAD", _archive(container), {"path": path}) as reply,
            ):
                if reply.status == NOT_FOUND:
                    return None
                if not reply.ok:
                    raise DockerError(reply.status, f"{path}: {reply.reason}")
                return path_of(reply.headers[_STAT_HEADER])

    async def put(self, container: str, path: str, tar: AsyncIterable[bytes]) -> None:
        """Unpack a tar, gzipped or not, into an existing folder of the container. Streams: memory stays flat.

        Takes as long as `tar` does; the engine itself gets `CHANGE_LIMIT_S` for each piece.
        """
        trouble: list[Exception] = []
        loop = asyncio.get_running_loop()

        async def body() -> AsyncIterator[bytes]:
            pieces = aiter(tar)
            while True:
                limit.reschedule(None)
                try:
                    piece = await anext(pieces, None)
                except Exception as error:
                    trouble.append(error)
                    raise
                limit.reschedule(loop.time() + CHANGE_LIMIT_S)
                if piece is None:
                    return
                yield piece

        try:
            with self._translated("put"):
                async with asyncio.timeout(CHANGE_LIMIT_S) as limit:
                    # Asked first whether it will take it, the engine can refuse without closing on what is under way.
                    asked = self._request("PUT", _archive(container), {"path": path}, data=body(), expect100=True)
                    async with asked as reply:
                        said = await reply.text()
                        if not reply.ok:
                            raise DockerError(reply.status, message_of(said))
        except (EngineError, EngineUnavailable):
            if trouble:
                raise trouble[0] from None
            raise

    async def get(self, container: str, path: str) -> AsyncGenerator[bytes]:
        """A file or folder of the container as a tar, its own base name the first entry. Status 404 if absent."""
        asked = self._stream("get", "GET", _archive(container), {"path": path}, read_bufsize=READ_AHEAD_BYTES)
        async with asked as content:
            while True:
                with self._translated("get"):
                    async with asyncio.timeout(CHANGE_LIMIT_S):
                        data = await content.readany()
                if not data:
                    return
                yield data

    async def usage(self, container: str) -> Usage | None:
        """What the container has used so far; None if it does not run."""
        parameters = {"stream": "false", "one-shot": "true"}
        path = f"containers/{quote(container, safe='')}/stats"
        with self._translated("usage"):
            async with asyncio.timeout(LOOK_LIMIT_S), self._request("GET", path, parameters) as reply:
                said = await reply.text()
                if not reply.ok:
                    raise DockerError(reply.status, message_of(said))
                return usage_of(json.loads(said)) if said.strip() else None  # it ended while it was looked at

    def _container(self, container: str) -> DockerContainer:
        return self._client().containers.container(quote(container, safe=""))


def _archive(container: str) -> str:
    return f"containers/{quote(container, safe='')}/archive"


def _json_labels(wanted: list[str]) -> str:
    return json.dumps({"label": wanted})
