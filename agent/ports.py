"""What the agent may ask of the container engine and of its machine.

Every method of `Engine` raises `EngineUnavailable` when the engine can't be reached or does not answer in time, and
`EngineError` (status and message as the engine gave them) when it refuses; nothing else. One suite in
`tests/contract/` holds every implementation to this text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from agent.core.registry_login import Credential
from agent.core.secret_source import Source
from launch.errors import LaunchError


class EngineError(LaunchError):
    """The engine answered with an error: HTTP-like `status` and its `message`.

    `step` says what was asked for (`pull`, `create`, `start`, …): the same message can mean different things.
    """

    def __init__(self, step: str, status: int, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.status = status
        self.reply = message


class EngineUnavailable(LaunchError):
    """The engine can't be reached, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself and its machine."""

    version: str
    cpus: int
    memory_bytes: int
    machine: str = ""
    """The machine's architecture, as its kernel calls it: `x86_64`, `aarch64`."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image that is present: its id, the digest that it has in the repository asked for, its user and directory."""

    id: str
    digest: str | None
    user: str = ""
    workdir: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine sees it.

    `state` is the engine's word: created, running, paused, restarting, removing, exited, dead. `exit_code` means
    something once it is exited (or created, after a failed start). `error` is the engine's own account, often empty.
    Times are RFC 3339 with nanoseconds, or None where they have not come yet.
    """

    id: str
    name: str
    state: str
    exit_code: int
    oom_killed: bool
    error: str
    started_at: str | None
    finished_at: str | None
    labels: Mapping[str, str]
    tty: bool = False
    env: tuple[str, ...] = ()
    """`NAME=value`, as the container got them."""


@dataclass(frozen=True, slots=True)
class LogFrame:
    """A part of a container's output: a piece (one line, or a part of a long one), or several that follow each other.

    `time` is the first piece's, RFC 3339 with nanoseconds; `data` raw bytes. Where there are several pieces, `times`
    and `sizes` have each one's; where there is one, they are empty.
    """

    source: str
    time: str
    data: bytes
    times: Sequence[str] = ()
    sizes: Sequence[int] = ()

    def pieces(self) -> Iterator[LogFrame]:
        """Each piece by itself."""
        if not self.times:
            yield self
        at = 0
        for time, size in zip(self.times, self.sizes, strict=True):
            yield LogFrame(self.source, time, self.data[at : at + size])
            at += size

    def split(self, count: int) -> tuple[LogFrame, LogFrame]:
        """The first `count` of several pieces, and the others; neither may be none."""
        at = sum(self.sizes[:count])
        return (
            frame_of(self.source, self.times[:count], self.sizes[:count], self.data[:at]),
            frame_of(self.source, self.times[count:], self.sizes[count:], self.data[at:]),
        )

    def fitting(self, room_bytes: int) -> int:
        """How many of its pieces, from the first on, have so many bytes of room."""
        return bisect_right(tuple(accumulate(self.sizes or (len(self.data),))), room_bytes)


def frame_of(source: str, times: Sequence[str], sizes: Sequence[int], data: bytes) -> LogFrame:
    """A frame of one piece or more."""
    if len(times) == 1:
        return LogFrame(source, times[0], data)
    return LogFrame(source, times[0], data, times, sizes)


@dataclass(frozen=True, slots=True)
class PathInfo:
    """A file or folder in a container. `modified` is RFC 3339 with nanoseconds."""

    name: str
    size: int
    is_dir: bool
    modified: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running container has used so far: CPU seconds, memory bytes now (caches left out), network bytes."""

    cpu_s: float
    memory_bytes: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull has come: bytes that are here, of those that are known to be needed so far."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The disk that images and containers lie on."""

    free_bytes: int
    total_bytes: int


