"""`docker run …` taken apart: the image, what is run in it, its environment and its mounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ALONE = frozenset({"-d", "--detach", "--rm", "--privileged", "--init", "-i", "--interactive", "-t", "--tty", "-it",
                    "-P", "--read-only", "--no-healthcheck", "-q", "--quiet"})  # fmt: skip
_ENV = frozenset({"-e", "--env"})
_MOUNTS = frozenset({"-v", "--volume"})


@dataclass(slots=True)
class DockerRun:
    """One call. `mounts` are host paths by container path."""

    image: str = ""
    words: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    detached: bool = False

    @property
    def name(self) -> str:
        """The container's name; empty if the engine would choose one."""
        return next(iter(self.options.get("--name", [])), "")

    def on_host(self, text: str) -> str:
        """`text` with the paths of mounts as the host has them."""
        for inside, outside in sorted(self.mounts.items(), key=lambda pair: -len(pair[0])):
            if text == inside or text.startswith(inside + "/"):
                return outside + text[len(inside) :]
        return text


def parse(words: Sequence[str]) -> DockerRun:
    """What follows `docker run`."""
    run, rest = DockerRun(), list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in _ALONE:
            run.detached = run.detached or option in ("-d", "--detach")
            continue
        option, equals, value = option.partition("=") if option.startswith("--") else (option, "", "")
        if not equals:
            value = rest.pop(0)
        _take(run, option, value)
    run.image = rest.pop(0) if rest else ""
    run.words = rest
    return run


def _take(run: DockerRun, option: str, value: str) -> None:
    if option in _ENV:
        name, equals, text = value.partition("=")
        if equals:
            run.env[name] = text
    elif option == "--env-file":
        for line in Path(value).read_text().splitlines():
            name, equals, text = line.partition("=")
            if equals and not line.startswith("#"):
                run.env[name] = text
    elif option in _MOUNTS:
        outside, _, inside = value.partition(":")
        run.mounts[inside.partition(":")[0]] = outside
    elif option == "--mount":
        parts = dict(part.partition("=")[::2] for part in value.split(","))
        inside = parts.get("target") or parts.get("dst") or parts.get("destination") or ""
        run.mounts[inside] = parts.get("source") or parts.get("src") or ""
    else:
        run.options.setdefault(option, []).append(value)
