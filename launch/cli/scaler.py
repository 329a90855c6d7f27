"""`launch scaler`: starts and stops workers by the queues' lag."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import DataDirOption, DrainOption, ServerOption, named, seconds
from launch.cli.output import write
from launch.cli.session import data_dir as default_data_dir
from launch.cli.session import endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from launch.service import Stop
    from launch.settings import Endpoint


def scaler(
    ctx: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="QUEUE", callback=named, help="Scale only this queue; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done now, with the reasons, and touch nothing.")
    ] = False,
    data_dir: DataDirOption = None,
    drain_timeout: DrainOption = "10m",
    server: ServerOption = None,
) -> None:
    """Scale queues (all of them unless some are named) until told to stop."""
    from launch.logging import set_up_logging
    from launch.service import run_service

    drain_timeout_s = seconds(drain_timeout, "--drain-timeout")
    found = endpoint(ctx, server)
    home = default_data_dir(data_dir)
    if dry_run:
        set_up_logging(level=os.environ.get("LAUNCH_LOG_LEVEL", "warning"))
        import asyncio

        raise typer.Exit(asyncio.run(_dry_run(found, queue, home)))
    set_up_logging()

    async def main(stop: Stop) -> int:
        from launch.adapters import nats
        from launch.adapters.clock import SystemClock
        from scaler.main import run

        broker = await nats.connect(found.url, name="launch-scaler", credentials=found.credentials)
        try:
            write(f"ready: {found.url.rpartition('@')[2]}, {', '.join(queue) if queue else 'every queue'}")
            await run(
                broker,
                queues=queue or None,
                data_dir=home,
                server_url=found.url,
                clock=SystemClock(),
                stop=stop.drain,
                abort=stop.abort,
                drain_timeout_s=drain_timeout_s,
                on_event=write,
            )
        finally:
            await broker.close()
        return 0

    drains = f"waiting up to {drain_timeout} for the agents on this machine"
    raise typer.Exit(run_service(main, drains=drains, leaves="telling them to leave now"))


async def _dry_run(found: Endpoint, queues: list[str] | None, home: Path) -> int:
    """Print what the scaler would do."""
    from launch.adapters import nats
    from launch.adapters.clock import SystemClock
    from launch.queue import QueueSpec
    from scaler.dryrun import dry_run
    from scaler.main import provider_for
    from scaler.ports import Provider

    broker = await nats.connect(found.url, name="launch-scaler-dry-run", credentials=found.credentials)
    clock = SystemClock()

    async def look(spec: QueueSpec) -> Provider:
        return await provider_for(
            spec, broker.documents, data_dir=home, server_url=found.url, clock=clock, only_look=True
        )

    try:
        for line in await dry_run(broker, queues=queues or None, clock=clock, open_provider=look):
            write(line)
    finally:
        await broker.close()
    return 0
