"""The users of a secured embedded server: one nkey a role, or a role and queue, and the server's configuration of them.

The data directory holds the seeds (`nkeys/<role>[-<queue>].nk`, for their user alone) and `nats-users.conf`, which has
nothing secret in it: public keys and permissions. A key that is there is kept; new queues get new ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from launch.core.roles import Role, permissions
from launch.errors import ServerError
from launch.settings import KEYS_DIR
from launch.subjects import is_name

USERS_FILE = "nats-users.conf"


def is_secured(data_dir: Path) -> bool:
    """Whether this data directory's server knows its users: then it never starts without them again."""
    return (data_dir / USERS_FILE).is_file()


def secure(data_dir: Path, queues: Iterable[str]) -> list[Path]:
    """Make what keys are missing, and write the server's users anew; returns every seed's file.

    `queues` are added to those that have users already. Raises `ServerError` if a file can't be written.
    """
    folder = data_dir / KEYS_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        names = sorted({*queues, *_known(folder)})
        users: list[str] = []
        files: list[Path] = []
        for role, queue in _wanted(names):
            path = folder / (f"{role}-{queue}.nk" if queue else f"{role}.nk")
            if not path.exists():
                _write(path, _new_seed())
            files.append(path)
            of_queues = [queue] if queue else names
            if role is Role.SCALER and not of_queues:
                continue
            users.append(_user(role, of_queues, _public(path)))
        text = "# Written by `launch server --secure`: the public keys of users and what each may do.\n"
        _write(data_dir / USERS_FILE, f"{text}authorization {{ users = [\n{''.join(users)}] }}\n")
    except OSError as error:
        raise ServerError(f"the server's users can't be written in {data_dir}: {error.strerror}") from None
    return files


def _wanted(queues: Iterable[str]) -> list[tuple[Role, str]]:
    each = (Role.PUBLISHER, Role.OPERATOR, Role.AGENT)
    once = [(role, "") for role in (Role.ADMIN, Role.SCALER, Role.VIEWER)]
    return once + [(role, queue) for queue in queues for role in each]


def _known(folder: Path) -> set[str]:
    found = (path.stem.removeprefix(f"{Role.AGENT}-") for path in folder.glob(f"{Role.AGENT}-*.nk"))
    return {name for name in found if is_name(name)}


def _user(role: Role, queues: list[str], public: str) -> str:
    allowed = permissions(role, queues, inbox=f"_INBOX.{public}")
    publish, subscribe = (",\n        ".join(map(json.dumps, names)) for names in (allowed.publish, allowed.subscribe))
    return (
        f"  # {role} {' '.join(queues) if role.per_queue else ''}\n"
        f"  {{ nkey: {public}, permissions: {{\n"
        f"      publish: {{ allow: [\n        {publish} ] }}\n"
        f"      subscribe: {{ allow: [\n        {subscribe} ] }} }} }}\n"
    )


def _new_seed() -> str:
    import nkeys  # type: ignore[import-untyped]  # has no types

    return bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)).decode() + "\n"


def _public(path: Path) -> str:
    from launch.adapters.nats.identity import public_key

    return public_key(path)


def _write(path: Path, text: str) -> None:
    """As a whole or not at all, for its user alone."""
    draft = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o600)
    draft.replace(path)
