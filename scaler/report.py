"""Tells the world how a queue is scaled: its report, its decisions, and its instances' lives.

One `Reporter` a queue, made by whoever leads it:

    reporter = Reporter(broker.scaling, clock, queue=..., leader=...)
    await reporter.open()                       # takes over the lives that the leader before knew
    tasks.create_task(reporter.run())           # writes, until cancelled
    reporter.look(snapshot, policy, plan)       # in each turn; never waits, never fails
    reporter.stopped(left)                      # what is there no more, once the scaler has ended what it could
    await reporter.close()                      # in the end: a last write, bounded; gone=True for a deleted queue

Invariants: at most one report a second, and none when nothing is new (but one every `RENEWED_EVERY_S`, so that readers
see that somebody looks); what can't be written is kept, bounded, until it can. A broker that is away stops nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog

from launch.errors import BrokerUnavailable, LaunchError
from launch.ports import Clock
from launch.scaling import DECISIONS_KEPT, RENEWED_EVERY_S, DecisionReport, InstanceEnd, Scaling, ScalingReport
from scaler.core.lives import Lives
from scaler.core.plan import Plan, Stop
from scaler.core.report import LINE_AT_MOST, decision, report, same_news, same_reasons
from scaler.core.snapshot import Policy, Snapshot, Unknown

T = TypeVar("T")

WRITTEN_EVERY_S = 1.0
ENDS_KEPT = 10_000
"""How many lives wait for a broker that is away; the oldest go first."""
CLOSE_TIMEOUT_S = 3.0

log = structlog.stdlib.get_logger("scaler")


@dataclass(frozen=True, slots=True)
class _Look:
    snapshot: Snapshot
    policy: Policy
    plan: Plan
    at: datetime


class Reporter:
    """What one scaler tells of one queue."""

    def __init__(
        self, scaling: Scaling, clock: Clock, *, queue: str, leader: str, every_s: float = WRITTEN_EVERY_S
    ) -> None:
        self._scaling = scaling
        self._clock = clock
        self._queue = queue
        self._leader = leader
        self._every_s = every_s
        self._lives = Lives()
        self._trouble: str | None = None
        self._latest: _Look | None = None
        self._told: ScalingReport | None = None
        self._last: ScalingReport | None = None
        self._reasons: tuple[str, ...] | None = None
        self._decisions: deque[DecisionReport] = deque(maxlen=DECISIONS_KEPT)
        self._ends: deque[InstanceEnd] = deque(maxlen=ENDS_KEPT)
        self._wake = asyncio.Event()
        self._away = False

    async def open(self) -> None:
        """Take over from the report that is there; does without, if it can't be had."""
        try:
            before = await self._scaling.latest(self._queue)
        except LaunchError as error:
            log.info("what was told before is not known", queue=self._queue, why=error.message)
            return
        if before is not None:
            self._lives.adopt(before)

    def look(self, snapshot: Snapshot, policy: Policy, plan: Plan) -> None:
        """Note a look at the queue and what was decided."""
        now = self._clock.now()
        if not isinstance(snapshot.workers, Unknown):
            self._ends.extend(self._lives.follow(snapshot.workers, now))
        for action in plan.actions:
            if isinstance(action, Stop):
                self._lives.blame(action.instance_id, action.why)
        if plan.actions or self._reasons is None or not same_reasons(self._reasons, plan.reasons):
            if plan.actions or plan.reasons:
                self._decisions.append(decision(plan, now, leader=self._leader))
            self._reasons = plan.reasons
        self._latest, self._last = _Look(snapshot, policy, plan, now), None
        self._wake.set()

    def trouble(self, text: str | None) -> None:
        """Note what stops the scaler from scaling; None once nothing does."""
        if text != self._trouble:
            self._trouble = text
            self._wake.set()

    def stopped(self, left: Collection[str]) -> None:
        """Note that the scaler stops, and that of its instances only these (by id) are left."""
        self._ends.extend(self._lives.stopped(left, self._clock.now()))
        if self._told is not None:
            listed = tuple(one for one in self._told.instances if one.id in left)
            self._last = self._told.model_copy(
                update={"at": self._clock.now(), "instances": listed, "more": (), "stopped": True}
            )

    async def run(self) -> None:
        """Write what is new, as it comes, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.write():
                self._wake.set()
            await asyncio.sleep(self._every_s)

    async def close(self, *, gone: bool = False, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left, if the broker takes it in time. `run` has been cancelled.

        Of a queue that is `gone` nothing stays but its instances' lives.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.write()
                if gone:
                    await self._scaling.forget(self._queue)
        except TimeoutError:
            log.info("the last report was not written in time", queue=self._queue)
        except LaunchError as error:
            log.info("the report of a queue that is gone stays", queue=self._queue, why=error.message)

    async def write(self) -> bool:
        """Write what is new; False if something is left to write."""
        try:
            await _drain(self._ends, lambda end: self._scaling.ended(self._queue, end))
            await _drain(self._decisions, lambda made: self._scaling.decided(self._queue, made))
            await self._report()
        except LaunchError as error:
            return self._failed(error)
        self._away = False
        return True

    async def _report(self) -> None:
        look = self._latest
        if self._last is not None:
            await self._scaling.report(self._last)
            self._last = None
            return
        if look is None:
            return
        found = report(
            look.snapshot,
            look.policy,
            look.plan,
            self._lives,
            look.at,
            leader=self._leader,
            trouble=self._trouble,
            before=self._told,
        )
        before = self._told
        fresh = before is not None and (found.at - before.at).total_seconds() < RENEWED_EVERY_S
        if fresh and same_news(before, found):
            return
        await self._scaling.report(found)
        self._told = found

    def _failed(self, error: LaunchError) -> bool:
        """Whether there is nothing to try again; says so once."""
        if not self._away:
            log.warning("can't tell of the scaling", queue=self._queue, why=error.message)
        self._away = True
        if isinstance(error, BrokerUnavailable):
            return False
        # Refused, and so it would be again: the next look brings something else to tell.
        self._ends.clear()
        self._decisions.clear()
        return True


async def tell_unable(scaling: Scaling, now: datetime, *, queue: str, leader: str, why: str) -> None:
    """Tell that a queue can't be scaled at all: its provider can't be opened. What was told of instances stays."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            before = await scaling.latest(queue) or ScalingReport(queue=queue, at=now, leader=leader)
            news = {"at": now, "leader": leader, "trouble": why[:LINE_AT_MOST], "reasons": (), "stopped": False}
            await scaling.report(before.model_copy(update=news))
    except (LaunchError, TimeoutError) as error:
        log.info("can't tell of the scaling", queue=queue, why=str(error))


async def _drain(waiting: deque[T], write: Callable[[T], Awaitable[None]]) -> None:
    """Write what waits, the oldest first; each stays until it is written."""
    while waiting:
        first = waiting[0]
        await write(first)
        if waiting and waiting[0] is first:  # it may have been pushed out meanwhile
            waiting.popleft()
