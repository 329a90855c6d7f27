"""Patterns of image names, as a policy has them.

Pure. They are compared with the one form that `launch.core.registry` gives a reference. `*` and `?` stand for anything
within one part between slashes, `**` for anything at all: `ghcr.io/acme/*` is each repository of acme, with any tag,
and can't be met by a host of another name that has `acme` in its path.
"""

from __future__ import annotations

import re
from functools import lru_cache

from launch.core.registry import HUB, ImageName, host_of, names_host

_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?._:/@-]{0,511}", re.ASCII)


def check_pattern(text: str) -> str:
    """The pattern as it is compared. Raises `ValueError` if it could never match, or not mean what it says."""
    first, slash, rest = text.partition("/")
    if text == "**":
        return text
    if not _PATTERN.fullmatch(text) or not slash or not rest or not (names_host(first) or "*" in first):
        raise ValueError(
            f"found {text[:80]!r}; allowed: a pattern that begins with the registry, such as ghcr.io/acme/* or "
            "docker.io/library/python:3.*, or ** for every image"
        )
    host = host_of(first) if first.lower() == "index.docker.io" else first.lower()
    if host == HUB and "/" not in rest and "**" not in rest:
        raise ValueError(
            f"found {text[:80]!r}, which names nothing on Docker Hub; allowed: {HUB}/library/{rest} for its official "
            f"images, {HUB}/USER/* for a user's, {HUB}/** for all"
        )
    return f"{host}/{rest}"


def matches(pattern: str, image: ImageName) -> bool:
    """Whether the pattern names this image: the whole of it, or its name whatever its tag or digest."""
    compiled = _compiled(pattern)
    return compiled.fullmatch(str(image)) is not None or compiled.fullmatch(image.name) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*+|\*|\?)", pattern)
    return re.compile("".join(words.get(part[:2], re.escape(part)) for part in parts))
