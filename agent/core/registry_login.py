"""How an engine is logged in to a registry: what Docker's `config.json` and its helpers say, and what the engine takes.

Pure: text in, values out. Invariant: a password is in no `repr`, no message and no warning; what can't be read is told
by its place, never by its contents.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from launch.core.registry import HUB, host_of

HUB_KEY: Final = "https://index.docker.io/v1/"
"""What Docker Hub is called in `config.json`, and by helpers."""

_TOKEN_USER = "<token>"  # noqa: S105  (what helpers say in the place of a user's name when the secret is a token)
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_NOT_KNOWN = "credentials not found"


@dataclass(frozen=True, slots=True)
class Credential:
    """A user's name and password for one registry, or an identity token instead."""

    username: str
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DockerLogins:
    """What a `config.json` says, by the hosts of registries; `warnings` tell what in it could not be read."""

    auths: Mapping[str, Credential] = field(default_factory=dict)
    helpers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The helper (`ecr-login` for `docker-credential-ecr-login`) of a registry, and what that is called there."""
    store: str | None = None
    """The helper for every registry that has none of its own."""
    warnings: tuple[str, ...] = ()

    def asked(self, registry: str) -> tuple[tuple[str, str], ...]:
        """The helpers to ask for a registry, in this order, and by which name; what is in `auths` comes after them."""
        own = self.helpers.get(registry)
        if own is not None:
            return (own,)
        if self.store is not None:
            return ((self.store, HUB_KEY if registry == HUB else registry),)
        return ()


def parse_docker_config(text: str) -> DockerLogins:
    """What is in a `config.json`. Raises nothing: an entry that can't be read is left out, with a warning."""
    warnings: list[str] = []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        return DockerLogins(warnings=(f"is no JSON{where}",))
    if not isinstance(found, dict):
        return DockerLogins(warnings=("is no JSON object",))
    auths: dict[str, Credential] = {}
    for name, entry in _mapping(found, "auths", warnings).items():
        try:
            credential = _credential(entry)
        except ValueError as error:
            warnings.append(f"auths: the entry of {name[:100]!r} {error}")
            continue
        if credential is not None:
            auths[host_of(name)] = credential
    helpers: dict[str, tuple[str, str]] = {}
    for name, helper in _mapping(found, "credHelpers", warnings).items():
        if is_helper(helper):
            helpers[host_of(name)] = (helper, HUB_KEY if host_of(name) == HUB else name)
        else:
            warnings.append(f"credHelpers: the entry of {name[:100]!r} is no helper's name")
    store = found.get("credsStore") or None
    if store is not None and not is_helper(store):
        warnings.append("credsStore is no helper's name")
        store = None
    return DockerLogins(auths, helpers, store, tuple(warnings))


def is_helper(name: object) -> bool:
    """Whether a program `docker-credential-NAME` can be meant: nothing that leads to another folder."""
    return isinstance(name, str) and _HELPER.fullmatch(name) is not None


def parse_helper_answer(output: str) -> Credential | None:
    """What a helper printed when it was asked to `get`; None if it knows none. Raises `ValueError`."""
    if _NOT_KNOWN in output:
        return None
    try:
        found = json.loads(output)
    except (ValueError, RecursionError):
        raise ValueError("answered with something else than JSON") from None
    if not isinstance(found, dict):
        raise ValueError("answered with something else than a JSON object")
    user, secret = found.get("Username"), found.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        raise ValueError("answered without a Username and a Secret")
    if not secret:
        return None
    return Credential("", token=secret) if user == _TOKEN_USER else Credential(user, secret)


def parse_basic(encoded: str) -> Credential:
    """From `user:password` in base64. Raises `ValueError` if it is none."""
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise ValueError("is no user:password in base64") from None
    if not colon or not user:
        raise ValueError("is no user:password in base64")
    return Credential(user, password.rstrip("\0"))


def header_of(credential: Credential, registry: str) -> str:
    """The value of the engine's header `X-Registry-Auth`."""
    address = HUB_KEY if registry == HUB else registry
    said = {"serveraddress": address}
    if credential.token:
        said["identitytoken"] = credential.token
    else:
        said |= {"username": credential.username, "password": credential.password}
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode()


def _mapping(found: Mapping[str, Any], key: str, warnings: list[str]) -> dict[str, Any]:
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        warnings.append(f"{key} is no mapping")
        return {}
    return value


def _credential(entry: object) -> Credential | None:
    """One of `auths`; None for the empty one that Docker leaves where a helper has the password."""
    if not isinstance(entry, dict):
        raise ValueError("is no mapping")
    token, encoded = entry.get("identitytoken"), entry.get("auth")
    user, password = entry.get("username"), entry.get("password")
    if isinstance(token, str) and token:
        return Credential("", token=token)
    if isinstance(encoded, str) and encoded:
        return parse_basic(encoded)
    if isinstance(user, str) and user and isinstance(password, str):
        return Credential(user, password)
    if encoded or user:
        raise ValueError("is neither user:password in base64 nor a username and a password")
    return None
