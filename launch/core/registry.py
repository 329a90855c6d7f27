"""Which registry an image comes from, and whether that is one of Amazon's.

Pure; the rules are Docker's own, so that what is logged in to is what the engine asks.
"""

from __future__ import annotations

import re

HUB = "docker.io"
"""Docker Hub: where an image without a host in its name comes from."""

HOST_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?"
"""A registry's host, with its port if it has one."""

_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
_ECR = re.compile(r"[0-9]{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com", re.ASCII)


def registry_of(image: str) -> str:
    """The host (with its port) of the registry that `image` comes from: `docker.io` if it names none."""
    first, slash, _ = image.partition("/")
    if not slash or not (first == "localhost" or set(".:") & set(first) or first != first.lower()):
        return HUB
    return host_of(first)


def host_of(written: str) -> str:
    """The host in what people and Docker write for a registry: `https://index.docker.io/v1/` is `docker.io`."""
    host = written.strip().removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
    return HUB if host in _HUB_NAMES else host


def ecr_region(host: str) -> str | None:
    """The AWS region of a registry of Amazon's (`NUMBER.dkr.ecr.REGION.amazonaws.com`), None of any other."""
    match = _ECR.fullmatch(host)
    return match[1] if match else None
