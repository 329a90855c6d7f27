"""Secrets on this machine: variables of the agent's own environment, and a folder with a file each.

A folder is what Docker and Kubernetes mount secrets as (`/run/secrets`). Kubernetes' files are links to a hidden folder
beside them, which is exchanged as a whole when a secret changes: so links are followed, but not out of the folder.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agent.core.secret_source import Source, variable_of
from agent.ports import SecretRefused, SecretUnavailable

MAX_FILE_BYTES = 64 * 1024
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)


class EnvSecrets:
    """Variables `LAUNCH_SECRET_<NAME>`; no other variable of the agent can be read."""

    def __init__(self, source: Source, environ: Mapping[str, str] = os.environ) -> None:
        self.source = source
        self._environ = environ

    async def get(self, name: str) -> bytes | None:
        value = self._environ.get(variable_of(name))
        return None if value is None else os.fsencode(value)

    async def close(self) -> None:
        pass


class DirSecrets:
    """Files of one folder, without the newline at their end; regular ones of at most `MAX_FILE_BYTES`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._folder = Path(source.prefix)

    async def get(self, name: str) -> bytes | None:
        return await asyncio.to_thread(self._read, name)

    async def close(self) -> None:
        pass

    def _read(self, name: str) -> bytes | None:
        place = self.source.place(name)
        try:
            # Looked at twice: in the moment of an exchange a link leads to a folder that is just being removed.
            file = self._open(name)
            if file is None:
                file = self._open(name)
            if file is None:
                return None
            try:
                return self._content(file, place)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno in _REFUSED:
                hint = "the agent's user must be able to read it"
                raise SecretRefused(f"{place}: {error.strerror}", hint=hint) from None
            raise SecretUnavailable(f"{place}: {error.strerror}") from None

    def _open(self, name: str) -> int | None:
        try:
            # Not blocking: a pipe that nobody writes to would be waited for.
            return os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def _content(self, file: int, place: str) -> bytes:
        """What was opened, once it is clear what that is: a path may mean another file a moment later."""
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise SecretRefused(f"{place} is no regular file")
        if not Path(f"/proc/self/fd/{file}").readlink().is_relative_to(self._folder.resolve()):
            raise SecretRefused(f"{place} leads out of the folder")
        data = b""
        while len(data) <= MAX_FILE_BYTES + 2:
            piece = os.read(file, MAX_FILE_BYTES + 3 - len(data))
            if not piece:
                break
            data += piece
        if data.endswith(b"\n"):
            data = data[:-1].removesuffix(b"\r")
        if len(data) > MAX_FILE_BYTES:
            raise SecretRefused(f"{place} is larger than {MAX_FILE_BYTES // 1024} KiB")
        return data
