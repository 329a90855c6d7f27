"""What options of `launch submit` stand for: environment, secrets, inputs, sizes. Each error names its option."""

from __future__ import annotations

import os
import re

import typer

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


def size(text: str, option: str) -> int:
    """Bytes from the command line. A bad amount is a usage error that names the option."""
    from launch.core.quantity import parse_memory

    try:
        return parse_memory(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
