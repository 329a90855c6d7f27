"""Who we log in as, as options of the vendor's client."""

from __future__ import annotations

import base64
import json
import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from launch.errors import LaunchError
from launch.login import Credentials, Login

DEFAULT_INBOX = "_INBOX"
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


def client_options(credentials: Credentials | None, url: str = "") -> dict[str, Any]:
    """Options of `connect`. Raises `LaunchError` for a file that can't be read or is not what it should be.

    Roles give each user inboxes of its own, `_INBOX.<user>`: the user is the one of the credentials, else the one that
    the server's `url` names.
    """
    login = Login(creds=credentials) if isinstance(credentials, Path) else credentials or Login()
    options: dict[str, Any] = {}
    if not (login.creds or login.nkey or login.user):
        user, password = _named_in(url)
        login = replace(login, user=user, password=password)
    name = login.user if login.password else ""
    if login.creds is not None:
        name = _subject(login.creds)
        options["user_credentials"] = str(login.creds)
    if login.nkey is not None:
        name = public_key(login.nkey)
        options["nkeys_seed"] = str(login.nkey)
    elif login.user and login.password:
        options |= {"user": login.user, "password": login.password}
    elif login.user:
        options["token"] = login.user
    if login.cert is not None or login.ca is not None:
        options["tls"] = _tls(login)
    inbox = login.inbox_prefix or (f"{DEFAULT_INBOX}.{name}" if _TOKEN.fullmatch(name) else "")
    return options | ({"inbox_prefix": inbox} if inbox else {})


def _named_in(url: str) -> tuple[str, str]:
    """The user (or token) and password that all servers of `url` name, decoded, as the client does not; else none."""
    try:
        parts = [urlsplit(server.strip()) for server in url.split(",")]
        logins = {(unquote(part.username or ""), unquote(part.password or "")) for part in parts}
    except ValueError:
        return "", ""
    return logins.pop() if len(logins) == 1 else ("", "")


def _subject(creds: Path) -> str:
    """The public key of the user that a .creds file is for. Raises `LaunchError`."""
    try:
        text = creds.read_text(errors="replace")
    except OSError as error:
        raise LaunchError(f"the credentials file {creds} can't be read: {error.strerror}") from None
    try:
        # What stands between the first two marks is the user's JWT: three parts, the second of which says who it is.
        claims = text.split("-----")[2].strip().split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    except (LookupError, TypeError, ValueError):
        subject = None
    if not isinstance(subject, str) or "BEGIN USER NKEY SEED" not in text:
        raise LaunchError(
            f"{creds} holds no credentials of NATS",
            hint="a .creds file has a user's JWT and its seed, such as nsc makes; a seed alone goes by NATS_NKEY",
        )
    return subject


def public_key(seed_file: Path) -> str:
    """The public half of an nkey, by which the server knows the user. Raises `LaunchError`."""
    import nkeys  # type: ignore[import-untyped]  # has no types

    try:
        return str(nkeys.from_seed(bytearray(seed_file.read_bytes().strip())).public_key.decode())
    except OSError as error:
        raise LaunchError(f"the nkey file {seed_file} can't be read: {error.strerror}") from None
    except Exception:  # noqa: BLE001  whatever the library raises for a malformed seed, nothing of which may be shown
        raise LaunchError(
            f"{seed_file} holds no nkey seed", hint="a user's seed is one line that begins with SU"
        ) from None


def _tls(login: Login) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(login.ca) if login.ca else None)
        if login.cert is not None:
            context.load_cert_chain(str(login.cert), str(login.key) if login.key else None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (login.cert, login.key, login.ca) if path)
        raise LaunchError(
            f"the TLS files can't be used ({files}): {error.strerror or error}",
            hint="NATS_CERT, NATS_KEY and NATS_CA take PEM files; the key must be that of the certificate",
        ) from None
    return context
