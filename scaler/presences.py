"""A mirror of all agents' presence, from one watch for the whole process, that wakes the queue whose agents changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

from launch.ports import Broker, Clock, Synced
from launch.presence import AgentPresence
from scaler.core.ledger import Presences
from scaler.core.snapshot import Unknown


@dataclass(frozen=True, slots=True)
class View:
    """The agents of one queue: who is here, who may only be cut off, and what jobs are in somebody's hands."""

    since: datetime
    presences: Presences
    held: frozenset[str]


class Agents:
    """A mirror of the `agents` bucket; `ready` once it has been whole.

    An agent that drops out of sight keeps what it held for `grace_s`: nobody can be handed those jobs any sooner. If
    that happened while the connection was broken, or right after, it is `stale` for as long: likely to come back.
    """

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self.ready = asyncio.Event()
        self._wake: Callable[[str | None], None] = _ignore
        self._grace = timedelta(seconds=broker.ack_wait_s)
        self._present: dict[str, AgentPresence] = {}
        self._gone: dict[str, tuple[AgentPresence, datetime]] = {}
        self._synced_at: datetime | None = None

    def listen(self, wake: Callable[[str | None], None]) -> None:
        """Call `wake` with the queue's name whenever one of its agents comes, goes or changes; with None for all."""
        self._wake = wake

    async def follow(self) -> None:
        """Mirror until the watch fails with `LaunchError`; nothing is known from then on until the next call."""
        seen: set[str] = set()
        try:
            async with aclosing(self._broker.agents.watch()) as changes:
                async for change in changes:
                    if isinstance(change, Synced):
                        for agent_id in self._present.keys() - seen:
                            self._put(agent_id, None)
                        self._synced_at = self._clock.now()
                        self.ready.set()
                        self._wake(None)
                    else:
                        seen.add(change.key)
                        self._put(change.key, change.value)
        finally:
            self._synced_at = None

    def view(self, queue: str) -> View | Unknown:
        """What is known of the queue's agents now."""
        connected_since = self._broker.connected_since
        if connected_since is None:
            return Unknown("there is no connection to NATS")
        if self._synced_at is None:
            return Unknown("the agents' presence is not known yet")
        now, since = self._clock.now(), max(connected_since, self._synced_at)
        self._gone = {key: entry for key, entry in self._gone.items() if now - entry[1] < self._grace}
        gone = {key: entry for key, entry in self._gone.items() if entry[0].queue == queue}
        present = {key: presence for key, presence in self._present.items() if presence.queue == queue}
        stale = {
            key: presence
            for key, (presence, at) in gone.items()
            if presence.started_at < since and at - since < self._grace
        }
        known = [*present.values(), *(presence for presence, _ in gone.values())]
        return View(since, Presences(present, stale), frozenset(job for presence in known for job in presence.holds))

    def _put(self, agent_id: str, presence: AgentPresence | None) -> None:
        before = self._present.pop(agent_id, None)
        if presence is not None:
            self._present[agent_id] = presence
            self._gone.pop(agent_id, None)
        elif before is not None:
            self._gone[agent_id] = (before, self._clock.now())
        # A renewal that says nothing new wakes nobody.
        new = presence is None or before is None or presence.undated() != before.undated()
        if new and self._synced_at is not None:
            for queue in {entry.queue for entry in (before, presence) if entry is not None}:
                self._wake(queue)


def _ignore(queue: str | None) -> None:
    """Nobody listens yet."""
