"""What a `.gitignore` says, by git's rules (gitignore(5)); held to git itself by its tests.

A pattern is matched with a path itself, never with what lies above it: whoever walks does not enter a folder that is
left out, which is why nothing below one can be taken back in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \\t", "digit": "0-9", "lower": "a-z", "space": "\\s",
    "upper": "A-Z", "xdigit": "0-9A-Fa-f", "punct": "!-/:-@\\[-`{-~", "graph": "!-~", "print": " -~",
    "cntrl": "\\x00-\\x1f\\x7f",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Rule:
    regexp: re.Pattern[str]
    keeps: bool
    folders_only: bool


class GitIgnore:
    """The patterns of one `.gitignore`. One that means nothing to git matches nothing here either."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def verdict(self, path: str, *, is_folder: bool) -> bool | None:
        """Whether `path` (relative to the file's own folder) is left out; None if no pattern matches it."""
        for rule in reversed(self._rules):
            if (is_folder or not rule.folders_only) and rule.regexp.fullmatch(path):
                return not rule.keeps
        return None


def _rule(line: str) -> _Rule | None:
    if line.startswith("#"):
        return None
    text = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line)  # spaces at the end count only after a backslash
    keeps = text.startswith("!")
    text = text.removeprefix("!") if keeps else text
    folders_only = text.endswith("/")
    text = text.removesuffix("/")
    if not text:
        return None
    anchored = "/" in text
    regexp = _regexp(text.removeprefix("/"))
    if regexp is None:
        return None
    return _Rule(re.compile(regexp if anchored else f"(?:.*/)?{regexp}", re.DOTALL), keeps, folders_only)


def _regexp(pattern: str) -> str | None:
    """The pattern as a regular expression for a whole path; None if it can match nothing."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            end = at
            while pattern.startswith("*", end):
                end += 1
            whole_part = at == 0 or pattern[at - 1] == "/"
            if end - at == 2 and whole_part and pattern.startswith("/", end):
                out += "(?:.*/)?"
                end += 1
            elif end - at == 2 and whole_part and end == len(pattern):
                out += ".+"
            else:
                out += "[^/]*"
            at = end
        elif char == "?":
            out += "[^/]"
            at += 1
        elif char == "[":
            found = _class(pattern, at)
            if found is None:
                return None
            text, at = found
            out += text
        elif char == "\\":
            if at + 1 == len(pattern):
                return None
            out += re.escape(pattern[at + 1])
            at += 2
        else:
            out += re.escape(char)
            at += 1
    return out


def _class(pattern: str, at: int) -> tuple[str, int] | None:
    """The class that begins at `at`, and where it ends; None if it does not end, or is none."""
    at += 1
    negated = pattern[at : at + 1] in ("!", "^")
    at += negated
    first, items = at, ""
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        if pattern.startswith("[:", at) and (end := pattern.find(":]", at + 2)) >= 0:
            inner = _POSIX.get(pattern[at + 2 : end])
            if inner is None:
                return None
            items += inner
            at = end + 2
            continue
        low, at = _char(pattern, at)
        if pattern.startswith("-", at) and pattern[at + 1 : at + 2] not in ("", "]"):
            high, at = _char(pattern, at + 1)
            if low <= high:  # else the range is empty, not wrong
                items += f"{re.escape(low)}-{re.escape(high)}"
        else:
            items += re.escape(low)
    if at >= len(pattern):
        return None
    if not items:
        return ("[^/]" if negated else "(?!)"), at + 1
    return f"(?!/)[{'^' if negated else ''}{items}]", at + 1


def _char(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        return pattern[at + 1], at + 2
    return pattern[at], at + 1
