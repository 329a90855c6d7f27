"""What the doctor asks of the world, in this project's words. The real ones are adapters; tests have fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from launch.job import JobSpec
from launch.ports import Broker, Documents
from launch.queue import QueueSpec


class Server(Protocol):
    """A NATS server that is looked at. Raises `BrokerError`."""

    broker: Broker

    @property
    def version(self) -> tuple[int, int, int]:
        """The server's."""
        ...

    async def jetstream(self) -> dict[str, Any]:
        """The account's use and limits."""
        ...

    async def user(self) -> str | None:
        """Who we are to it; None if it does not tell."""
        ...

    async def ahead_s(self) -> float | None:
        """How far our clock is before its own; None if it does not tell."""
        ...

    async def agent_ahead_s(self, agent_id: str) -> float | None:
        """How far an agent's clock is before the server's, by its last word; None if it does not tell."""
        ...

    async def drifts(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, tuple[Any, Any]] | None]:
        """By stream, what differs: what it is and what it should be; None if there is no such stream."""
        ...

    async def may_ask(self, subject: str) -> bool | None:
        """Whether this user may send that request of the JetStream API; None if that can't be told."""
        ...

    async def may_publish(self, subject: str) -> bool | None:
        """Whether this user may publish there; None if that can't be told."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


@dataclass(frozen=True, slots=True)
class EngineDetails:
    """What the engine tells of itself. `root` is where it keeps images, if that is on this machine."""

    version: str
    host: str
    root: str | None
    runtimes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a registry says of an image: its digest, or what is the matter and what to do about it."""

    registry: str
    login: str
    """With which login it was asked: where that came from, never what it is."""
    digest: str = ""
    trouble: str | None = None
    cure: str | None = None


Refusals = Callable[[Mapping[str, Any], JobSpec, QueueSpec], str | None]
"""Why an agent of that policy and queue refuses the job; None if it does not, or if the policy can't be understood."""


class Engine(Protocol):
    """The Docker Engine. Raises `LaunchError`."""

    async def details(self) -> EngineDetails:
        """What it is."""
        ...

    async def has(self, image: str) -> bool:
        """Whether the image is on it."""
        ...

    async def resolve(self, image: str, spec: QueueSpec | None) -> Resolved:
        """What the registry has under that name, asked with the login that an agent here would use."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class Cloud(Protocol):
    """AWS. Raises `LaunchError`."""

    async def identity(self, spec: QueueSpec) -> str:
        """Who we are to it."""
        ...

    async def dry_run(self, spec: QueueSpec, documents: Documents) -> str:
        """Asks for what the scaler would launch, as a dry run; returns what that would be."""
        ...
