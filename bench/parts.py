"""What every measurement needs: a nats-server, an image, and an agent as its own process.

Everything that is started here ends with the `with` block that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from bench.engine import SOCKET
from launch.adapters.nats import NatsBroker, connect
from launch.ports import Synced
from launch.presence import AgentPresence
from launch.queue import QueueSpec, StaticProvider
from tests.support.images import ensure_busybox
from tests.support.nats_server import NatsServer

READY_S = 30.0
AGENT_LOG = Path("build/bench/agent.log")


@contextlib.contextmanager
def nats_server() -> Iterator[str]:
    """A real nats-server with an empty store; yields its address."""
    with TemporaryDirectory() as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


@contextlib.asynccontextmanager
async def broker(url: str) -> AsyncIterator[NatsBroker]:
    """A connection of the measuring side."""
    link = await connect(url, name="bench")
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def agent(
    link: NatsBroker,
    url: str,
    queue: str,
    *,
    max_jobs: int,
    engine: Path | None = None,
    policy: Path | None = None,
    more: Sequence[str] = (),
) -> AsyncIterator[int]:
    """A queue and an agent for it, as a process of its own; yields its pid once it takes work.

    `engine` is the socket that it reaches the engine by, if not the engine's own; `policy` its `agent.yaml`, `more`
    what else is on its command line. What it says is in `AGENT_LOG`.
    """
    await link.queues.apply(QueueSpec(queue_name=queue, provider=StaticProvider()))
    with TemporaryDirectory() as folder, _log() as log:
        command = ["-m", "launch", "agent", "--queue", queue, "--data-dir", folder, "--server", url]
        command += ["--max-jobs", str(max_jobs), *more]
        if policy is not None:
            command += ["--policy", str(policy)]
        surroundings = {**os.environ, "DOCKER_HOST": f"unix://{engine or SOCKET}"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=log, stderr=log, env=surroundings
        )
        try:
            async with asyncio.timeout(READY_S):
                await _present(link, queue)
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await process.wait()


def _log() -> IO[bytes]:
    AGENT_LOG.parent.mkdir(parents=True, exist_ok=True)
    return AGENT_LOG.open("ab")


async def _present(link: NatsBroker, queue: str) -> AgentPresence:
    async with contextlib.aclosing(link.agents.watch()) as changes:
        async for change in changes:
            if not isinstance(change, Synced) and change.value is not None and change.value.queue == queue:
                return change.value
    raise AssertionError("a watch does not end")


async def busybox() -> str:
    """The name of a small local image, built if it is not there."""
    return await asyncio.to_thread(ensure_busybox)
