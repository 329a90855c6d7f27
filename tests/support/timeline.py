"""What happened when, from the first publish on: records, agents, drain requests and EC2's own log in one line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from launch.adapters.nats import NatsBroker
from launch.ports import Synced
from launch.presence import AgentPresence, AgentState
from tests.support.aws_proxy import AwsProxy


class Timeline:
    """Entries in the order of their times; `until` waits for one."""

    def __init__(self, proxy: AwsProxy) -> None:
        self.began = time.time()
        self._proxy = proxy
        self._entries: list[tuple[float, str]] = []
        self._seen: set[str] = set()
        self._present: dict[str, AgentPresence] = {}
        self._changed = asyncio.Event()
        self._calls_seen = 0

    def begin(self) -> None:
        """Now is 0."""
        self.began = time.time()

    def note(self, what: str, at: float | None = None) -> None:
        """It happens now, or then; the first time counts."""
        if what not in self._seen:
            self._seen.add(what)
            self._entries.append((at if at is not None else time.time(), what))
            self._changed.set()

    def at(self, what: str) -> float:
        """Seconds after the beginning."""
        return next(at for at, noted in self._entries if noted.startswith(what)) - self.began

    def holds(self, agent_id: str) -> list[str]:
        """The jobs that this agent says that it holds; none once it is absent."""
        presence = self._present.get(agent_id)
        return list(presence.holds) if presence is not None else []

    async def until(self, what: str, limit_s: float = 60.0) -> None:
        """Wait until something that begins like this has happened."""
        async with asyncio.timeout(limit_s):
            while not any(noted.startswith(what) for noted in self._seen):
                self._changed.clear()
                await self._changed.wait()

    def lines(self) -> list[str]:
        """For people."""
        return [f"{at - self.began:8.3f} s  {what}" for at, what in sorted(self._entries)]

    @asynccontextmanager
    async def kept(self, broker: NatsBroker, queue: str) -> AsyncIterator[Timeline]:
        """Write it during the block."""
        tasks = [
            asyncio.create_task(self._records(broker, queue)),
            asyncio.create_task(self._agents(broker, queue)),
            asyncio.create_task(self._calls(broker)),
        ]
        try:
            yield self
        finally:
            for task in [*tasks, *self._drains]:
                task.cancel()
            await asyncio.wait([*tasks, *self._drains])

    _drains: tuple[asyncio.Task[None], ...] = ()

    async def _records(self, broker: NatsBroker, queue: str) -> None:
        async with aclosing(broker.records.watch(queue=queue)) as changes:
            async for change in changes:
                if not isinstance(change, Synced) and change.value is not None:
                    self.note(f"job {change.value.id.seq} {change.value.state}")

    async def _agents(self, broker: NatsBroker, queue: str) -> None:
        busy: set[str] = set()
        async with aclosing(broker.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced) or (change.value is not None and change.value.queue != queue):
                    continue
                was_there = self._present.pop(change.key, None) is not None
                if change.value is not None:
                    self._present[change.key] = change.value
                elif not was_there:
                    continue  # It was another queue's.
                for what in _told(change.key, change.value, busy):
                    self.note(what)

    async def _calls(self, broker: NatsBroker) -> None:
        """Of EC2; an agent's drain requests are listened for as soon as its instance is there."""
        while True:
            for call in self._proxy.log[self._calls_seen :]:
                self._calls_seen += 1
                if call.started:
                    self.note(f"RunInstances of {call.asked}: {', '.join(call.instances)}", call.at)
                    for instance in call.instances:
                        hearing = asyncio.create_task(self._drain(broker, instance))
                        self._drains += (hearing,)
                elif call.action in ("TerminateInstances", "spot loss", "shutdown"):
                    who = {"shutdown": "shut itself down", "spot loss": "was taken away"}
                    for instance in call.instances:
                        self.note(f"{instance} {who.get(call.action, 'was terminated')}", call.at)
                elif call.action == "GetConsoleOutput":
                    self.note(f"console of {', '.join(call.instances)} read", call.at)
            self._proxy.changed.clear()
            await self._proxy.changed.wait()

    async def _drain(self, broker: NatsBroker, agent_id: str) -> None:
        async with aclosing(broker.agents.drain_asked(agent_id)) as asked:
            async for request in asked:
                if request is not None:
                    self.note(f"{agent_id} asked to drain")


def _told(agent_id: str, presence: AgentPresence | None, busy: set[str]) -> list[str]:
    """What an agent's presence says that is news."""
    if presence is None:
        return [f"{agent_id} has left"]
    said: Callable[[str], str] = f"{agent_id} {{}}".format
    news = [said("registered")]
    if presence.holds:
        busy.add(agent_id)
        news.append(said("busy"))
    elif agent_id in busy:
        news.append(said("idle"))
    if presence.state is AgentState.DRAINED:
        news.append(said("drained"))
    return news
