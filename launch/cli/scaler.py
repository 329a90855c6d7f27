"""`launch scaler`: starts and stops workers by the queues' lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import DataDirOption, DrainOption, ServerOption, named, seconds
from launch.cli.output import write
from launch.cli.session import data_dir as default_data_dir
from launch.cli.session import endpoint

if TYPE_CHECKING:
    from launch.service import Stop


def scaler(
    ctx: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", metavar="QUEUE", callback=named, help="Scale only this queue; repeatable."),
    ] = None,
    data_dir: DataDirOption = None,
    drain_timeout: DrainOption = "10m",
    server: ServerOption = None,
) -> None:
    """Scale queues (all of them unless some are named) until told to stop."""
    from launch.logging import set_up_logging
    from launch.service import run_service

    drain_timeout_s = seconds(drain_timeout, "--drain-timeout")
    set_up_logging()
    found = endpoint(ctx, server)
    home = default_data_dir(data_dir)

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
