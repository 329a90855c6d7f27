"""`launch server`: the embedded nats-server, in the foreground."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import DataDirOption, named
from launch.cli.output import note, write
from launch.cli.session import data_dir as default_data_dir
from launch.errors import ServerError

if TYPE_CHECKING:
    import asyncio

    from launch.server import EmbeddedServer
    from launch.service import Stop


def server(
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", min=0, max=65535, help="Else LAUNCH_SERVER_PORT, or 4222.")
    ] = None,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="Give each role a key of its own, and let nobody in without one, from now on."),
    ] = False,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-q",
            metavar="QUEUE",
            callback=named,
            help="With --secure, a queue that gets a publisher, an operator and an agent of its own; repeatable. "
            "Those of earlier starts keep theirs.",
        ),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Run the embedded nats-server, with its store in the data directory, until told to stop."""
    import asyncio

    from launch import server as embedded
    from launch import server_users
    from launch.service import run_service

    home = default_data_dir(data_dir)
    wanted = embedded.port_wanted(port, os.environ)
    if queue and not secure:
        raise typer.BadParameter("is for --secure", param_hint="--queue")
    if secure:
        if embedded.find_running(home):
            raise ServerError(
                f"the server of {home} runs already", hint="end it first: it reads its users at its start"
            )
        for file in server_users.secure(home, queue or []):
            note(f"{file.stem}: NATS_NKEY={file}")

    async def main(stop: Stop) -> int:
        handle = await asyncio.to_thread(embedded.start, home, port=wanted)
        try:
            if not handle.started_here:
                note("it runs already; this command now waits beside it")
            write(f"ready: {handle.info.url}")
            ended = await stopped_or_ended(stop.drain, handle)
        finally:
            await asyncio.to_thread(handle.stop, force=handle.started_here)
        if ended:
            note("the nats-server ended by itself")
        return 1 if ended else 0

    raise typer.Exit(run_service(main, drains="ending the nats-server", leaves="ending the nats-server"))


async def stopped_or_ended(stop: asyncio.Event, handle: EmbeddedServer) -> bool:
    """Wait for either; whether the server has ended."""
    import asyncio

    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(stop.wait(), name="stop")
        watching = group.create_task(until_ended(handle), name="nats-server")
        await asyncio.wait({stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        ended = watching.done()
        stopping.cancel()
        watching.cancel()
    return ended


async def until_ended(handle: EmbeddedServer) -> None:
    """Return once the server's process has ended."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        watched = os.pidfd_open(handle.info.pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop.add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)
