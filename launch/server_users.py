"""The users of a server, in its own configuration language: one a role, or a role and queue.

For the embedded server they have nkeys. The data directory holds the seeds (`nkeys/<role>[-<queue>].nk`, for their user
alone) and `nats-users.conf`, which has nothing secret in it: public keys and permissions. A key that is there is kept;
new queues get new ones. For any other server `python -m launch.server_users QUEUE` prints users with passwords, as the
committed `nats-roles.conf` has them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.core.roles import Role, permissions
from launch.errors import ServerError
from launch.settings import KEYS_DIR
from launch.subjects import is_name

USERS_FILE = "nats-users.conf"
_OF_A_QUEUE = (Role.PUBLISHER, Role.OPERATOR, Role.AGENT)
_OF_ALL = (Role.ADMIN, Role.SCALER, Role.VIEWER)

_PASSWORDS = """\
# Who may do what on the server: a user a role, each with the least permissions that work; nats.conf includes it.
# Written by `python -m launch.server_users {queue}`: write it anew with the name of your queue.
#
# Passwords come from the environment of nats-server, which does not start without them; set to nothing is an empty
# password. It reads them as it reads this file: a password that does not begin with a letter, or has more than letters
# and digits, is handed over in double quotes. A bcrypt hash ($2a$...) may stand in for one.
# Clients: NATS_USER=publisher NATS_PASSWORD=... launch submit ...
"""


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
            public = _public(path)
            users.append(_user(role, [queue] if queue else names, f"nkey: {public}", inbox=public))
        text = "# Written by `launch server --secure`: the public keys of users and what each may do.\n"
        _write(data_dir / USERS_FILE, f"{text}authorization {{ users = [\n{''.join(users)}] }}\n")
    except OSError as error:
        raise ServerError(f"the server's users can't be written in {data_dir}: {error.strerror}") from None
    return files


def with_passwords(queue: str) -> str:
    """Users of all roles for one queue, named as their roles; passwords are `$NATS_<ROLE>_PASSWORD`."""
    users = []
    for role in (*_OF_ALL, *_OF_A_QUEUE):
        login = f"user: {role}, password: $NATS_{role.upper()}_PASSWORD"
        users.append(_user(role, [queue], login, inbox=str(role)))
    return f"{_PASSWORDS.format(queue=queue)}\nauthorization {{ users = [\n{''.join(users)}] }}\n"


def _wanted(queues: Sequence[str]) -> list[tuple[Role, str]]:
    """The users that there are to be; a scaler only once there is a queue to scale."""
    once = [(role, "") for role in _OF_ALL if queues or not role.per_queue]
    return once + [(role, queue) for queue in queues for role in _OF_A_QUEUE]


def _known(folder: Path) -> set[str]:
    found = (path.stem.removeprefix(f"{Role.AGENT}-") for path in folder.glob(f"{Role.AGENT}-*.nk"))
    return {name for name in found if is_name(name)}


def _user(role: Role, queues: list[str], login: str, *, inbox: str) -> str:
    allowed = permissions(role, queues, inbox=f"_INBOX.{inbox}")
    publish, subscribe = (",\n        ".join(map(json.dumps, names)) for names in (allowed.publish, allowed.subscribe))
    return (
        f"  # {' '.join([role, *(queues if role.per_queue else ())])}\n"
        f"  {{ {login}, permissions: {{\n"
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


def main(arguments: list[str]) -> int:
    """Print users with passwords for one queue; returns the exit code."""
    if len(arguments) != 1 or not is_name(arguments[0]):
        sys.stderr.write("usage: python -m launch.server_users QUEUE\n")
        return 2
    sys.stdout.write(with_passwords(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
