"""Mistakes to make on purpose: each one breaks a rule that the promise hangs on, and some seed must show it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import agent.claims
import agent.core.claim
import agent.main
import agent.presence
import agent.runner
from agent.core.claim import ClaimDecision, Verdict
from agent.holds import Hold
from agent.persist import until_heard
from agent.ports import Engine, EngineError, EngineUnavailable
from launch.core.states import Event
from launch.errors import BrokerError


@contextmanager
def ack_before_record() -> Iterator[None]:
    """The message is acked before the job's end is recorded: a machine lost in between takes the job with it."""

    async def finish(self: agent.claims.Claims, hold: Hold, event: Event, changes: dict[str, Any]) -> None:
        await until_heard("ack", lambda: self._broker.work.ack(hold.reply))
        await self.move(hold, event, **changes)

    with mock.patch.object(agent.claims.Claims, "_finish", finish):
        yield


@contextmanager
def no_fence() -> Iterator[None]:
    """An agent that comes back does not mind that its job has a later attempt."""

    async def refresh(self: agent.claims.Claims, hold: Hold, *, ending: bool = False) -> None:
        del ending
        known = await self._broker.records.get(hold.job)
        if known is not None:
            agent.claims._advance(hold, known.value, known.revision)

    with mock.patch.object(agent.claims.Claims, "refresh", refresh):
        yield


@contextmanager
def no_connected_for_a_lease() -> Iterator[None]:
    """Whoever looks absent is taken for lost, however short the taker's own connection has stood."""
    decide = agent.core.claim.decide_claim

    def hasty(record: Any, **facts: Any) -> ClaimDecision:
        return decide(record, **{**facts, "connected_for_s": float("inf")})

    with mock.patch.object(agent.claims, "decide_claim", hasty):
        yield


@contextmanager
def lease_not_renewed() -> Iterator[None]:
    """Held messages are not kept from being delivered again."""

    async def sleep(*_: object) -> None:
        await asyncio.Event().wait()

    with mock.patch.object(agent.main, "keep_leases", sleep):
        yield


@contextmanager
def presence_not_renewed() -> Iterator[None]:
    """The entry is written when something changes, and left to expire otherwise."""

    async def run(self: agent.presence.Presence) -> None:
        while True:
            await self._changed.wait()
            with suppress(BrokerError):
                await self.announce()

    with mock.patch.object(agent.presence.Presence, "run", run):
        yield


@contextmanager
def finished_container_run_again() -> Iterator[None]:
    """A new process starts every container that its predecessor left, ended ones included."""
    prepare = agent.runner.Runner._prepare

    async def eager(self: agent.runner.Runner, hold: Hold, name: str) -> agent.runner._Started:
        if hold.recovered:
            left = await self._engine.inspect(name)
            if left is not None and left.state == "exited":
                await self._engine.start(left.id)
        return await prepare(self, hold, name)

    with mock.patch.object(agent.runner.Runner, "_prepare", eager):
        yield


@contextmanager
def cancel_forgotten() -> Iterator[None]:
    """A job whose agent is lost gets another attempt, cancelled or not."""

    def gone(record: Any, why: str) -> ClaimDecision:
        del record
        return ClaimDecision(Verdict.TAKE_OVER, why)

    with mock.patch.object(agent.core.claim, "_gone", gone):
        yield


@contextmanager
def container_left() -> Iterator[None]:
    """A container that the engine does not remove at once is forgotten."""

    async def put_away(engine: Engine, name: str) -> None:
        with suppress(EngineError, EngineUnavailable):
            await engine.remove(name)

    with mock.patch.object(agent.runner, "put_away", put_away):
        yield


PLANTED: dict[str, Callable[[], Any]] = {
    plant.__name__: plant
    for plant in (
        ack_before_record,
        no_fence,
        no_connected_for_a_lease,
        lease_not_renewed,
        presence_not_renewed,
        finished_container_run_again,
        cancel_forgotten,
        container_left,
    )
}
