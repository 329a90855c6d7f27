"""What the scaler may ask of the world: a provider of instances.

Every method raises `ProviderUnavailable` when the provider can't be reached, or refuses for now: nothing is known then,
and the scaler holds. One suite in `tests/contract/` holds every implementation to this text. A provider serves one
queue; instances of other queues are never seen through it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from launch.core.capacity import Amount
from launch.errors import LaunchError
from launch.queue import QueueSpec
from scaler.core.instance import Instance, StopMode
from scaler.core.intent import Intent


class ProviderUnavailable(LaunchError):
    """The provider can't be reached, or can't do this now. What was asked may or may not have taken effect."""


class ProviderRefused(ProviderUnavailable):
    """The provider said no, so nothing has been started or changed: not allowed, over a quota, too fast.

    `retry_after_s`: not to be asked again any sooner, if the provider knows that better than the scaler.
    """

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ProviderUnsuitable(LaunchError):
    """There is no provider for what the queue asks for: nothing changes until its spec does."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be asked for: goes into an `Intent` word for word."""

    count: int
    request: str
    config: str
    capacity: Amount
    note: str


@dataclass(frozen=True, slots=True)
class Launched:
    """What exists because of an intent. `missing`: why there are fewer than asked for, if the provider is out of them.

    Missing capacity is nothing else: who may not launch, or launches too fast, gets `ProviderUnavailable`.
    """

    instances: Sequence[Instance]
    missing: str | None = None


class Provider(Protocol):
    """Where the instances of one queue come from."""

    async def list(self) -> Sequence[Instance]:
        """Every instance of this queue that exists, those that an earlier scaler started included, oldest first.

        One that this very provider has launched is there from then on until it is gone, even while the cloud itself
        does not show it yet; another scaler's may be missing for some seconds.
        """
        ...

    async def capacity(self, spec: QueueSpec) -> Amount:
        """What one instance, if it were launched now for `spec`, would offer to jobs."""
        ...

    async def propose(self, spec: QueueSpec, count: int) -> Proposal:
        """What to ask for next, given what had no capacity lately; starts nothing."""
        ...

    async def launch(self, intent: Intent) -> Launched:
        """Start what an intent asks for; returns what exists because of it.

        Idempotent by `intent.token`: a repeat, by another scaler too, starts only what the first did not, and never
        more than `intent.count` in all. Raises `ProviderRefused` if nothing was started for sure.
        """
        ...

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        """Begin to end an instance; from then on it is listed as stopping until it is gone. No error if it is gone."""
        ...

    def agent_left(self, instance_id: str) -> None:
        """Its agent has left, so it may be about to end by itself. A hint: look more often for a while."""
        ...

    async def explain(self, instance_id: str) -> str:
        """What is known of an instance that never registered: an exit code, the end of its output. For people.

        Also of one that is gone, for a while; empty if nothing is known.
        """
        ...

    def changes(self) -> AsyncGenerator[None]:
        """Yields at once, and then whenever `list` may have changed by itself. A hint; close it when done."""
        ...

    async def drain(self, timeout_s: float) -> Sequence[str]:
        """End every instance that must not outlive the scaler, letting each finish what it holds.

        Waits until they are gone, at most `timeout_s`; returns the ids of those that are left. A provider whose
        instances outlive the scaler ends none and returns none.
        """
        ...

    async def force(self, timeout_s: float) -> Sequence[str]:
        """As `drain`, but each hands back or leaves behind what it holds instead of finishing it."""
        ...

    async def close(self) -> None:
        """Let go; instances that still exist go on. Idempotent."""
        ...