class Engine(Protocol):
    """A container engine."""

    async def info(self) -> EngineInfo:
        """Version and size."""
        ...

    async def image(self, reference: str) -> ImageInfo | None:
        """The image if it is present, else None."""
        ...

    async def pull(
        self, reference: str, *, login: Credential | None = None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """Fetch an image; returns when it is there. Takes as long as it takes.

        `login` is for the registry that `reference` names. `progress` is told whenever there is some; it must not wait.
        """
        ...

    async def remove_image(self, reference: str) -> bool:
        """Take a name from an image, and the image from the disk if that was its last; no error if it is gone.

        False if it is the last, and a container, running or not, needs the image: then nothing is done.
        """
        ...

    async def disk(self) -> DiskSpace | None:
        """The engine's disk as it is now; None where that can't be known, as of an engine on another machine."""
        ...

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container from an engine-API body; returns its id.

        If the name is taken by a container of the same attempt, by its labels, returns the id of that one: names are
        deterministic, so an earlier try made it. If another has it, that is an `EngineError` with status 409.
        """
        ...

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name. Status 404 if it is not there, 409 if another has that name."""
        ...

    async def start(self, container: str) -> None:
        """Start it. A command that can't be executed is an `EngineError`; the container stays `created`."""
        ...

    async def wait(self, container: str) -> None:
        """Return once the container does not run (any more). Has no time limit of its own."""
        ...

    async def inspect(self, container: str) -> Container | None:
        """The container by id or name, or None if there is none."""
        ...

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry these labels."""
        ...

    async def signal(self, container: str, name: str) -> None:
        """Send a signal, such as `SIGTERM`; no error if the container does not run."""
        ...

    async def remove(self, container: str) -> None:
        """Remove it with its anonymous volumes, killing it if it runs; no error if it is gone."""
        ...

    def logs(
        self, container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        """Frames from `since` (a frame's `time`, inclusive) on; with `follow` until the container stops.

        Frames that are followed may also just end when the engine goes away: look whether the container still runs.
        With `tail` at most that many of the log's last pieces, in the order in which they were written.
        """
        ...

    async def stat(self, container: str, path: str) -> PathInfo | None:
        """A path in the container, running or not; None if it, or the container, is not there."""
        ...

    async def put(self, container: str, path: str, tar: AsyncIterable[bytes]) -> None:
        """Unpack a tar, gzipped or not, into an existing folder of the container. Streams: memory stays flat.

        What `tar` raises is raised here; closing it is for the caller.
        """
        ...

    def get(self, container: str, path: str) -> AsyncGenerator[bytes]:
        """A file or folder of the container as a tar, its own base name the first entry. Status 404 if absent."""
        ...

    async def usage(self, container: str) -> Usage | None:
        """What the container has used so far; None if it does not run."""
        ...

    async def make_image(self, reference: str, tar: bytes, labels: Mapping[str, str]) -> None:
        """Make the image `name:tag` whose root filesystem is `tar`; it replaces one of that name."""
        ...

    def talk(self, container: str, said: bytes) -> AsyncGenerator[bytes]:
        """Write to a running container's standard input (`OpenStdin`), which stays open; yields what it then writes.

        Has no time limit of its own. A container that does not run, or is gone, is an `EngineError`.
        """
        ...

    async def close(self) -> None:
        """Release the connection. Idempotent."""
        ...


class SecretRefused(LaunchError):
    """A secret does not exist, may not be read, or can't be used: to try again does not help until that is changed."""


class SecretUnavailable(LaunchError):
    """Where secrets lie can't be reached, did not answer in time, or is asked too often."""


class SecretStore(Protocol):
    """One source of secrets.

    Raises `SecretRefused` and `SecretUnavailable`, nothing else; no value is in their messages, nor in what is logged.
    """

    source: Source
    """What was configured; it bounds what a name can mean."""

    async def get(self, name: str) -> bytes | None:
        """The secret of this name, a `launch.fields.SecretName`; None if there is none. Not cached, bounded in time."""
        ...

    async def close(self) -> None:
        """Release what it holds. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry is asked with, if there is anything, where that comes from, and what was wrong on the way."""

    credential: Credential | None
    source: str
    trouble: str = ""


class LoginSource(Protocol):
    """A place where logins to registries lie, or are made.

    Raises `SecretRefused` and `SecretUnavailable`, nothing else; no password is in their messages or the log.
    """

    async def login(self, registry: str) -> Login | None:
        """The login for a registry's host; None if this knows nothing of it. Bounded in time."""
        ...

    async def close(self) -> None:
        """Release what it holds. Idempotent."""
        ...
