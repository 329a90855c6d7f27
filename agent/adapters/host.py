"""The machine's name, and the agent's name for life, kept on its disk.

An agent that is restarted must be the same one, or nobody would finish what it had started; two agents on one machine
must be two. So an id lives in a file that its agent keeps locked while it runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from launch.errors import LaunchError

MAX_AGENTS_A_FOLDER = 1000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(slots=True)
class AgentId:
    """An agent's id, locked for as long as this is open."""

    id: str
    _descriptor: int

    def close(self) -> None:
        """Let another process be this agent. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def host_name() -> str:
    """This machine's name, as far as it can be part of an id."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:64].strip("-") or "host"


def take_agent_id(folder: Path, wanted: str | None) -> AgentId:
    """The id `wanted`, or the first one kept in `folder` that no process uses, or a new one.

    Raises `LaunchError` if the wanted one is in use or no id, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if wanted is not None:
            return _take(folder, wanted)
        for number in range(1, MAX_AGENTS_A_FOLDER + 1):
            taken = _take_numbered(folder / f"agent-{number}.id")
            if taken is not None:
                return taken
    except OSError as error:
        raise LaunchError(
            f"can't keep the agent's id in {folder}: {error.strerror}", hint="name a folder with --data-dir"
        ) from error
    raise LaunchError(f"{MAX_AGENTS_A_FOLDER} agents use {folder} already", hint="name another folder with --data-dir")


def _take(folder: Path, wanted: str) -> AgentId:
    if not _ID.fullmatch(wanted):
        raise LaunchError(
            f"'{wanted[:80]}' is not an agent id", hint="allowed: letters, digits, '_' and '-', at most 128"
        )
    descriptor = _locked(folder / f"agent-{wanted}.lock")
    if descriptor is None:
        raise LaunchError(f"an agent with the id {wanted} runs already", hint="stop it first, or choose another id")
    return AgentId(wanted, descriptor)


def _take_numbered(path: Path) -> AgentId | None:
    descriptor = _locked(path)
    if descriptor is None:
        return None
    kept = os.read(descriptor, 256).decode(errors="replace").strip()
    if not _ID.fullmatch(kept):
        kept = f"{host_name()}-{secrets.token_hex(3)}"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{kept}\n".encode(), 0)
        os.fsync(descriptor)
    return AgentId(kept, descriptor)


def _locked(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
