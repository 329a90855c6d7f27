"""Who we log in as, as options of the vendor's client."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

from launch.errors import LaunchError
from launch.login import Credentials, Login

DEFAULT_INBOX = "_INBOX"
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


def client_options(credentials: Credentials | None) -> dict[str, Any]:
    """Options of `connect`. Raises `LaunchError` for a file that can't be read or is not what it should be."""
    if credentials is None:
        return {}
    if isinstance(credentials, Path):
        return {"user_credentials": str(credentials)}
    options: dict[str, Any] = {}
    if credentials.creds is not None:
        options["user_credentials"] = str(credentials.creds)
    name = credentials.user if credentials.password else ""
    if credentials.nkey is not None:
        name = public_key(credentials.nkey)
        options["nkeys_seed"] = str(credentials.nkey)
    elif credentials.user and credentials.password:
        options |= {"user": credentials.user, "password": credentials.password}
    elif credentials.user:
        options["token"] = credentials.user
    if credentials.cert is not None or credentials.ca is not None:
        options["tls"] = _tls(credentials)
    inbox = credentials.inbox_prefix or (f"{DEFAULT_INBOX}.{name}" if _TOKEN.fullmatch(name) else "")
    return options | ({"inbox_prefix": inbox} if inbox else {})


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
