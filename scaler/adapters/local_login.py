"""Who agents on this machine log in to NATS as: somebody who may be an agent, and not the scaler.

The scaler's own login reaches them only if the server lets it work as an agent, as where everybody is the same user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from launch import server
from launch.core.roles import Role
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from launch.server_users import is_secured
from launch.settings import KEYS_DIR
from scaler.ports import ProviderUnsuitable

LoginOf = Callable[[QueueSpec], Path | None]
"""The login of a queue's agents: see `agent_login`."""

_OWN = ("NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_PASSWORD", "NATS_CERT", "NATS_KEY", "NATS_INBOX_PREFIX")
_CREDS_MARK = b"BEGIN NATS USER JWT"


def as_the_scaler(spec: QueueSpec) -> Path | None:  # noqa: ARG001  (a `LoginOf`)
    """No login of their own."""
    return None


def agent_login(spec: QueueSpec, *, data_dir: Path, server_url: str, own_fits: bool) -> Path | None:
    """The .creds file, or the nkey's seed, of this queue's agents; None if they log in as the scaler does.

    The file is the one that the queue names, else, at this data directory's own secured server, the one that
    `launch server --secure` has made. `own_fits` says whether the scaler's login may work as an agent. Blocks. Raises
    `ProviderUnsuitable` if there is no login that does.
    """
    queue = spec.queue_name
    named = spec.provider.credentials if isinstance(spec.provider, LocalSpec) else None
    if named is not None:
        file = Path(named).expanduser()
        if not file.is_file():
            raise ProviderUnsuitable(
                f"agents of queue {queue} are to log in by {file}, which is not there on the scaler's machine",
                hint="put it there, or change provider.credentials of the queue",
            )
        return file
    running = server.find_running(data_dir)
    if running is not None and running.url == server_url and is_secured(data_dir):
        file = data_dir / KEYS_DIR / f"{Role.AGENT}-{queue}.nk"
        if not file.is_file():
            raise ProviderUnsuitable(
                f"there is no key for agents of queue {queue}: {file}",
                hint=f"end the server, and start it by `launch server --secure -q {queue}`, which makes one",
            )
        return file
    if not own_fits:
        raise ProviderUnsuitable(
            f"the scaler's own login may not run jobs of queue {queue}, and none is there for agents",
            hint="name an agent's .creds file or nkey, on the scaler's machine, as provider.credentials of the queue",
        )
    return None


def environment(base: Mapping[str, str], login: Path | None) -> dict[str, str]:
    """The environment of an agent: the scaler's, with that login instead of its own. Blocks. Raises `OSError`."""
    if login is None:
        return dict(base)
    kind = "NATS_CREDS" if _CREDS_MARK in login.read_bytes() else "NATS_NKEY"
    return {name: value for name, value in base.items() if name not in _OWN} | {kind: str(login)}


def without_login(url: str) -> str:
    """The address, or each of several, without a user and a password."""
    parts = (urlsplit(server.strip()) for server in url.split(","))
    return ",".join(urlunsplit(part._replace(netloc=part.netloc.rpartition("@")[2])) for part in parts)
