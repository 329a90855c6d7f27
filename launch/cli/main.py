"""The `launch` command: its wiring, the two short forms at top level, and the one place where errors become lines."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.options import ServerOption, named
from launch.cli.output import nobody_reads, write
from launch.core.shown import lines
from launch.errors import LaunchError

COMMANDS = {
    "up": ("up", "up"),
    "submit": ("submit", "submit"),
    "jobs": ("jobs", "jobs"),
    "show": ("jobs", "show"),
    "logs": ("logs", "logs"),
    "metrics": ("metrics", "metrics"),
    "artifacts": ("artifacts", "artifacts"),
    "wait": ("jobs", "wait"),
    "cancel": ("jobs", "cancel"),
    "retry": ("jobs", "retry"),
    "queue": ("queue", "app"),
    "agent": ("agent", "agent"),
    "agents": ("agents", "app"),
    "scaler": ("scaler", "scaler"),
    "server": ("server", "server"),
    "doctor": ("doctor", "doctor"),
    "simulate": ("simulate", "simulate"),
}
"""Every command, as they are listed: its module here, and what is in it: a function, or an app of several."""


def asked_for(words: Sequence[str]) -> str | None:
    """The command that is asked for, if only a server is named before it; None where all have to be known to tell."""
    rest = iter(words)
    for word in rest:
        if word == "--server":
            next(rest, None)
        elif not word.startswith("--server="):
            return word if word in COMMANDS else None
    return None


def command_line(only: str | None = None) -> typer.Typer:
    """The `launch` command with everything, or with one command: to make all is a tenth of what a short one takes."""
    app = typer.Typer(
        name="launch",
        no_args_is_help=False,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        help="Containerised jobs through NATS JetStream.",
    )
    app.callback(invoke_without_command=True)(top)
    for name, (module, attribute) in COMMANDS.items():
        if only in (None, name):
            found: Any = getattr(importlib.import_module(f"launch.cli.{module}"), attribute)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name)
            else:
                app.command(name)(found)
    return app


def top(
    ctx: typer.Context,
    queue_or_file: Annotated[
        str | None,
        typer.Option("--queue", metavar="FILE|QUEUE", help="With a file alone: the same as `launch up FILE`."),
    ] = None,
    job_type: Annotated[
        str | None,
        typer.Option("--job-type", metavar="TYPE", callback=named, help="With --queue and --config: `launch submit`."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The job's YAML file.")] = None,
    server: ServerOption = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Containerised jobs through NATS JetStream."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"launch {version_of('nats-launch')}")
        raise typer.Exit
    short = queue_or_file is not None or job_type is not None or config is not None
    if ctx.invoked_subcommand is not None:
        if short:
            raise typer.BadParameter(f"give --queue, --job-type and --config after '{ctx.invoked_subcommand}'")
        return
    if not short:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)
    if queue_or_file is None:
        raise typer.BadParameter("give the job's queue too: --queue QUEUE")
    if config is not None:
        from launch.cli import submit

        submit.submit_file(ctx, server, queue=queue_or_file, job_type=job_type, config=config)
    elif job_type is not None:
        raise typer.BadParameter("give the job's file too: --config FILE")
    else:
        from launch.cli import up

        up.up(ctx, [Path(queue_or_file)], server=server)


def main() -> None:
    """The console script. Whatever happens, no traceback reaches the user unless LAUNCH_DEBUG is set."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        command_line(asked_for(sys.argv[1:]))()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        nobody_reads()
        sys.exit(1)
    except Exception as error:
        if os.environ.get("LAUNCH_DEBUG"):
            raise
        for cause in _causes(error):
            write(f"launch: error: {lines(_described(cause))}", sys.stderr)
        sys.exit(1)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors in it: those of a group one by one, each text once."""
    if isinstance(error, BaseExceptionGroup):
        said = set()
        for inner in error.exceptions:
            for cause in _causes(inner):
                if str(cause) not in said:
                    said.add(str(cause))
                    yield cause
    else:
        yield error


def _described(error: BaseException) -> str:
    if isinstance(error, LaunchError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''} (LAUNCH_DEBUG=1 shows where it came from)"
