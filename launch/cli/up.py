"""`launch up`: queues, a server if there is none, and workers as long as there is work, in one foreground process."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import DrainOption, ServerOption, seconds
from launch.cli.output import note, write
from launch.cli.session import data_dir, server_option

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from launch.ports import Broker
    from launch.server import EmbeddedServer
    from launch.service import Stop
    from launch.settings import Endpoint


def up(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="QUEUE.yaml...", help="Queue files.")],
    drain_timeout: DrainOption = "10m",
    server: ServerOption = None,
) -> None:
    """Apply queues and start and stop workers for them until told to stop."""
    import asyncio

    from launch import server as embedded
    from launch.logging import set_up_logging
    from launch.service import run_service
    from launch.specfile import load_queue

    specs = [load_queue(file) for file in files]
    drain_timeout_s = seconds(drain_timeout, "--drain-timeout")
    port = embedded.port_wanted(None, os.environ)
    chosen = server_option(ctx, server)
    set_up_logging(level=os.environ.get("LAUNCH_LOG_LEVEL", "warning"))

    async def main(stop: Stop) -> int:
        from launch.adapters.clock import SystemClock
        from launch.cli.queue import applied
        from launch.cli.status import Status
        from launch.client import Client
        from scaler.main import run

        home = data_dir()
        async with connected(chosen, home, port) as (broker, url, handle):
            client = Client(broker)
            for spec in specs:
                for line in await applied(client, spec):
                    write(line)
            names = [spec.queue_name for spec in specs]
            label = "queue" if len(names) == 1 else "queues"
            async with asyncio.TaskGroup() as group:
                status = Status(client, names)
                beside = [group.create_task(status.run(), name="status")]
                if handle is not None:
                    beside.append(group.create_task(_guard(handle), name="nats-server"))
                status.say(f"ready: {url.rpartition('@')[2]}, {label} {', '.join(names)}")
                await run(
                    broker,
                    queues=names,
                    data_dir=home,
                    server_url=url,
                    clock=SystemClock(),
                    stop=stop.drain,
                    abort=stop.abort,
                    drain_timeout_s=drain_timeout_s,
                    on_event=status.say,
                )
                for task in beside:
                    task.cancel()
        note("stopped")
        return 0

    drains = f"waiting up to {drain_timeout} for running jobs"
    raise typer.Exit(run_service(main, drains=drains, leaves="leaving running containers to the next start"))


@dataclass(frozen=True, slots=True)
class _Joined:
    """Which server was found, and our hold on it if it is the embedded one."""

    found: Endpoint
    handle: EmbeddedServer | None


@asynccontextmanager
async def connected(
    chosen: str | None, home: Path, port: int
) -> AsyncGenerator[tuple[Broker, str, EmbeddedServer | None]]:
    """A broker, its address, and the embedded server if that is what it is; that one is let go of at the end."""
    import asyncio

    from launch.adapters import nats

    joined = await _join(chosen, home, port)
    try:
        broker = await nats.connect(joined.found.url, name="launch-up", credentials=joined.found.credentials)
        try:
            yield broker, joined.found.url, joined.handle
        finally:
            await broker.close()
    finally:
        if joined.handle is not None and not await asyncio.to_thread(joined.handle.stop):
            note(f"the nats-server at {joined.found.url} goes on: another process uses it")


async def _join(chosen: str | None, home: Path, port: int) -> _Joined:
    """The server that the user named; else the one that listens at the usual address; else an embedded one."""
    import asyncio
    from dataclasses import replace

    from launch import server as embedded
    from launch import settings
    from launch.client import usable

    running = await asyncio.to_thread(embedded.find_running, home)
    found = usable(settings.find_server(chosen, os.environ, embedded_url=running.url if running else None))
    if found.named:
        return _Joined(found, None)
    # Who says where the embedded server is to listen wants that one, whatever else listens at the usual address.
    if running is None and not os.environ.get("LAUNCH_SERVER_PORT") and await _is_nats("127.0.0.1", port):
        return _Joined(found, None)
    handle = await asyncio.to_thread(embedded.start, home, port=port)
    if handle.started_here:
        note(f"no NATS server found: started one at {handle.info.url}, with its data in {home}")
    login = found.credentials or settings.admin_login(home)
    return _Joined(replace(found, url=handle.info.url, credentials=login), handle)


async def _is_nats(host: str, port: int) -> bool:
    """Whether a NATS server greets there; anything else at the port is for the start of ours to complain about."""
    import asyncio

    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return (await reader.read(5)).startswith(b"INFO")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def _guard(handle: EmbeddedServer) -> None:
    """Without its server this process is of no use: say so and end, rather than wait for a connection for ever."""
    from launch.cli.server import until_ended
    from launch.errors import ServerError

    await until_ended(handle)
    raise ServerError(
        "the embedded nats-server ended by itself", hint=f"see {data_dir() / 'nats-server.log'}, and start again"
    )
