"""Where NATS is and where data goes: read once from flags, environment and files, then passed on as values.

NATS is looked for in this order: `--server`; `NATS_URL`; a context of the `nats` CLI (`NATS_CONTEXT`, or the one that
`nats context select` chose); this data directory's embedded server, if it runs; `nats://127.0.0.1:4222`. The first two
and a context count as named by the user: then nothing else is tried, and nothing is started in their place.

Who one is, as NATS's own tools have it: NATS_CREDS, NATS_NKEY (a file with the seed), NATS_USER and NATS_PASSWORD (a
user alone is a token), NATS_CERT, NATS_KEY and NATS_CA; else what the context says; else the embedded
server's admin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from launch.core.reference import is_reference
from launch.errors import LaunchError
from launch.login import Credentials, Login

DEFAULT_URL = "nats://127.0.0.1:4222"
KEYS_DIR = "nkeys"
"""In the data directory of a secured embedded server: one file a user, with the seed of its nkey."""

_FILES = ("creds", "nkey", "cert", "key", "ca")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server to connect to. `named`: the user chose it; `source` says where it was found, for messages."""

    url: str
    credentials: Credentials | None
    named: bool
    source: str


def data_dir(env: Mapping[str, str]) -> Path:
    """Where this user's embedded server and local agents keep their files: `LAUNCH_DATA_DIR`, or the XDG data home."""
    if chosen := env.get("LAUNCH_DATA_DIR"):
        return Path(chosen).expanduser().absolute()
    base = env.get("XDG_DATA_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path(env.get("HOME") or Path.home()) / ".local/share"
    return home / "nats-launch"


def find_server(
    flag: str | None,
    env: Mapping[str, str],
    *,
    embedded_url: str | None,
    credentials: Path | None = None,
    references: bool = False,
) -> Endpoint:
    """Choose the server.

    `embedded_url` is the address of this data directory's embedded server if it runs. `credentials` (a `.creds` file)
    wins over `NATS_CREDS`. `references`: the caller looks up an address that is only named by where it lies. Raises
    `LaunchError` for a context that can't be read or used.
    """
    creds = _login(env, credentials)
    if not references and is_reference(lies := flag or env.get("NATS_URL") or ""):
        raise LaunchError(f"{lies} is looked up by launch agent only", hint="name the server's address itself")
    if flag:
        return Endpoint(_with_scheme(flag), creds, named=True, source="--server")
    if url := env.get("NATS_URL"):
        return Endpoint(_with_scheme(url), creds, named=True, source="NATS_URL")
    if context := _context(env):
        name, url, context_creds = context
        return Endpoint(url, creds or context_creds, named=True, source=f"the nats context '{name}'")
    if embedded_url:
        return Endpoint(embedded_url, creds or admin_login(data_dir(env)), named=False, source="the embedded server")
    return Endpoint(DEFAULT_URL, creds, named=False, source="the default address")


def _with_scheme(url: str) -> str:
    """`host`, `host:port` and comma-separated lists of them are fine, as in NATS's own tools.

    Where the address lies (`ssm:NAME`) stays as it is, for who can look it up.
    """
    if is_reference(url):
        return url
    return ",".join(part if "://" in part else f"nats://{part}" for part in (p.strip() for p in url.split(",")) if part)


def _context(env: Mapping[str, str]) -> tuple[str, str, Credentials | None] | None:
    """Name, address and credentials of the chosen `nats` CLI context; None if none is chosen."""
    config = env.get("XDG_CONFIG_HOME")
    root = (Path(config) if config else Path(env.get("HOME") or Path.home()) / ".config") / "nats"
    name = env.get("NATS_CONTEXT")
    if not name:
        try:
            name = (root / "context.txt").read_text().strip()
        except OSError:
            return None
    if not name:
        return None
    path = root / "context" / f"{name}.json"
    try:
        found: Any = json.loads(path.read_text())
    except OSError:
        raise LaunchError(
            f"there is no nats context '{name}' ({path})", hint="choose another by NATS_CONTEXT, or name a --server"
        ) from None
    except ValueError:
        raise LaunchError(f"the nats context '{name}' ({path}) is not JSON") from None
    if not isinstance(found, dict):
        raise LaunchError(f"the nats context '{name}' ({path}) is not a JSON object")
    return name, _context_url(name, found), _context_creds(name, found)


def _context_url(name: str, context: dict[str, Any]) -> str:
    unusable = [key for key in ("socks_proxy", "user_jwt") if context.get(key)]
    if unusable:
        raise LaunchError(
            f"the nats context '{name}' uses {', '.join(unusable)}, which launch can't use",
            hint="use one with creds, nkey, user and password, token, or TLS files, or name a --server",
        )
    urls = _with_scheme(str(context.get("url") or DEFAULT_URL))
    user, password, token = (str(context.get(key) or "") for key in ("user", "password", "token"))
    login = f"{quote(user, safe='')}:{quote(password, safe='')}" if user else quote(token, safe="")
    if not login:
        return urls
    parts = (url.split("://", 1) for url in urls.split(","))
    return ",".join(f"{scheme}://{rest}" if "@" in rest else f"{scheme}://{login}@{rest}" for scheme, rest in parts)


def _context_creds(name: str, context: dict[str, Any]) -> Credentials | None:
    files = {key: _file(context.get(key), f"the nats context '{name}' names") for key in _FILES}
    return _simplest(replace(_of_files(files), inbox_prefix=str(context.get("inbox_prefix") or "")))


def _login(env: Mapping[str, str], credentials: Path | None) -> Credentials | None:
    """Who the environment says we are; a .creds file given by hand wins over all of it but TLS."""
    files = {key: _file(env.get(f"NATS_{key.upper()}"), f"NATS_{key.upper()} names") for key in _FILES}
    user, password = env.get("NATS_USER", ""), env.get("NATS_PASSWORD", "")
    if credentials is not None:
        files |= {"creds": _file(credentials, "--credentials names"), "nkey": None}
        user = password = ""
    if password and not user:
        raise LaunchError("NATS_PASSWORD is set without NATS_USER", hint="set both")
    if files["key"] and not files["cert"]:
        raise LaunchError("NATS_KEY is set without NATS_CERT", hint="set both: PEM files of the same key")
    inbox = env.get("NATS_INBOX_PREFIX", "")
    return _simplest(replace(_of_files(files), user=user, password=password, inbox_prefix=inbox))


def _of_files(files: Mapping[str, Path | None]) -> Login:
    return Login(files["creds"], files["nkey"], cert=files["cert"], key=files["key"], ca=files["ca"])


def _file(named: object, who: str) -> Path | None:
    if not named:
        return None
    path = Path(str(named)).expanduser()
    if not path.is_file():
        raise LaunchError(f"{who} the file {path}, which does not exist")
    return path


def _simplest(login: Login) -> Credentials | None:
    """None for nobody, the file itself for who has nothing but a .creds file."""
    if login == Login():
        return None
    return login.creds if login.creds is not None and login == Login(creds=login.creds) else login


def admin_login(home: Path) -> Login | None:
    """The admin of this data directory's embedded server, if `launch server --secure` has made one."""
    seed = home / KEYS_DIR / "admin.nk"
    return Login(nkey=seed) if seed.is_file() else None
