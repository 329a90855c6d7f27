"""The way from a plan's launch to instances: stored as an intent, asked of the provider, seen, closed.

Invariants: the provider is asked for nothing that is not stored; an intent stays open, and counts as capacity, until
its instances have been seen or it is sure that there will be none; a repeat sends the very same request. So a crash
between any two steps starts nothing twice and leaves nothing behind that nobody knows of.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from launch.errors import LaunchError
from launch.ports import Clock
from launch.queue import QueueSpec
from scaler.core.instance import Instance, InstanceState
from scaler.core.intent import Intent
from scaler.core.snapshot import History, Worker
from scaler.ports import Launched, Provider, ProviderRefused, ProviderUnavailable
from scaler.settings import ScalerSettings
from scaler.state import StateStore, with_intent, without_intents

PROPOSALS_AT_MOST = 16
"""How often a plan's launch goes on to the next proposal when there is no capacity."""

log = structlog.stdlib.get_logger("scaler")


@dataclass(slots=True)
class _Progress:
    """What is known of an open intent, in memory only."""

    answered_at: datetime | None = None
    tries: int = 0
    next_try_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the provider answered instead of instances, and when it is asked again."""

    text: str
    retry_at: datetime
    times: int = 1


class Launches:
    """The launches of one queue, while its scaler leads."""

    def __init__(
        self,
        store: StateStore,
        provider: Provider,
        clock: Clock,
        settings: ScalerSettings,
        *,
        queue: str,
        say: Callable[[str], None],
        may_act: Callable[[], bool],
    ) -> None:
        self.trouble: Trouble | None = None
        self.proposed: str | None = None
        """The configuration that the provider proposed last."""
        self._store = store
        self._provider = provider
        self._clock = clock
        self._settings = settings
        self._queue = queue
        self._say = say
        self._may_act = may_act
        self._progress: dict[str, _Progress] = {}

    @property
    def open(self) -> tuple[Intent, ...]:
        """The intents that are not closed."""
        return self._store.state.intents

    def forgive(self) -> None:
        """What the provider refused may be granted now: the queue's spec is another one."""
        self.trouble = None
        for progress in self._progress.values():
            progress.next_try_at = None

    def blocked(self) -> bool:
        """Whether nothing may be launched at the moment."""
        return self.trouble is not None and self._clock.now() < self.trouble.retry_at

    async def launch(self, spec: QueueSpec, count: int, *, config: str) -> list[Instance]:
        """Launch so many, of whatever there is; returns those that exist now.

        `config` is the launch configuration that the plan was made for, empty if it knew none. What the provider
        proposes may be another one, such as where the first has no capacity: that is left for a plan that knows, since
        it may never have been tried. `proposed` says which it was.
        """
        made: list[Instance] = []
        asked: set[str] = set()
        while len(made) < count and len(asked) < PROPOSALS_AT_MOST and not self.blocked() and self._may_act():
            try:
                async with asyncio.timeout(self._settings.call_timeout_s):
                    proposal = await self._provider.propose(spec, count - len(made))
            except (LaunchError, TimeoutError) as error:
                self._refused(error)
                break
            self.proposed = proposal.config
            if config and proposal.config != config:
                break
            intent = Intent(
                id=secrets.token_hex(6),
                queue=self._queue,
                count=proposal.count,
                created_at=self._clock.now(),
                config=proposal.config,
                capacity=proposal.capacity,
                request=proposal.request,
                note=proposal.note,
                epoch=self._store.state.epoch,
            )
            await self._store.change(with_intent(intent))
            launched = await self._ask(intent)
            if launched is None:
                break
            made += launched.instances
            if launched.missing is None or self.blocked():
                break
            self._say(f"no capacity for {proposal.note}: {launched.missing}")
            if not launched.instances and proposal.note in asked:
                # The provider has no other idea: what it lacks may come back.
                self._troubled(f"no capacity: {launched.missing}", None)
                break
            asked.add(proposal.note)
        return made

    def due(self) -> bool:
        """Whether there is something to replay now."""
        now = self._clock.now()
        return any(self._is_due(intent, now) for intent in self.open)

    async def replay(self, instances: Sequence[Instance], maximum: int) -> None:
        """Ask again for what was asked for with no answer, where its time has come.

        What would be more than `maximum`, with all `instances` that are there, is left to be found or given up.
        """
        now, room = self._clock.now(), maximum - len(instances)
        for intent in self.open:
            missing = intent.count - sum(1 for instance in instances if instance.intent == intent.id)
            if not self._is_due(intent, now) or not self._may_act():
                continue
            if missing > room:
                self._of(intent).next_try_at = now + timedelta(seconds=self._settings.backoff_first_s)
                continue
            log.info("asking again", queue=self._queue, intent=intent.id, what=intent.note)
            launched = await self._ask(intent)
            room -= max(0, missing) if launched is None else len(launched.instances)

    def _is_due(self, intent: Intent, now: datetime) -> bool:
        progress = self._of(intent)
        return progress.answered_at is None and (progress.next_try_at is None or progress.next_try_at <= now)

    async def settle(self, instances: Sequence[Instance]) -> None:
        """Close the intents whose outcome is known, given all instances that are there."""
        now, done, hold = self._clock.now(), set[str](), timedelta(seconds=self._settings.intent_hold_s)
        for intent in self.open:
            progress = self._of(intent)
            there = sum(1 for instance in instances if instance.intent == intent.id)
            if progress.answered_at is None and there >= intent.count:
                progress.answered_at = now
            if progress.answered_at is not None:
                if now - progress.answered_at >= hold:
                    done.add(intent.id)
            elif now - intent.created_at >= timedelta(seconds=self._settings.intent_give_up_s):
                self._say(f"gave up on {intent.note}: the provider never said what became of it")
                done.add(intent.id)
        if done:
            await self._close(done)

    async def close_answered(self) -> bool:
        """Nothing is there any more: close what was answered; whether that leaves none open."""
        answered = {intent.id for intent in self.open if self._of(intent).answered_at is not None}
        if answered:
            await self._close(answered)
        return not self.open

    def expected(self, instances: Sequence[Instance]) -> list[Worker]:
        """What was asked for, and neither seen nor answered yet."""
        unanswered = [intent for intent in self.open if self._of(intent).answered_at is None]
        return intended(unanswered, instances, self._clock.now())

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _ask(self, intent: Intent) -> Launched | None:
        """Send the intent's request; None if there is no instance because of it, or nobody can tell yet."""
        progress = self._of(intent)
        if not self._may_act():
            return None
        progress.tries += 1
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                launched = await self._provider.launch(intent)
        except ProviderRefused as error:
            self._refused(error)
            await self._close({intent.id})
            return None
        except (ProviderUnavailable, TimeoutError) as error:
            self._refused(error)
            progress.next_try_at = self.trouble.retry_at if self.trouble is not None else None
            return None
        except LaunchError as error:
            self._refused(error)
            await self._close({intent.id})
            return None
        if launched.instances:
            self.trouble = None
        progress.answered_at = self._clock.now()
        if not launched.instances:
            await self._close({intent.id})
        return launched

    async def _close(self, ids: set[str]) -> None:
        for intent_id in ids:
            self._progress.pop(intent_id, None)
        await self._store.change(without_intents(frozenset(ids)))

    def _of(self, intent: Intent) -> _Progress:
        return self._progress.setdefault(intent.id, _Progress())

    def _refused(self, error: LaunchError | TimeoutError) -> None:
        if isinstance(error, TimeoutError):
            self._troubled(f"the provider has not answered within {self._settings.call_timeout_s:g} s", None)
        else:
            self._troubled(str(error), error.retry_after_s if isinstance(error, ProviderRefused) else None)

    def _troubled(self, text: str, retry_after_s: float | None) -> None:
        settings = self._settings
        times = self.trouble.times + 1 if self.trouble is not None else 1
        pause_s = min(settings.backoff_max_s, settings.backoff_first_s * 2.0 ** min(times - 1, 30))
        retry_at = self._clock.now() + timedelta(seconds=max(pause_s, retry_after_s or 0.0))
        if self.trouble is None or self.trouble.text != text:
            self._say(f"could not launch: {text}")
        self.trouble = Trouble(text, retry_at, times)


def intended(intents: Sequence[Intent], instances: Sequence[Instance], now: datetime) -> list[Worker]:
    """What intents ask for and what is not among the instances, as workers that are starting."""
    there = Counter(instance.intent for instance in instances)
    found = []
    for intent in intents:
        for number in range(there[intent.id], intent.count):
            name = f"intent-{intent.id}-{number}"
            instance = Instance(
                name, name, intent.created_at, InstanceState.STARTING, intent.capacity,
                config=intent.config, intent=intent.id,
            )  # fmt: skip
            found.append(Worker(instance, None, History.NEW, absent_since=now, intended=True))
    return found
