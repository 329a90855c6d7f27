"""Image references in the one form that a policy's patterns are compared with.

Pure. `python` and `docker.io/library/python:latest` are one image, so both become the longer of the two; the rules are
the engine's own (github.com/distribution/reference), so that what is compared here is what the engine will fetch.

In a pattern `*` and `?` stand for anything within one part between slashes, `**` for anything at all: `ghcr.io/acme/*`
is each repository of acme, with any tag, and can't be met by a host of another name that has `acme` in its path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?", re.ASCII)
_MAYBE_ID = re.compile(r"(?:sha256:)?[0-9a-f]+", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?._:/@-]{0,511}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ImageName:
    """A reference, taken apart: `host/path` and the digest or else the tag: beside a digest it means nothing."""

    name: str
    """Host and path, such as `docker.io/library/python`; the host in lower case."""
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_image(text: str) -> ImageName | None:
    """The reference as the engine reads it.

    None if the engine takes it for no name, or may take it for the id of an image that lies on the machine: a word of
    hex digits without a tag is looked up among the ids as well, and an id says nothing about where it comes from.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or _MAYBE_ID.fullmatch(text):
        return None
    first, slash, rest = text.partition("/")
    if not slash or not _is_host(first):
        first, rest = "docker.io", text
    elif not _HOST.fullmatch(first):
        return None
    host = first.lower()
    if host == "index.docker.io":
        host = "docker.io"
    rest, _, digest = rest.partition("@")
    path, _, tag = rest.partition(":")
    if host == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return ImageName(f"{host}/{path}", None if digest else tag or "latest", digest or None)


def check_pattern(text: str) -> str:
    """The pattern as it is compared. Raises `ValueError` if it could never match, or not mean what it says."""
    first, slash, rest = text.partition("/")
    if text == "**":
        return text
    if not _PATTERN.fullmatch(text) or not slash or not rest or not (_is_host(first) or "*" in first):
        raise ValueError(
            f"found {text[:80]!r}; allowed: a pattern that begins with the registry, such as ghcr.io/acme/* or "
            "docker.io/library/python:3.*, or ** for every image"
        )
    return f"{first.lower()}/{rest}"


def matches(pattern: str, image: ImageName) -> bool:
    """Whether the pattern names this image: the whole of it, or its name whatever its tag or digest."""
    compiled = _compiled(pattern)
    return compiled.fullmatch(str(image)) is not None or compiled.fullmatch(image.name) is not None


def _is_host(first: str) -> bool:
    """Whether the engine takes the part before the first slash for a host."""
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as an expression."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*+|\*|\?)", pattern)
    return re.compile("".join(words.get(part[:2], re.escape(part)) for part in parts))
