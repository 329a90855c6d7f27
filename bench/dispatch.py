"""How long from publish to the agent's request to create the container, on an idle agent.

The agent reaches the engine through a relay on a socket of its own, which notes when the request comes; the container
is then really made, runs and goes, and the next job is published once the engine says that it is gone. Floor: a ping
to the same nats-server and its answer, on a connection of its own, before each publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import nats

from bench.answer import Answer, Figure, quantile
from bench.engine import SOCKET, engine_events, engine_socket
from bench.parts import agent, broker, busybox, nats_server
from launch.job import JobSpec
from launch.subjects import container_name

QUEUE = "bench-dispatch"
LIMIT_S = 30.0
WARM_UP = 5
_CREATE = re.compile(rb"POST /v[\d.]+/containers/create\?name=([\w.-]+) ")
_PIECE = 64 * 1024


class Relay:
    """Passes everything on to the engine, and notes when a container was asked for: by name, on the monotonic clock."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[float]] = {}
        self._open: set[asyncio.Task[None]] = set()

    def asked(self, name: str) -> asyncio.Future[float]:
        """The moment, once it has come."""
        return self._asked.setdefault(name, asyncio.get_running_loop().create_future())

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Accept connections within this block."""
        server = await asyncio.start_unix_server(self._accept, path)
        try:
            yield
        finally:
            server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        far_reader, far_writer = await asyncio.open_unix_connection(SOCKET)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, far_writer))
                both.create_task(self._pass_on(far_reader, writer))
        for end in (writer, far_writer):
            end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if found := _CREATE.match(piece):
                self.asked(found[1].decode()).set_result(time.monotonic())
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


async def measure(jobs: int) -> Answer:
    """Milliseconds for `jobs` jobs of `true`, one at a time, each on an idle agent."""
    body = JobSpec(image=await busybox(), command=("true",)).model_dump_json(exclude_unset=True).encode()
    took_ms: list[float] = []
    round_trips_ms: list[float] = []
    relay = Relay()
    with nats_server() as url, TemporaryDirectory() as folder:
        socket = Path(folder) / "engine.sock"
        client = await nats.connect(url)
        async with (
            relay.listening(socket),
            broker(url) as link,
            engine_socket() as session,
            engine_events(session) as events,
            agent(link, url, QUEUE, max_jobs=1, engine=socket),
        ):
            for _ in range(jobs + WARM_UP):
                before = time.monotonic()
                await client.flush()
                since = time.monotonic()
                round_trips_ms.append(1000 * (since - before))
                name = container_name((await link.jobs.publish(QUEUE, "true", body)).job, 1)
                async with asyncio.timeout(LIMIT_S):
                    took_ms.append(1000 * (await relay.asked(name) - since))
                    await events.of("destroy", name)
        await client.close()
    del took_ms[:WARM_UP], round_trips_ms[:WARM_UP]
    floor = quantile(round_trips_ms, 0.5)
    return Answer(
        "publish -> the agent's request to create the container, idle agent, one job at a time",
        [
            Figure(f"publish to create, p{share}", value, "ms", target, jobs, floor, "a ping", "value", gross=gross)
            for share, target, gross in ((50, 3.0, 60.0), (99, 15.0, None))
            for value in (quantile(took_ms, share / 100),)
        ],
        {"dispatch_ms": took_ms, "round_trip_ms": round_trips_ms},
    )
