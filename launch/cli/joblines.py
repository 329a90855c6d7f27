"""Jobs as JSON lines, from a file or a pipe: read in blocks, waited for without holding up the event loop.

The invariant: no more than a block and the longest line that a job may have is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

from launch.errors import LaunchError, Problem, SpecError
from launch.specfile import parse_json
from launch.subjects import MAX_SPEC_BYTES

BLOCK_BYTES = 256 * 1024
STDIN = Path("-")
_STDIN_FD = 0
_BY_KEY = ("env", "resources", "labels")
_ADDED = ("inputs", "artifacts")


class Stopped(Exception):
    """No more lines are wanted."""


class Unusable(LaunchError):
    """The file as a whole is not what was asked for."""


class Stop:
    """Whether somebody has asked to stop; whoever waits for lines hears it at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        """What the command ends with, once it was asked for."""
        self.woken = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether it was asked for."""
        return self.exit_code != 0

    def ask(self, exit_code: int) -> None:
        """Have the next line raise `Stopped`."""
        self.exit_code = exit_code
        self.woken.set()


class JobLines:
    """The lines of one file; empty ones do not count as jobs."""

    def __init__(self, fd: int, name: str, *, skip: int) -> None:
        self._fd = fd
        self._name = name
        self._skip = skip
        status = os.fstat(fd)
        self.piped = not stat.S_ISREG(status.st_mode)
        self._begin = 0 if self.piped else os.lseek(fd, 0, os.SEEK_CUR)
        self.size_bytes = None if self.piped else max(0, status.st_size - self._begin)
        """Of a regular file, what is to be read."""

    @classmethod
    @contextlib.contextmanager
    def opened(cls, source: Path, *, skip: int) -> Iterator[JobLines]:
        """The lines of the file, or of stdin for `-`, after the first `skip` jobs. Raises `Unusable`."""
        name = "stdin" if source == STDIN else str(source)
        try:
            fd = os.dup(_STDIN_FD) if source == STDIN else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _unreadable(name, error.strerror if isinstance(error, OSError) else str(error)) from None
        try:
            yield cls(fd, name, skip=skip)
        finally:
            os.close(fd)

    def rewind(self) -> None:
        """Begin again; only a regular file can."""
        os.lseek(self._fd, self._begin, os.SEEK_SET)

    async def trees(self, stop: Stop) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Each job's place and its JSON object. Raises `SpecError` that names the line, `Unusable`, `Stopped`."""
        jobs = 0
        async for number, line in self._lines(stop):
            jobs += 1
            if jobs > self._skip:
                source = f"{self._name}, line {number}"
                yield source, _tree(line, source)
        if jobs < self._skip:
            raise Unusable(f"can't skip {self._skip} jobs: {self._name} has {jobs}", hint=f"allowed: up to {jobs}")
        if not jobs:
            raise Unusable(f"{self._name} has no jobs", hint="allowed: a JobSpec as a JSON object a line")

    async def _lines(self, stop: Stop) -> AsyncGenerator[tuple[int, bytes]]:
        number = 0
        rest = b""
        ended = False
        while not ended:
            block = await self._block(stop)
            ended = not block
            *whole, rest = (rest + block).split(b"\n")
            if ended and rest:
                whole.append(rest)
            for line in whole:
                number += 1
                if stop.asked:
                    raise Stopped("stopped")
                if line.strip():
                    yield number, line
            if len(rest) > MAX_SPEC_BYTES:
                problem = Problem("", f"found more than {MAX_SPEC_BYTES} bytes", "allowed: that many, a job a line")
                raise SpecError(f"{self._name}, line {number + 1}", [problem])

    async def _block(self, stop: Stop) -> bytes:
        """What is there next; nothing at the end."""
        if self.piped:
            await self._readable(stop)
        if stop.asked:
            raise Stopped("stopped")
        try:
            block = os.read(self._fd, BLOCK_BYTES)
        except OSError as error:
            raise _unreadable(self._name, error.strerror) from None
        if self.piped and not block:
            # Ctrl-C ends whoever writes to the pipe, too: an end because of that is none, and our signal came first.
            for _ in range(2):
                await asyncio.sleep(0)
            if stop.asked:
                raise Stopped("stopped")
        return block

    async def _readable(self, stop: Stop) -> None:
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._fd, stop.woken.set)
        except PermissionError:  # such as /dev/null: always
            return
        try:
            await stop.woken.wait()
        finally:
            loop.remove_reader(self._fd)
            stop.woken.clear()


def laid_over(defaults: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """A line over what is said of every job: keys win one by one, inputs and artifacts are added, all else replaced."""
    both = {**defaults, **tree}
    for key in defaults.keys() & tree.keys():
        below, over = defaults[key], tree[key]
        if key in _BY_KEY and isinstance(over, dict):
            both[key] = {**below, **over}
        elif key in _ADDED and isinstance(over, list):
            both[key] = [*below, *over]
    return both


def _tree(line: bytes, source: str) -> dict[str, Any]:
    if line.lstrip().startswith(b"[") or line.strip() == b"{":
        how = "allowed: one JSON object a line, as `jq -c .` writes them (of a list, `jq -c '.[]'`)"
        raise SpecError(source, [Problem("", "found the begin of a list, or of an object over several lines", how)])
    tree = parse_json(line, source=source)
    if not isinstance(tree, dict):
        raise SpecError(source, [Problem("", "found no JSON object", "allowed: a JobSpec as a JSON object a line")])
    return tree


def _unreadable(name: str, reason: str | None) -> Unusable:
    return Unusable(f"{name} can't be read: {reason}", hint="allowed: a file of JSON lines, or - for stdin")
