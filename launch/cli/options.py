"""Options that several commands share, so that each is spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from launch.subjects import NAME_RULE, is_name

E = TypeVar("E", bound=StrEnum)


def named(value: str | list[str] | None) -> str | list[str] | None:
    """Callback of an option that takes queue names or job types: one that can't exist is a usage error."""
    for text in [value] if isinstance(value, str) else value or ():
        if not is_name(text):
            raise typer.BadParameter(f"found {text[:80]!r}; allowed: {NAME_RULE}")
    return value


def one_of(kind: type[E]) -> Callable[[str], E]:
    """Parser of an option that takes one of a few words."""

    def parse(text: str) -> E:
        if text not in tuple(kind):
            raise typer.BadParameter(f"found {text[:80]!r}; allowed: {', '.join(kind)}")
        return kind(text)

    return parse


ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="NATS server; else NATS_URL, a nats context, or the embedded one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QueueFilter = Annotated[
    str | None, typer.Option("--queue", "-q", metavar="QUEUE", callback=named, help="Only this queue.")
]
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
