"""Who a connection to NATS is: a credentials file, an nkey, a user or a token, a TLS certificate, or several of these.

Invariant: nothing secret is in the `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Login:
    """`creds`: a .creds file; `nkey`: a file with an nkey's seed; `cert`, `key`, `ca`: PEM files for TLS.

    A `user` without a password is a token. `inbox_prefix` empty: `_INBOX.<user>`, the one that roles are given.
    """

    creds: Path | None = None
    nkey: Path | None = None
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    inbox_prefix: str = ""


Credentials = Path | Login
"""A .creds file by itself, or whatever else says who one is."""
