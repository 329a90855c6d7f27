"""The engine with nothing in between: its socket, its own account of what happened when, and lives of bare containers.

What a life is: create with the very body that the agent sends, start, wait, remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from agent.core.container import ContainerPolicy, container_config
from launch.job import JobSpec
from launch.subjects import JobId

API = "http://docker/v1.41"
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


@contextlib.asynccontextmanager
async def engine_socket() -> AsyncIterator[aiohttp.ClientSession]:
    """The engine's HTTP API with nothing in between."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(SOCKET, limit=0)) as session:
        yield session


class Events:
    """When what happened to which container, by the engine's own clock: nanoseconds since the epoch."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], asyncio.Future[int]] = {}

    def of(self, action: str, name: str) -> asyncio.Future[int]:
        """The moment at which a container of this name had `create`, `start`, `die` or `destroy`, once it has come."""
        return self._at.setdefault((action, name), asyncio.get_running_loop().create_future())

    async def follow(self, session: aiohttp.ClientSession, ready: asyncio.Event) -> None:
        """Take in the engine's events until cancelled."""
        filters = json.dumps({"type": ["container"], "event": ["create", "start", "die", "destroy"]})
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(f"{API}/events", params={"filters": filters}, timeout=timeout) as events:
            ready.set()
            async for line in events.content:
                event = json.loads(line)
                moment = self.of(event["Action"], event["Actor"]["Attributes"]["name"])
                if not moment.done():
                    moment.set_result(int(event["timeNano"]))


@contextlib.asynccontextmanager
async def engine_events(session: aiohttp.ClientSession) -> AsyncIterator[Events]:
    """The engine's events within this block."""
    events = Events()
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(events.follow(session, ready), name="engine events")
        await ready.wait()
        try:
            yield events
        finally:
            following.cancel()


class Bare:
    """Containers as the agent makes them, by plain requests."""

    def __init__(self, session: aiohttp.ClientSession, spec: JobSpec, *, after: int = 0) -> None:
        """`after` is the number that its names count on from."""
        self._session = session
        self._spec = spec
        self._made = after

    async def create(self) -> tuple[str, str]:
        """A container's name and id."""
        self._made += 1
        name = f"launch-bench-{os.getpid()}-{self._made}"
        job, policy = JobId("bench-bare", self._made), ContainerPolicy()
        body = container_config(self._spec, job, 1, "bench", "", policy, (), env={})
        self.changed(name, body)
        answer = await self._post("containers/create", json=body, params={"name": name})
        return name, str(answer["Id"])

    def changed(self, name: str, body: dict[str, Any]) -> None:
        """What another kind of life has otherwise in its body; nothing here."""

    async def start(self, container: str) -> None:
        """Start it."""
        await self._post(f"containers/{container}/start")

    async def wait(self, container: str) -> None:
        """Return once it has exited."""
        await self._post(f"containers/{container}/wait")

    async def remove(self, container: str) -> None:
        """Remove it with its volumes, as the agent does."""
        async with self._session.delete(f"{API}/containers/{container}", params={"force": "1", "v": "1"}) as answer:
            answer.raise_for_status()

    async def life(self) -> str:
        """All of it, one after the other; its name."""
        name, container = await self.create()
        await self.start(container)
        await self.wait(container)
        await self.remove(container)
        return name

    async def _post(self, path: str, **more: Any) -> Any:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.post(f"{API}/{path}", timeout=timeout, **more) as answer:
            answer.raise_for_status()
            return await answer.json() if answer.content_type == "application/json" else None
