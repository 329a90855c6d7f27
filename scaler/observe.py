"""Events and reads -> one `Snapshot` of a queue.

Two parts: `Agents` mirrors the presence of all agents from one watch for the whole process, and wakes the queue whose
agents changed; `Observer` reads one queue. Invariant: nothing here polls. What is read is bounded by what the queue's
workers could hold, and what can't be read is `Unknown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from launch.core.capacity import Amount
from launch.errors import LaunchError, SpecError
from launch.ports import Broker, Clock, Message, Synced
from launch.presence import AgentPresence
from launch.queue import QueueSpec, StaticProvider
from launch.specfile import parse_job_json
from scaler.core import ledger as ledgers
from scaler.core.instance import Instance
from scaler.core.ledger import Ledger, Presences
from scaler.core.snapshot import Pending, PendingJob, Policy, Snapshot, Unknown
from scaler.ports import Provider
from scaler.settings import ScalerSettings

T = TypeVar("T")

AT_LEAST_PEEKED = 32
"""Read this many messages even where few would do: a misfit at the head must not hide what is behind it."""


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
        if presence != before and self._synced_at is not None:
            for queue in {entry.queue for entry in (before, presence) if entry is not None}:
                self._wake(queue)


class Observer:
    """Reads one queue, and remembers its instances from look to look."""

    def __init__(
        self, broker: Broker, provider: Provider, agents: Agents, clock: Clock, settings: ScalerSettings
    ) -> None:
        self.ledger = Ledger()
        self._broker = broker
        self._provider = provider
        self._agents = agents
        self._clock = clock
        self._settings = settings
        self._parsed: dict[int, PendingJob] = {}
        self._parsed_for: QueueSpec | None = None

    def policy(self, spec: QueueSpec) -> Policy:
        """What the queue's spec and the settings ask of a plan."""
        elastic = not isinstance(spec.provider, StaticProvider)
        settings = self._settings
        return Policy(
            min_instances=spec.min_instances if elastic else 0,
            max_instances=spec.max_instances if elastic else 0,
            idle_timeout_s=spec.idle_timeout,
            job_types=spec.job_types,
            elastic=elastic,
            boot_deadline_s=settings.boot_deadline_s,
            return_grace_s=self._broker.ack_wait_s,
            lost_deadline_s=settings.lost_deadline_s,
            backoff_first_s=settings.backoff_first_s,
            backoff_max_s=settings.backoff_max_s,
        )

    async def look(self, spec: QueueSpec) -> Snapshot:
        """The queue as it is now; never raises `LaunchError`."""
        instances, capacity = await asyncio.gather(
            self._ask(self._provider.list()), self._ask(self._provider.capacity(spec))
        )
        view = self._agents.view(spec.queue_name)
        if isinstance(view, Unknown) or isinstance(instances, Unknown):
            unknown = view if isinstance(view, Unknown) else instances
            assert isinstance(unknown, Unknown)  # noqa: S101 - tells mypy what the line above says
            return Snapshot(spec.queue_name, unknown, unknown, capacity, self.ledger.boots)
        await self._remember(instances, view)
        pending: Pending | Unknown
        try:
            pending = await self._pending(spec, view, capacity if isinstance(capacity, Amount) else Amount())
        except LaunchError as error:
            pending = Unknown(f"the queue can't be read: {error.message}")
        workers = ledgers.join(self.ledger, instances, view.presences)
        return Snapshot(spec.queue_name, pending, workers, capacity, self.ledger.boots)

    async def _ask(self, question: Coroutine[Any, Any, T]) -> T | Unknown:
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                return await question
        except LaunchError as error:
            return Unknown(f"the provider can't tell: {error.message}")
        except TimeoutError:
            return Unknown(f"the provider has not answered within {self._settings.call_timeout_s:g} s")

    async def _remember(self, instances: Sequence[Instance], view: View) -> None:
        now = self._clock.now()
        self.ledger, ended = ledgers.note(
            self.ledger,
            instances,
            view.presences,
            now=now,
            view_since=view.since,
            boot_deadline_s=self._settings.boot_deadline_s,
        )
        if ended:
            # Those of one launch fail together, and for one reason.
            self.boot_failed(await self.story(ended[0]) or f"{ended[0]} ended by itself")

    async def story(self, instance_id: str) -> str:
        """What the provider can tell of an instance that never registered; empty if nothing."""
        story = await self._ask(self._provider.explain(instance_id))
        return "" if isinstance(story, Unknown) else story

    def boot_failed(self, why: str) -> None:
        """A launch came to nothing."""
        boots = self.ledger.boots.failed(self._clock.now(), why)
        self.ledger = Ledger(self.ledger.seen, boots)

    async def _pending(self, spec: QueueSpec, view: View, capacity: Amount) -> Pending:
        """The jobs that nobody holds: as many as the queue's workers could hold at once, the oldest first."""
        queue = spec.queue_name
        status = await self._broker.queues.status(queue)
        total = status.depth.messages
        if total == 0:
            self._parsed.clear()
            return Pending(paused=status.paused)
        room = spec.max_instances * max(1, capacity.slots)
        room += sum(presence.free.slots for presence in view.presences.present.values())
        wanted = len(view.held) + max(AT_LEAST_PEEKED, room)
        while True:
            limit = min(wanted, self._settings.peek_max)
            messages = await self._broker.jobs.peek(queue, limit)
            jobs = self._parse(spec, [message for message in messages if str(message.job) not in view.held])
            useful = sum(1 for job in jobs if job.amount.fits_in(capacity))
            enough = useful >= room or not capacity.slots
            if enough or len(messages) < limit or limit == self._settings.peek_max:
                beyond = max(0, total - len(messages)) if len(messages) == limit else 0
                return Pending(tuple(jobs), beyond, status.paused)
            wanted *= 4

    def _parse(self, spec: QueueSpec, messages: Sequence[Message]) -> list[PendingJob]:
        """What each asks for; a message never changes, so each is parsed once."""
        known = self._parsed if self._parsed_for == spec else {}
        jobs = [known.get(message.job.seq) or _pending_job(spec, message) for message in messages]
        self._parsed = {message.job.seq: job for message, job in zip(messages, jobs, strict=True)}
        self._parsed_for = spec
        return jobs


def _ignore(queue: str | None) -> None:
    """Nobody listens yet."""


def _pending_job(spec: QueueSpec, message: Message) -> PendingJob:
    try:
        job = parse_job_json(message.body, source=str(message.job))
        amount = spec.with_defaults(job).resources.amount()
    except SpecError:
        # It can't run, but an agent has to say so in its record.
        amount = Amount(slots=1)
    return PendingJob(str(message.job), message.consumer.job_type, amount)
