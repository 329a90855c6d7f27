"""`launch logs`: what a job has printed, and goes on printing."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import JobArgument, ServerOption
from launch.cli.session import with_client

if TYPE_CHECKING:
    from launch.client import Client


def logs(
    ctx: typer.Context,
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", metavar="N", min=1, help="Only this attempt.")] = None,
    server: ServerOption = None,
) -> None:
    """Print a job's output: its stdout to stdout, its stderr to stderr."""

    async def main(client: Client) -> None:
        from launch.cli.follow import print_lines

        async with aclosing(client.job(job).logs(follow=follow, tail=tail)) as lines:
            await print_lines(lines, attempt=attempt)

    with_client(ctx, server, main)
