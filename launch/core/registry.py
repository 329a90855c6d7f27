"""Image references as the engine reads them, and the registries that they name.

Pure. The rules are the engine's own (github.com/distribution/reference), so that what is compared with a policy, and
what is logged in to, is what the engine will ask: `python` and `docker.io/library/python:latest` are one image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HUB = "docker.io"
"""Docker Hub: where an image without a host in its name comes from."""

HOST_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?"
"""A registry's host, with its port if it has one."""

_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_ECR = re.compile(r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)", re.ASCII)
"""Also those in China, those with FIPS endpoints, and those reached by IPv6 as well: all of them Amazon's own names."""

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?)/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[a-z0-9+._-]+:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?", re.ASCII)
_MAYBE_ID = re.compile(r"(?:sha256:)?[0-9a-f]+", re.ASCII)


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
    if not _REFERENCE.fullmatch(text) or _MAYBE_ID.fullmatch(text):
        return None
    written, rest = _split(text)
    if not _HOST.fullmatch(written):
        return None
    host = HUB if written.lower() == "index.docker.io" else written.lower()
    rest, _, digest = rest.partition("@")
    path, _, tag = rest.partition(":")
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    return ImageName(f"{host}/{path}", None if digest else tag or "latest", digest or None)


def registry_of(image: str) -> str:
    """The host (with its port) of the registry that `image` comes from: `docker.io` if it names none."""
    return host_of(_split(image)[0])


def names_host(first: str) -> bool:
    """Whether the engine takes the part before a reference's first slash for a host."""
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def host_of(written: str) -> str:
    """The host in what people and Docker write for a registry: `https://index.docker.io/v1/` is `docker.io`."""
    host = written.strip().removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    return HUB if host in _HUB_NAMES else host


def ecr_region(host: str) -> str | None:
    """The AWS region of a registry of Amazon's (`NUMBER.dkr.ecr.REGION.amazonaws.com`), None of any other."""
    match = _ECR.fullmatch(host)
    return match[1] if match else None


def _split(image: str) -> tuple[str, str]:
    """A reference's host as written, Docker Hub's if there is none, and the rest."""
    first, slash, rest = image.partition("/")
    return (first, rest) if slash and names_host(first) else (HUB, image)
