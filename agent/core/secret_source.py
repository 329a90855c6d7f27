"""Where secrets may be looked up: what an operator writes, and what that makes of a secret's name.

Pure. Each source is bounded by its prefix: whatever name a job asks for, no other variable, file or parameter than one
under it can be meant (`launch.fields.SecretName` has neither `..` nor `:`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from launch.fields import SecretRef
from launch.job import JobSpec

VARIABLE_PREFIX = "LAUNCH_SECRET_"

ALLOWED = "env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/"
"""The forms of a source, for people."""

_AWS_PREFIX = re.compile(r"/?([A-Za-z0-9_.-]+/)+", re.ASCII)


class Kind(StrEnum):
    """The kinds of source."""

    ENV = "env"
    DIR = "dir"
    SSM = "ssm"
    SECRETS_MANAGER = "secretsmanager"


@dataclass(frozen=True, slots=True)
class Source:
    """One place to look secrets up in: its kind, and its folder or prefix (empty for `env`)."""

    kind: Kind
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.prefix}" if self.prefix else str(self.kind)

    def place(self, name: str) -> str:
        """Where a secret of this name lies, for people."""
        match self.kind:
            case Kind.ENV:
                return f"env ({variable_of(name)})"
            case Kind.DIR:
                return f"dir:{self.prefix.rstrip('/')}/{name}"
            case _:
                return f"{self.kind}:{self.prefix}{name}"


def parse_source(text: str) -> Source:
    """What an operator wrote. Raises `ValueError` that says what was found and what is allowed."""
    kind, colon, prefix = text.partition(":")
    if text == Kind.ENV:
        return Source(Kind.ENV)
    if kind == Kind.DIR and prefix.startswith("/") and "\0" not in prefix:
        return Source(Kind.DIR, prefix)
    if kind in (Kind.SSM, Kind.SECRETS_MANAGER) and _AWS_PREFIX.fullmatch(prefix) and "//" not in prefix:
        # A parameter's name with a slash in it begins with one; a secret's may.
        if kind == Kind.SECRETS_MANAGER or prefix.startswith("/"):
            return Source(Kind(kind), prefix)
        raise ValueError(f"found {text[:200]!r}; allowed: ssm:/PREFIX/, with a slash at both ends")
    why = ""
    if kind == Kind.DIR and colon:
        why = " (the path must be absolute)"
    elif kind in (Kind.SSM, Kind.SECRETS_MANAGER):
        why = " (a prefix that ends with a slash bounds what jobs may name)"
    raise ValueError(f"found {text[:200]!r}; allowed: {ALLOWED}{why}")


def variable_of(name: str) -> str:
    """The agent's environment variable that holds a secret: `wandb-key` is in `LAUNCH_SECRET_WANDB_KEY`."""
    return VARIABLE_PREFIX + re.sub(r"[-./]", "_", name.upper())


def references(spec: JobSpec) -> dict[str, str]:
    """The job's variables whose values are secrets, with the secrets' names."""
    return {variable: value.secret for variable, value in spec.env.items() if isinstance(value, SecretRef)}


def values_in(env: Iterable[str], spec: JobSpec) -> Mapping[str, str]:
    """What the job's secret variables were in a container, from its own environment (`NAME=value`).

    For a container that an earlier process of the agent started: what it prints is what it was given, which a second
    look-up need not find again.
    """
    wanted = references(spec)
    pairs = (entry.partition("=") for entry in env)
    return {name: value for name, _, value in pairs if name in wanted}
