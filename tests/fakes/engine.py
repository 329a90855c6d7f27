r"""A container engine in memory, true to `agent.ports.Engine` and to what Docker does behind it.

    engine = FakeEngine(images=["busybox"])
    engine.scripts[("train",)] = Script(hold=True)     # a container whose command is `train` runs until told otherwise
    engine.write(container, "stdout", b"epoch 1\n")
    engine.exit(container, 3)

A container without a script exits with code 0 as soon as it is started. Faults: `engine.fail(step, error)`,
`engine.lose_reply(step)`, `engine.stop()` and `engine.start_again()`, `engine.follow_misses`, `engine.pull_gate`,
`engine.start_gate`.
"""

from __future__ import annotations

import asyncio
import secrets
import signal as signals
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.core.container import same_attempt
from agent.core.frames import nanoseconds, timestamp
from agent.core.registry_login import Credential
from agent.ports import (
    Container,
    DiskSpace,
    EngineError,
    EngineInfo,
    EngineUnavailable,
    ImageInfo,
    LogFrame,
    PathInfo,
    PullProgress,
    Usage,
)
from launch.ports import Clock
from tests.fakes.clock import LoopClock
from tests.fakes.engine_files import FakeTree

PIECE_BYTES = 16 * 1024
"""The engine cuts longer lines into pieces of this size, which share one time."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a container does once it is started: write `output`, then exit, or run on if it `hold`s.

    `ignores` names signals that do nothing; any other ends it with 128 + its number, SIGTERM with `on_term` if set.
    `start_error` makes the start fail, which leaves it `created` with `start_code`.
    """

    exit_code: int = 0
    output: tuple[tuple[str, bytes], ...] = ()
    hold: bool = False
    oom_killed: bool = False
    ignores: frozenset[str] = frozenset()
    on_term: int | None = None
    start_error: EngineError | None = None
    start_code: int = 128
    leaves: Mapping[str, bytes] = field(default_factory=dict)
    """Files that it writes, by absolute path."""
    answer: Callable[[bytes], bytes] | None = None
    """What it writes when something is written to its input; None for a program that does not read it."""


def command_not_found(command: str) -> Script:
    """The script of a command that the engine can't execute."""
    message = f'unable to start container process: exec: "{command}": executable file not found in $PATH: unknown'
    return Script(start_error=EngineError("start", 400, message), start_code=127)


@dataclass(slots=True)
class FakeContainer:
    """One container's state; `config` is the body it was created from."""

    id: str
    name: str
    config: Mapping[str, Any]
    script: Script
    state: str = "created"
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    frames: list[LogFrame] = field(default_factory=list)
    unfinished: dict[str, bytes] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    signals: list[str] = field(default_factory=list)
    files: FakeTree = field(default_factory=FakeTree)
    usage: Usage = field(default_factory=lambda: Usage(0.0, 2**20, 0, 0))
    """What it has used, while it runs; set it."""

    def seen(self) -> Container:
        """As the port shows it."""
        labels = dict(self.config.get("Labels") or {})
        return Container(
            self.id,
            self.name,
            self.state,
            self.exit_code,
            self.oom_killed,
            self.error,
            self.started_at,
            self.finished_at,
            labels,
            bool(self.config.get("Tty")),
            tuple(self.config.get("Env") or ()),
        )


