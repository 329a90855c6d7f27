"""An operator, an account and users for a nats-server in operator mode, made by hand: what `nsc` does, in small."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # has no types


class Operator:
    """One operator with one account that has JetStream."""

    def __init__(self) -> None:
        self._operator = _pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = _pair(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self) -> str:
        """The part of the server's configuration that makes it believe this operator."""
        unlimited = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        limits = {**unlimited, **storage, "wildcards": True}
        operator = _token(self._operator, self._operator, "operator", {})
        account = _token(self._account, self._operator, "account", {"limits": limits})
        system = _token(self._system, self._operator, "account", {"limits": {**unlimited, "wildcards": True}})
        known = f"{_public(self._account)}: {account}, {_public(self._system)}: {system}"
        which = f"system_account: {_public(self._system)}\nresolver: MEMORY\nresolver_preload: {{ {known} }}\n"
        # A user's token comes in one line, with all its permissions.
        return f"max_control_line: 16KB\noperator: {operator}\n{which}"

    def user(self, file: Path, publish: Sequence[str], subscribe: Sequence[str]) -> str:
        """Write a .creds file of a new user that may do this; `{user}` in a subject is the user's public key."""
        user = _pair(nkeys.PREFIX_BYTE_USER)
        name = _public(user)
        pub, sub = ([subject.replace("{user}", name) for subject in allowed] for allowed in (publish, subscribe))
        more = {"pub": {"allow": pub}, "sub": {"allow": sub}, "subs": -1, "data": -1, "payload": -1}
        token = _token(user, self._account, "user", more)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
        )
        return name


def _pair(prefix: int) -> Any:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


def _public(pair: Any) -> str:
    return bytes(pair.public_key).decode()


def _token(subject: Any, issuer: Any, kind: str, more: dict[str, Any]) -> str:
    claims: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": _public(issuer),
        "sub": _public(subject),
        "name": kind,
        "nats": {**more, "type": kind, "version": 2},
    }
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


def _part(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value, separators=(",", ":")).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
