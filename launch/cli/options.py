"""Options that several commands share, so that each is spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="NATS server; else NATS_URL, a nats context, or the embedded one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QueueFilter = Annotated[str | None, typer.Option("--queue", "-q", metavar="QUEUE", help="Only this queue.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where to keep data; else LAUNCH_DATA_DIR.")
]
DrainOption = Annotated[
    str, typer.Option("--drain-timeout", metavar="TIME", help="How long a stop waits for running jobs, such as 90s.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job id, such as gpu-training-queue/42.")]
JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...", help="Job ids.")]


def seconds(text: str, option: str) -> float:
    """A duration from the command line. A bad one is a usage error that names the option."""
    from launch.core.quantity import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