class FakeEngine:
    """`agent.ports.Engine`."""

    def __init__(self, *, images: Iterable[str] = (), registry: Iterable[str] = (), clock: Clock | None = None) -> None:
        self.images = {name: ImageInfo(f"sha256:{secrets.token_hex(32)}", None) for name in images}
        self.registry = set(registry)
        self.scripts: dict[tuple[str, ...], Script] = {}
        self.containers: dict[str, FakeContainer] = {}
        self.made: dict[str, tuple[bytes, Mapping[str, str]]] = {}
        self.calls: list[tuple[str, str]] = []
        self.follow_misses = 0
        """Fault: following drops so many frames at the end of a container's output, as a real engine may."""
        self.pull_gate: asyncio.Event | None = None
        """While it is set to an event that is clear, pulls take for ever."""
        self.start_gate: asyncio.Event | None = None
        """The same for starts."""
        self.pull_progress: tuple[PullProgress, ...] = ()
        """What each pull tells at its beginning."""
        self.private: dict[str, Credential] = {}
        """Images of `registry` that are given to this login alone."""
        self.logins: list[Credential | None] = []
        """What each pull came with."""
        self.space: DiskSpace | None = None
        """Its disk, which fills by `image_bytes` with each image that is pulled; None: not known, and endless."""
        self.image_bytes = 1024**3
        self._clock = clock or LoopClock()
        self._last_ns = 0
        self._running = True
        self._generation = 0
        self._failures: dict[str, deque[EngineError | EngineUnavailable]] = defaultdict(deque)
        self._lost: dict[str, int] = defaultdict(int)

    # -- what a test does ----------------------------------------------------------------------------------------

    def write(self, container: str, source: str, data: bytes) -> None:
        """The container writes; a line shows in its log once it is complete, or the container has exited."""
        found = self._of(container)
        *lines, rest = (found.unfinished.pop(source, b"") + data).split(b"\n")
        for line in lines:
            self._log(found, source, line + b"\n")
        whole = len(rest) // PIECE_BYTES * PIECE_BYTES
        if whole:
            self._log(found, source, rest[:whole])
        if rest[whole:]:
            found.unfinished[source] = rest[whole:]
        self._notify(found)

    def leave(self, container: str, path: str, content: bytes) -> None:
        """The container writes a file; folders above it are made."""
        self._of(container).files.write(path, content, timestamp(self._tick()))

    def exit(self, container: str, code: int = 0, *, oom_killed: bool = False) -> None:
        """The container's process ends."""
        found = self._of(container)
        for source, rest in found.unfinished.items():
            self._log(found, source, rest)
        found.unfinished.clear()
        found.state, found.exit_code, found.oom_killed = "exited", code, oom_killed
        found.finished_at = timestamp(self._tick())
        self._notify(found)

    def fail(self, step: str, error: EngineError | EngineUnavailable, times: int = 1) -> None:
        """Fault: the next `times` calls of `step` (a method's name) do nothing and raise `error`."""
        self._failures[step].extend([error] * times)

    def lose_reply(self, step: str, times: int = 1) -> None:
        """Fault: the next `times` calls of `step` take effect, but raise `EngineUnavailable`."""
        self._lost[step] += times

    def stop(self, *, kill: bool = True) -> None:
        """Fault: the engine goes away; without live-restore it kills what runs. Waits and streams break off."""
        self._running = False
        self._generation += 1
        for found in self.containers.values():
            if kill and found.state == "running":
                self.exit(found.id, 137)
            self._notify(found)

    def start_again(self) -> None:
        """End of that fault."""
        self._running = True

    # -- the port ------------------------------------------------------------------------------------------------

    async def info(self) -> EngineInfo:
        """Version and size."""
        await self._call("info", "")
        return EngineInfo("20.10.24", 4, 16 * 1024**3, "x86_64")

    async def image(self, reference: str) -> ImageInfo | None:
        """The image if it is present, else None."""
        await self._call("image", reference)
        return self.images.get(reference)

    async def pull(
        self, reference: str, *, login: Credential | None = None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        """Fetch an image from `registry`."""
        await self._call("pull", reference)
        self.logins.append(login)
        for come in self.pull_progress:
            if progress is not None:
                progress(come)
        if self.pull_gate is not None:
            await self.pull_gate.wait()
        if reference not in self.registry:
            raise EngineError("pull", 404, f"manifest for {reference} not found: manifest unknown: manifest unknown")
        if reference in self.private and login != self.private[reference]:
            raise EngineError("pull", 500, f"Head {reference}: no basic auth credentials")
        if self.space is not None and reference not in self.images:
            if self.space.free_bytes < self.image_bytes:
                raise EngineError("pull", 500, "write /var/lib/docker/tmp/GetImageBlob1: no space left on device")
            self.space = replace(self.space, free_bytes=self.space.free_bytes - self.image_bytes)
        digest = f"sha256:{secrets.token_hex(32)}"
        self.images[reference] = ImageInfo(digest, f"{reference.partition(':')[0]}@{digest}")
        self._reply("pull")

    async def remove_image(self, reference: str) -> bool:
        """Remove an image that no container needs."""
        await self._call("remove_image", reference)
        if any(found.config["Image"] == reference for found in self.containers.values()):
            return False
        if self.images.pop(reference, None) is not None and self.space is not None:
            self.space = replace(self.space, free_bytes=self.space.free_bytes + self.image_bytes)
        self._reply("remove_image")
        return True

    async def disk(self) -> DiskSpace | None:
        """Whatever `space` says."""
        await self._call("disk", "")
        return self.space

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container, or return the id of the one that has the name."""
        await self._call("create", name)
        found = self._find(name)
        if found is None:
            if config["Image"] not in self.images:
                raise EngineError("create", 404, f"No such image: {config['Image']}")
            script = self.scripts.get(tuple(config.get("Cmd") or ()), Script())
            found = FakeContainer(self._new_id(), name, dict(config), script)
            for mount in config.get("HostConfig", {}).get("Mounts", ()):
                found.files.make_folder(mount["Target"], timestamp(self._tick()))
            if config.get("WorkingDir"):
                found.files.make_folder(config["WorkingDir"], timestamp(self._tick()))
            self.containers[found.id] = found
        elif not same_attempt(found.config.get("Labels") or {}, config.get("Labels") or {}):
            raise EngineError("create", 409, f"the name {name} is another container's")
        self._reply("create")
        return found.id

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        await self._call("rename", name)
        found, other = self._of(container, "rename"), self._find(name)
        if other is not None:
            raise EngineError("rename", 409, f"the name {name} is in use by container {other.id}")
        found.name = name
        self._reply("rename")

    async def start(self, container: str) -> None:
        """Start it; no error if it runs."""
        await self._call("start", container)
        if self.start_gate is not None:
            await self.start_gate.wait()
        found = self._of(container, "start")
        script = found.script
        if script.start_error is not None:
            found.exit_code, found.error = script.start_code, script.start_error.reply
            raise script.start_error
        if found.state != "running":
            found.state, found.exit_code, found.started_at = "running", 0, timestamp(self._tick())
            for source, data in script.output:
                self.write(found.id, source, data)
            for path, content in script.leaves.items():
                self.leave(found.id, path, content)
            if not script.hold:
                self.exit(found.id, script.exit_code, oom_killed=script.oom_killed)
            self._notify(found)
        self._reply("start")

    async def wait(self, container: str) -> None:
        """Return once the container does not run (any more)."""
        await self._call("wait", container)
        found = self._of(container, "wait")
        generation = self._generation
        while found.state == "running":
            await found.changed.wait()
            if self._generation != generation:
                raise _unavailable("wait")

    async def inspect(self, container: str) -> Container | None:
        """The container by id or name, or None if there is none."""
        await self._call("inspect", container)
        found = self._find(container)
        return found.seen() if found is not None else None

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry these labels."""
        await self._call("list", "")
        seen = [found.seen() for found in self.containers.values()]
        return [one for one in seen if labels.items() <= one.labels.items()]

    async def signal(self, container: str, name: str) -> None:
        """Send a signal; no error if the container does not run, or is gone."""
        await self._call("signal", container)
        found = self._find(container)
        if found is not None and found.state == "running":
            found.signals.append(name)
            if name not in found.script.ignores:
                default = 128 + signals.Signals[name].value
                on_term = found.script.on_term
                self.exit(found.id, on_term if name == "SIGTERM" and on_term is not None else default)
        self._reply("signal")

    async def remove(self, container: str) -> None:
        """Remove it, killing it if it runs; no error if it is gone."""
        await self._call("remove", container)
        found = self._find(container)
        if found is not None:
            if found.state == "running":
                self.exit(found.id, 137)
            found.state = "removing"
            self._notify(found)
            del self.containers[found.id]
        self._reply("remove")

    async def logs(
        self, container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        """Frames from `since` on; with `follow` until the container stops."""
        await self._call("logs", container)
        found = self._of(container, "logs")
        generation, start, position = self._generation, nanoseconds(since) if since is not None else 0, 0
        if tail is not None:
            position = max(0, len(found.frames) - tail)
        while True:
            running = found.state == "running"
            stop = len(found.frames) if running or not follow else len(found.frames) - self.follow_misses
            while position < stop:
                frame = found.frames[position]
                position += 1
                if nanoseconds(frame.time) >= start:
                    yield frame
                if self._generation != generation:
                    raise _unavailable("logs")
            if not follow or not running:
                return
            while len(found.frames) == position and found.state == "running" and self._generation == generation:
                await found.changed.wait()
            if self._generation != generation:
                raise _unavailable("logs")

    async def stat(self, container: str, path: str) -> PathInfo | None:
        """A path in the container; None if it is not there."""
        await self._call("stat", path)
        found = self._find(container)
        return found.files.stat(path) if found is not None else None

    async def put(self, container: str, path: str, tar: AsyncIterable[bytes]) -> None:
        """Unpack a tar, gzipped or not, into an existing folder."""
        await self._call("put", path)
        found = self._of(container, "put")
        folder = found.files.stat(path)
        if folder is None:
            raise EngineError("put", 404, f"Could not find the file {path} in container {container}")
        if not folder.is_dir:
            raise EngineError("put", 400, "extraction point is not a directory")
        generation = self._generation
        packed = b"".join([piece async for piece in tar])
        if self._generation != generation:
            raise _unavailable("put")
        try:
            found.files.unpack(path, packed, timestamp(self._tick()))
        except ValueError as error:
            raise EngineError("put", 500, f"Error processing tar file: {error}") from None
        self._reply("put")

    async def get(self, container: str, path: str) -> AsyncGenerator[bytes]:
        """A file or folder as a tar, its own base name the first entry."""
        await self._call("get", path)
        found = self._of(container, "get")
        if found.files.stat(path) is None:
            raise EngineError("get", 404, f"Could not find the file {path} in container {container}")
        generation, packed = self._generation, found.files.pack(path)
        for start in range(0, len(packed), PIECE_BYTES):
            if self._generation != generation:
                raise _unavailable("get")
            yield packed[start : start + PIECE_BYTES]

    async def usage(self, container: str) -> Usage | None:
        """What the container has used so far; None if it does not run."""
        await self._call("usage", container)
        found = self._of(container, "usage")
        return found.usage if found.state == "running" else None

    async def make_image(self, reference: str, tar: bytes, labels: Mapping[str, str]) -> None:
        """Make an image; what it was made of is kept in `made`."""
        await self._call("make_image", reference)
        self.made[reference] = (tar, dict(labels))
        self.images[reference] = ImageInfo(f"sha256:{secrets.token_hex(32)}", None)
        self._reply("make_image")

    async def talk(self, container: str, said: bytes) -> AsyncGenerator[bytes]:
        """Yields what the container's script answers, then nothing until it stops."""
        await self._call("talk", container)
        found = self._of(container, "talk")
        if found.state != "running":
            raise EngineError("talk", 409, f"You cannot attach to a stopped container: {container}")
        generation = self._generation
        if found.script.answer is not None:
            yield found.script.answer(said)
        while found.state == "running" and self._generation == generation:
            await found.changed.wait()
        if self._generation != generation:
            raise _unavailable("talk")

    async def close(self) -> None:
        """Nothing to release."""

    # -- inside --------------------------------------------------------------------------------------------------

    async def _call(self, step: str, what: str) -> None:
        """What every call begins with: it takes a turn of the loop, and may be made to fail."""
        self.calls.append((step, what))
        await asyncio.sleep(0)
        if not self._running:
            raise _unavailable(step)
        if self._failures[step]:
            raise self._failures[step].popleft()

    def _new_id(self) -> str:
        return secrets.token_hex(32)

    def _reply(self, step: str) -> None:
        if self._lost[step]:
            self._lost[step] -= 1
            raise _unavailable(step)

    def _find(self, container: str) -> FakeContainer | None:
        by_name = (found for found in self.containers.values() if found.name == container)
        return self.containers.get(container) or next(by_name, None)

    def _of(self, container: str, step: str = "inspect") -> FakeContainer:
        found = self._find(container)
        if found is None:
            raise EngineError(step, 404, f"No such container: {container}")
        return found

    def _log(self, found: FakeContainer, source: str, line: bytes) -> None:
        time = timestamp(self._tick())
        for start in range(0, len(line), PIECE_BYTES):
            found.frames.append(LogFrame(source, time, line[start : start + PIECE_BYTES]))

    def _tick(self) -> int:
        """A time that has not been used yet."""
        self._last_ns = max(self._last_ns + 1000, int(self._clock.now().timestamp() * 1e9))
        return self._last_ns

    def _notify(self, found: FakeContainer) -> None:
        """Wake who waits for the container; they look again at what it is now."""
        changed, found.changed = found.changed, asyncio.Event()
        changed.set()


def _unavailable(step: str) -> EngineUnavailable:
    return EngineUnavailable(f"the fake engine can't {step}: it is away")
