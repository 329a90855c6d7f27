"""What options of `launch submit` stand for: environment, secrets, inputs, sizes. Each error names its option."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import typer

from launch.cli.output import note

if TYPE_CHECKING:
    from launch.job import JobSpec

_INPUT = re.compile(r"(?P<source>(?:s3://)?[^:]*)(?::(?P<path>/.*))?", re.DOTALL)


def environment(pairs: list[str], secrets: list[str]) -> dict[str, object]:
    """`--env K=V`, `--env K` (the value of our own environment), `--secret K=NAME`, `--secret K`."""
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and key not in os.environ:
            raise typer.BadParameter(f"'{key}' is not set here; write {key}=VALUE", param_hint="--env")
        found[key] = value if equals else os.environ[key]
    for pair in secrets:
        key, equals, name = pair.partition("=")
        if key in found:
            raise typer.BadParameter(f"'{key}' is given twice; allowed: once", param_hint="--secret")
        found[key] = {"secret": name if equals else key}
    return found


def inputs(texts: list[str]) -> list[dict[str, str]]:
    """`--input JOB`, `--input s3://BUCKET/PREFIX`, either with `:/PATH` behind it."""
    found = []
    for text in texts:
        match = _INPUT.fullmatch(text)
        if match is None or not match["source"]:
            allowed = "JOB or s3://BUCKET/PREFIX, and :/PATH behind it for a place of your own"
            raise typer.BadParameter(f"found {text[:80]!r}; allowed: {allowed}", param_hint="--input")
        kind = "s3" if match["source"].startswith("s3:") else "job"
        found.append({kind: match["source"], **({"path": match["path"]} if match["path"] else {})})
    return found


WARNED_OF = 20


def warn_of_secrets(spec: JobSpec, told: set[str]) -> None:
    """Say which variables look like secrets, but for those that were `told` of; of many jobs, 20 variables at most."""
    from launch.core.suspects import suspects

    for name in suspects(spec.env):
        if name not in told and len(told) < WARNED_OF:
            told.add(name)
            note(
                f"warning: the value of {name} looks like a secret, and whoever reads the queue can read it; write "
                f"--secret {name}=NAME, or in the file {name}: {{secret: NAME}}, and the agent looks NAME up"
            )


def size(text: str, option: str) -> int:
    """Bytes from the command line. A bad amount is a usage error that names the option."""
    from launch.core.quantity import parse_memory

    try:
        return parse_memory(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
