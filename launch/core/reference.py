"""Where a value lies that must not be written down: `ssm:/nats/url`, `secretsmanager:nats/credentials`.

Pure. Such a reference may stand in a queue's file or on a machine's command line; only who uses the value looks it up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ALLOWED = "ssm:NAME or secretsmanager:NAME"
"""The forms of a reference, for people."""

PATTERN = r"^(ssm|secretsmanager):[A-Za-z0-9_./:@+=,-]{1,512}$"
_REFERENCE = re.compile(PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """A parameter of Systems Manager (`kind` ssm), or a secret of Secrets Manager (`kind` secretsmanager)."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def is_reference(text: str) -> bool:
    """Whether `text` is meant as a reference, well-formed or not."""
    return text.startswith(("ssm:", "secretsmanager:"))


def parse_reference(text: str) -> Reference:
    """What `text` refers to. Raises `ValueError` with what was found and what is allowed."""
    if not _REFERENCE.fullmatch(text):
        raise ValueError(f"found {text[:80]!r}; allowed: {ALLOWED}")
    kind, _, name = text.partition(":")
    if kind == "ssm" and "/" in name and not name.startswith(("/", "arn:")):
        raise ValueError(f"found {text[:80]!r}; allowed: ssm:/{name[:60]} (a name with a slash in it begins with one)")
    return Reference(kind, name)
