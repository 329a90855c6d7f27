"""An engine of either kind for the contract suite, and the programs that its containers run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from agent.ports import Container, Engine, LogFrame
from tests.fakes.engine import Script, command_not_found

PROGRAMS: dict[tuple[str, ...], Script] = {
    ("true",): Script(),
    ("sh", "-c", "exit 3"): Script(exit_code=3),
    ("sleep", "60"): Script(hold=True),
    ("no-such-command",): command_not_found("no-such-command"),
    ("sh", "-c", "echo one; echo two >&2; echo three; printf four"): Script(
        output=(("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three\nfour"))
    ),
    ("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"): Script(
        output=(("stdout", b"ready\n"),), hold=True, on_term=7
    ),
    ("sh", "-c", "echo ready; exec sleep 60"): Script(output=(("stdout", b"ready\n"),), hold=True),
    ("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo ready; exec sleep 60"): Script(
        output=(("stdout", b"x" * 40000 + b"\nready\n"),), hold=True
    ),
    ("sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; exec sleep 60"): Script(
        output=(("stdout", b"x" * 20000000),), hold=True
    ),
    ("cat",): Script(hold=True, answer=lambda said: said),
}
TRUE, EXIT_3, SLEEP, NOT_FOUND, SPEAK, TRAP, IDLE, LONG_LINE, FLOOD, ECHO = PROGRAMS


@dataclass
class Lab:
    """An engine, and the containers that this test makes on it."""

    engine: Engine
    image: str
    mark: str

    async def create(
        self,
        command: tuple[str, ...],
        *,
        name: str = "one",
        labels: Mapping[str, str] = {},
        mounts: Sequence[str] = (),
        env: Sequence[str] = (),
    ) -> str:
        config: dict[str, Any] = {
            "Image": self.image,
            "Cmd": list(command),
            "Labels": {"launch.test": self.mark, **labels},
            # No network: the engine makes such a container in half the time.
            "HostConfig": {
                "NetworkMode": "none",
                "Init": command is not NOT_FOUND,
                "Mounts": [{"Type": "volume", "Target": path} for path in mounts],
            },
            "Env": list(env),
            "OpenStdin": command == ECHO,
        }
        return await self.engine.create(f"{self.mark}-{name}", config)

    async def run(self, command: tuple[str, ...], *, name: str = "one") -> Container:
        container = await self.create(command, name=name)
        await self.engine.start(container)
        await self.engine.wait(container)
        return await self.see(container)

    async def see(self, container: str) -> Container:
        seen = await self.engine.inspect(container)
        assert seen is not None
        return seen

    async def read(
        self, container: str, *, since: str | None = None, follow: bool = False, tail: int | None = None
    ) -> list[LogFrame]:
        """The log piece by piece."""
        async with aclosing(self.engine.logs(container, since=since, follow=follow, tail=tail)) as frames:
            return [piece async for frame in frames for piece in frame.pieces()]

    async def until_ready(self, container: str) -> None:
        async with aclosing(self.engine.logs(container, since=None, follow=True)) as frames:
            async for frame in frames:
                if b"ready\n" in frame.data:
                    return
