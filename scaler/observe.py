"""Reads -> one `Snapshot` of a queue.

Invariant: nothing here polls. What is read is bounded by what the queue's workers could hold, and what can't be read is
`Unknown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog

from launch.core.capacity import Amount
from launch.errors import LaunchError
from launch.ports import Broker, Clock
from launch.queue import AwsProvider, QueueSpec, StaticProvider
from launch.queue import LocalProvider as LocalSpec
from scaler.book import Book
from scaler.core import ledger as ledgers
from scaler.core.forecast import Arrivals
from scaler.core.instance import Instance
from scaler.core.intent import ConfigHistory, QueueState
from scaler.core.ledger import Ledger
from scaler.core.snapshot import AWS, LOCAL, Boots, History, Past, Pending, Policy, Snapshot, Tuning, Unknown, Worker
from scaler.core.standing import boot_deadline_s
from scaler.ports import Provider
from scaler.presences import Agents, View
from scaler.records import RunningJobs
from scaler.settings import ScalerSettings
from scaler.state import Change, Deposed, boot_failed, booted

log = structlog.stdlib.get_logger("scaler")

T = TypeVar("T")

LESSONS_AT_MOST = 100
"""How much of what was learned waits for a broker that is away."""


class Observer:
    """Reads one queue, and remembers its instances from look to look.

    `state` is what is stored about the queue, `expected` what has been asked of the provider and is not there yet.
    `learn` gets what a look has taught about launches, before the snapshot is made.
    """

    def __init__(
        self,
        broker: Broker,
        provider: Provider,
        agents: Agents,
        clock: Clock,
        settings: ScalerSettings,
        spec: QueueSpec,
        *,
        state: Callable[[], QueueState],
        expected: Callable[[Sequence[Instance]], list[Worker]],
        learn: Callable[[Sequence[Change]], Awaitable[None]],
    ) -> None:
        self.ledger = Ledger()
        self.instances: Sequence[Instance] | None = None
        """Those of the last look; None if they could not be listed."""
        self.running = RunningJobs(broker.records, clock)
        self._broker = broker
        self._provider = provider
        self._agents = agents
        self._clock = clock
        self._settings = settings
        self._state = state
        self._expected = expected
        self._learn = learn
        self._book = Book(broker.jobs, spec.queue_name, Arrivals(tuning_of(spec).tau_s))
        self._lessons: list[Change] = []
        self._configs: dict[str, str] = {}
        self._config = ""
        self._config_of: tuple[QueueSpec, datetime] | None = None
        self._paused = False
        self._paused_of: tuple[QueueSpec, datetime] | None = None

    def policy(self, spec: QueueSpec) -> Policy:
        """What the queue's spec and the settings ask of a plan."""
        elastic = not isinstance(spec.provider, StaticProvider)
        settings, tuning = self._settings, tuning_of(spec)
        if settings.boot_deadline_s is not None:
            tuning = replace(tuning, boot_deadline_s=settings.boot_deadline_s)
        return Policy(
            min_instances=spec.min_instances if elastic else 0,
            max_instances=spec.max_instances if elastic else 0,
            idle_timeout_s=spec.idle_timeout,
            job_types=spec.job_types,
            elastic=elastic,
            tuning=tuning,
            return_grace_s=self._broker.ack_wait_s,
            lost_deadline_s=settings.lost_deadline_s,
            backoff_first_s=settings.backoff_first_s,
            backoff_max_s=settings.backoff_max_s,
        )

    def look_anew(self) -> None:
        """Something has changed that is not asked for in each look: what is launched, or whether the queue rests."""
        self._config_of = self._paused_of = None

    async def look(self, spec: QueueSpec, *, gone: bool = False) -> Snapshot:
        """The queue as it is now; never raises `LaunchError`, but `Deposed`. `gone`: it has been deleted."""
        instances, capacity, _ = await asyncio.gather(
            self._ask(self._provider.list()), self._ask(self._provider.capacity(spec)), self._read_config(spec)
        )
        self.instances = None if isinstance(instances, Unknown) else instances
        view = self._agents.view(spec.queue_name)
        if isinstance(view, Unknown) or isinstance(instances, Unknown):
            unknown = view if isinstance(view, Unknown) else instances
            assert isinstance(unknown, Unknown)  # noqa: S101 - tells mypy what the line above says
            return self._snapshot(spec, unknown, unknown, capacity)
        self.running.follow(view.held)
        await self._remember(spec, instances, view)
        pending: Pending | Unknown = Pending()
        if not gone:
            try:
                pending = await self._pending(spec, view, capacity if isinstance(capacity, Amount) else Amount())
            except LaunchError as error:
                pending = Unknown(f"the queue can't be read: {error.message}")
        running = {key: self.running.of(found.holds) for key, found in view.presences.present.items()}
        workers = ledgers.join(self.ledger, instances, view.presences, running)
        return self._snapshot(spec, pending, (*workers, *self._expected(instances)), capacity)

    async def story(self, instance_id: str) -> str:
        """What the provider can tell of an instance that never registered; empty if nothing."""
        story = await self._ask(self._provider.explain(instance_id))
        return "" if isinstance(story, Unknown) else story

    async def boot_failed(self, instance: Instance, why: str) -> None:
        """An instance's launch came to nothing."""
        await self._teach([boot_failed(instance.config or self._config, why, self._clock.now())])

    # -- inside -----------------------------------------------------------------------------------------------------

    def _snapshot(
        self,
        spec: QueueSpec,
        pending: Pending | Unknown,
        workers: tuple[Worker, ...] | Unknown,
        capacity: Amount | Unknown,
    ) -> Snapshot:
        state = self._state()
        history = state.configs.get(self._config, ConfigHistory())
        # A process on this machine costs nothing: the first ones need no forerunner.
        free = isinstance(spec.provider, LocalSpec) and not history.failures
        return Snapshot(
            spec.queue_name,
            pending,
            workers,
            capacity,
            boots=Boots(history.failures, history.failed_at, history.why),
            past=Past(self.running.durations.view(), sorted(state.boots_s), self._book.arrivals.view()),
            config=self._config,
            proven=history.proven or free,
        )

    async def _ask(self, question: Coroutine[Any, Any, T]) -> T | Unknown:
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                return await question
        except LaunchError as error:
            return Unknown(f"the provider can't tell: {error.message}")
        except TimeoutError:
            return Unknown(f"the provider has not answered within {self._settings.call_timeout_s:g} s")

    async def _read_config(self, spec: QueueSpec) -> None:
        """What would be launched now: asked anew only once in a while."""
        if self._is_fresh(self._config_of, spec) or isinstance(spec.provider, StaticProvider):
            return
        proposal = await self._ask(self._provider.propose(spec, 1))
        if not isinstance(proposal, Unknown):
            self.learn_config(spec, proposal.config)

    @property
    def config(self) -> str:
        """The fingerprint of what would be launched now, as far as is known."""
        return self._config

    def learn_config(self, spec: QueueSpec, config: str) -> None:
        """The provider has just proposed this."""
        self._config, self._config_of = config, (spec, self._clock.now())

    def _is_fresh(self, known: tuple[QueueSpec, datetime] | None, spec: QueueSpec) -> bool:
        age = timedelta(seconds=self._settings.resync_s)
        return known is not None and known[0] is spec and self._clock.now() - known[1] < age

    async def _remember(self, spec: QueueSpec, instances: Sequence[Instance], view: View) -> None:
        now, before = self._clock.now(), self.ledger
        deadline_s = boot_deadline_s(Past(boots_s=sorted(self._state().boots_s)), self.policy(spec))
        self.ledger, ended = ledgers.note(
            before, instances, view.presences, now=now, view_since=view.since, boot_deadline_s=deadline_s
        )
        for instance_id, entry in self.ledger.seen.items():
            known = before.seen.get(instance_id)
            if entry.absent_since is not None and known is not None and known.absent_since is None:
                self._provider.agent_left(instance_id)
        lessons = self._registrations(before, instances, now)
        if ended:
            # Those of one launch fail together, and for one reason.
            why = await self.story(ended[0]) or f"{ended[0]} ended by itself"
            lessons.append(boot_failed(self._configs.get(ended[0]) or self._config, why, now))
        self._configs = {instance.id: instance.config for instance in instances}
        await self._teach(lessons)

    def _registrations(self, before: Ledger, instances: Sequence[Instance], now: datetime) -> list[Change]:
        """What those whose agents are there since this look teach of their configurations."""
        took: dict[str, list[float | None]] = {}
        histories = self._state().configs
        for instance in instances:
            known = before.seen.get(instance.id)
            if self.ledger.seen[instance.id].history not in (History.REGISTERED, History.DRAINED):
                continue
            config = instance.config or self._config
            if known is None and config not in histories:
                took.setdefault(config, []).append(None)
            elif known is not None and known.history is History.NEW:
                took.setdefault(config, []).append((now - instance.launched_at).total_seconds())
            elif known is not None and known.history is History.ADOPTED:
                took.setdefault(config, []).append(None)
        return [booted(config, seconds) for config, seconds in took.items()]

    async def _teach(self, lessons: Sequence[Change]) -> None:
        self._lessons += lessons
        if not self._lessons:
            return
        try:
            await self._learn(self._lessons)
            self._lessons = []
        except Deposed:
            raise
        except LaunchError as error:
            # Kept for the next look.
            log.info("what was learned is not stored yet", why=error.message)
            del self._lessons[:-LESSONS_AT_MOST]

    async def _pending(self, spec: QueueSpec, view: View, capacity: Amount) -> Pending:
        """The jobs that nobody holds: as many as the queue's workers could hold at once, the oldest first."""
        queue = spec.queue_name
        if not self._is_fresh(self._paused_of, spec):
            self._paused = (await self._broker.queues.status(queue)).paused
            self._paused_of = (spec, self._clock.now())
        room = spec.max_instances * max(1, capacity.slots)
        room += sum(presence.free.slots for presence in view.presences.present.values())
        return await self._book.look(
            spec, view.held, room, capacity, at_most=self._settings.peek_max, paused=self._paused
        )


def tuning_of(spec: QueueSpec) -> Tuning:
    """How a plan weighs things for this provider."""
    return AWS if isinstance(spec.provider, AwsProvider) else LOCAL
