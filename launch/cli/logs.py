"""`launch logs`: what a job has printed, and goes on printing."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import JobArgument, ServerOption
from launch.cli.output import note
from launch.cli.session import with_client

if TYPE_CHECKING:
    from launch.client import Client

SINCE_ALLOWED = "allowed: how long ago, such as 10m or 1h30m, or a time, such as 2026-01-31T18:00:00Z"


def logs(
    ctx: typer.Context,
    job: JobArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Only what was printed since: 10m (ago), or 2026-01-31T18:00:00Z."
        ),
    ] = None,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="REGEX", help="Of these lines, only those in which REGEX is found.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", metavar="N", min=1, help="Only this attempt.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Each line after the time it was printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
    server: ServerOption = None,
) -> None:
    """Print a job's output: its stdout to stdout, its stderr to stderr."""
    from launch.cli.follow import Shown

    moment = _moment(since) if since is not None else None
    shown = Shown(_pattern(grep) if grep is not None else None, timestamps=timestamps, json=as_json)

    async def main(client: Client) -> None:
        from launch.cli.follow import print_lines

        lines = client.job(job).logs(follow=follow, tail=tail, since=moment, attempt=attempt)
        async with aclosing(lines):
            printed = await print_lines(lines, attempt=attempt, shown=shown)
        if attempt is not None and not printed:
            tried = (await client.job(job).record()).attempt
            if attempt > tried:
                note(f"{job} has no attempt {attempt}; there are: {f'1 to {tried}' if tried else 'none'}")

    with_client(ctx, server, main)


def _moment(text: str) -> datetime:
    """A time, or so long ago; a time that names no zone is this machine's."""
    from launch.core.quantity import parse_duration

    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"found {text[:80]!r}; {SINCE_ALLOWED}", param_hint="--since") from None


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        found = f"found {text[:80]!r}, which is no regular expression: {error}"
        raise typer.BadParameter(f"{found}; allowed: Python's, such as 'loss|accuracy'", param_hint="--grep") from None
