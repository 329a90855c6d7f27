"""`launch metrics`: the numbers that a job reports and uses, drawn, or as CSV or JSON."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import JobArgument, JsonOption, ServerOption
from launch.cli.session import with_client

if TYPE_CHECKING:
    from launch.client import Client


def metrics(
    ctx: typer.Context,
    job: JobArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    name: Annotated[
        list[str] | None, typer.Option("--name", "-n", metavar="GLOB", help="Only values with such a name; repeatable.")
    ] = None,
    usage: Annotated[
        bool, typer.Option("--usage/--no-usage", help="Whether to show what the agent has measured, too.")
    ] = True,
    attempt: Annotated[int | None, typer.Option("--attempt", metavar="N", min=1, help="Only this attempt.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print a CSV line for each value.")] = False,
    json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """Draw what a job reports (lines `@metrics {"loss": 0.1, "step": 3}` of its output) and what it uses."""
    if csv and json:
        raise typer.BadParameter("choose one of --csv and --json")

    async def main(client: Client) -> None:
        from launch.cli import chart

        handle = client.job(job)
        printer: chart.Printer
        if json:
            printer = chart.JsonLines() if follow else chart.JsonArray()
        elif csv:
            printer = chart.Csv()
        else:
            printer = chart.live_or_plain(follow=follow)
        wanted = chart.Wanted(tuple(name or ()), usage=usage, attempt=attempt)
        with printer:
            async with aclosing(handle.metrics(follow=follow)) as points:
                async for point in points:
                    if (kept := wanted.part_of(point)) is not None:
                        printer.show(kept)
        wanted.notes(handle.id)

    with_client(ctx, server, main)
