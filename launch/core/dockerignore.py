"""What a `.dockerignore` leaves out, by Docker's own rules, which are not git's.

A pattern is anchored at the folder's root (`*.log` names no file in a subfolder, `**/*.log` does), names everything
below what it matches, and the last pattern that matches decides: one that begins with `!` takes things back in, also
out of a folder that an earlier one left out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

_WILD = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class _Rule:
    regexp: re.Pattern[str]
    keeps: bool
    root: tuple[str, ...]
    """The parts of the pattern before the first that has a wildcard."""


class DockerIgnore:
    """The patterns of one `.dockerignore`. Raises `ValueError` for one that Docker would refuse."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]

    def leaves_out(self, path: str) -> bool:
        """Whether the file or folder at `path` (relative, with slashes) is left out."""
        for rule in reversed(self._rules):
            if rule.regexp.fullmatch(path):
                return not rule.keeps
        return False

    def may_keep_below(self, folder: str) -> bool:
        """Whether something in a folder that is left out may be taken back in: then it has to be looked through."""
        parts = tuple(folder.split("/"))
        return any(rule.keeps and _meet(rule.root, parts) for rule in self._rules)


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _rule(line: str) -> _Rule | None:
    if line.startswith("#"):
        return None
    text = line.strip()
    keeps = text.startswith("!")
    if keeps:
        text = text[1:].strip()
        if not text:
            raise ValueError("a lone '!'")
    if not text:
        return None
    text = posixpath.normpath(text).lstrip("/")
    if text in ("", "."):
        return None
    parts = text.split("/")
    wild = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return _Rule(_regexp(text), keeps, tuple(parts[:wild]))


def _regexp(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression that also matches whatever lies below."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            out += ".*" if at >= len(pattern) else "(?:.*/)?"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            end = pattern.find("]", at + 2 if pattern.startswith("^", at) else at + 1)
            if end < 0:
                raise ValueError(f"{pattern!r} has a '[' without its ']'")
            inner = pattern[at:end]
            negated = inner.startswith("^")
            # A slash is never matched by a class, and only `-` and `\` mean something in one.
            out += f"(?!/)[{'^' if negated else ''}{_class(inner[1:] if negated else inner)}]"
            at = end + 1
        elif char == "\\":
            if at >= len(pattern):
                raise ValueError(f"{pattern!r} ends with a backslash")
            out += re.escape(pattern[at])
            at += 1
        else:
            out += re.escape(char)
    try:
        return re.compile(f"(?:{out})(?:/.*)?", re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r}: {error}") from None


def _class(inner: str) -> str:
    return re.sub(r"([\[\]^&~|])", r"\\\1", inner)
