"""Bugs to plant in the scaler: each makes the seeded runs find a breach of one invariant, or they are worth nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime
from unittest import mock

from launch.queue import QueueSpec
from scaler.adapters.aws.provider import AwsProvider
from scaler.core.instance import Instance, StopMode
from scaler.core.intent import Intent
from scaler.core.snapshot import Policy, Snapshot
from scaler.core.standing import Standing
from scaler.loop import QueueLoop
from scaler.observe import Observer


@contextmanager
def tokens_differ() -> Iterator[None]:
    """Each replay of an intent goes out under another token."""
    fresh = property(lambda _self: secrets.token_hex(32))
    with mock.patch.object(Intent, "token", fresh), mock.patch("scaler.adapters.aws.mirror.Mirror.of_intent", _none):
        yield


@contextmanager
def maximum_ignored() -> Iterator[None]:
    """Three more than allowed."""
    real = Observer.policy

    def policy(self: Observer, spec: QueueSpec) -> Policy:
        found = real(self, spec)
        return replace(found, max_instances=found.max_instances + 3)

    with mock.patch.object(Observer, "policy", policy):
        yield


@contextmanager
def canary_skipped() -> Iterator[None]:
    """Every launch configuration counts as proven."""
    real = Observer.look

    async def look(self: Observer, spec: QueueSpec) -> Snapshot:
        return replace(await real(self, spec), proven=True)

    with mock.patch.object(Observer, "look", look):
        yield


@contextmanager
def busy_are_idle() -> Iterator[None]:
    """Whoever is there has been idle from its start, and is ended instead of drained."""

    def idle_since(self: Standing) -> datetime | None:
        presence = self.worker.presence
        return presence.started_at if presence is not None else None

    async def stop(self: QueueLoop, action: object) -> bool:
        return await self._try_stop(action.instance_id, StopMode.KILL)  # type: ignore[attr-defined]

    with mock.patch.object(Standing, "idle_since", property(idle_since)), mock.patch.object(QueueLoop, "_stop", stop):
        yield


@contextmanager
def ends_forgotten() -> Iterator[None]:
    """What is to be ended is not."""

    async def stop(_self: AwsProvider, _instance_id: str, _mode: StopMode) -> None:
        return

    with mock.patch.object(AwsProvider, "stop", stop):
        yield


@contextmanager
def nothing_launched() -> Iterator[None]:
    """The queue's maximum is taken for 0."""
    real = Observer.policy

    def policy(self: Observer, spec: QueueSpec) -> Policy:
        return replace(real(self, spec), max_instances=0)

    with mock.patch.object(Observer, "policy", policy):
        yield


PLANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "tokens-differ": tokens_differ,
    "maximum-ignored": maximum_ignored,
    "canary-skipped": canary_skipped,
    "busy-are-idle": busy_are_idle,
    "ends-forgotten": ends_forgotten,
    "nothing-launched": nothing_launched,
}


def _none(_self: object, _intent: str) -> Sequence[Instance]:
    return ()
