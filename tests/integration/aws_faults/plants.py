"""Bugs to plant in the scaler: each makes the seeded runs find a breach of one invariant, or they are worth nothing."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest import mock

from launch.queue import QueueSpec
from scaler.adapters.aws.client import TRIES, Ec2
from scaler.adapters.aws.provider import AwsProvider
from scaler.core.actions import Stop
from scaler.core.instance import StopMode
from scaler.core.snapshot import Policy, Snapshot, Worker
from scaler.loop import QueueLoop
from scaler.observe import Observer


@contextmanager
def tokens_differ() -> Iterator[None]:
    """Each repeat of a launch goes out under another token."""

    async def launch(self: Ec2, parameters: dict[str, Any]) -> Any:
        def again(client: Any) -> Awaitable[Any]:
            return cast("Awaitable[Any]", client.run_instances(**{**parameters, "ClientToken": secrets.token_hex(32)}))

        return await self._tried(again, TRIES)

    with mock.patch.object(Ec2, "launch", launch):
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

    async def look(self: Observer, spec: QueueSpec, **more: Any) -> Snapshot:
        return replace(await real(self, spec, **more), proven=True)

    with mock.patch.object(Observer, "look", look):
        yield


@contextmanager
def busy_are_idle() -> Iterator[None]:
    """Whoever is there is taken for idle since its start, and is ended instead of drained."""
    real = Observer.look

    def blind(worker: Worker) -> Worker:
        presence = worker.presence
        if presence is None:
            return worker
        seen = presence.model_copy(update={"holds": (), "free": presence.capacity, "idle_since": presence.started_at})
        return replace(worker, presence=seen, running=())

    async def look(self: Observer, spec: QueueSpec, **more: Any) -> Snapshot:
        found = await real(self, spec, **more)
        workers = found.workers
        return replace(found, workers=tuple(map(blind, workers)) if isinstance(workers, tuple) else workers)

    async def stop(self: QueueLoop, action: Stop) -> bool:
        return await self._try_stop(action.instance_id, StopMode.KILL)

    with mock.patch.object(Observer, "look", look), mock.patch.object(QueueLoop, "_stop", stop):
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
