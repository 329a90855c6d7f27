"""A queue's state document: what one leader leaves to the next, and what keeps a stale leader from acting.

Owns one `QueueState` in KV `scaler`. Invariants: only who claimed it last can change it; a change that is acknowledged
is there for whoever claims it next. The first thing that a new leader writes is its epoch: from then on every write of
the one before is refused, and it hears that it is `Deposed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from launch.errors import Conflict, LaunchError
from launch.ports import Documents
from launch.subjects import scaler_state_key
from scaler.core.intent import ConfigHistory, Intent, QueueState

CONFIGS_KEPT = 8
BOOTS_KEPT = 100
DURATIONS_KEPT = 50
"""Durations stored of each job type; more are kept in memory."""
TYPES_KEPT = 100
TRIES = 5

log = structlog.stdlib.get_logger("scaler")

Change = Callable[[QueueState], QueueState]


class Deposed(LaunchError):
    """Another scaler leads this queue now: whoever hears this acts no more."""


class StateStore:
    """The document, as its leader knows it."""

    def __init__(self, documents: Documents, queue: str, leader: str) -> None:
        self.state = QueueState()
        self._documents = documents
        self._key = scaler_state_key(queue)
        self._queue = queue
        self._leader = leader
        self._revision: int | None = None
        self._sure = True

    async def claim(self) -> QueueState:
        """Begin an epoch of one's own; returns what the leader before has left. Raises `Conflict` if contested."""
        for _ in range(TRIES):
            found = await self._documents.get(self._key)
            before = self._parsed(found.value, found.revision) if found is not None else QueueState()
            mine = before.model_copy(update={"epoch": before.epoch + 1, "leader": self._leader})
            body = _json(mine)
            try:
                if found is None:
                    self._revision = await self._documents.create(self._key, body)
                else:
                    self._revision = await self._documents.update(self._key, body, found.revision)
            except Conflict:
                continue  # The last write of the one before, most likely.
            self.state, self._sure = mine, True
            return mine
        raise Conflict(f"the scaler's state of queue {self._queue} is being changed by others all the time")

    async def change(self, change: Change) -> QueueState:
        """Apply a change and store the outcome; returns it.

        Raises `Deposed`, and `BrokerUnavailable`: then it is not known whether it is stored, and `settle` finds out.
        """
        for _ in range(TRIES):
            await self.settle()
            after = change(self.state)
            if after == self.state:
                return after
            if self._revision is None:
                raise Deposed(f"queue {self._queue} has not been claimed")
            try:
                self._sure = False
                self._revision = await self._documents.update(self._key, _json(after), self._revision)
            except Conflict:
                continue  # A write of one's own that came late; or somebody else's, which the next look tells.
            self.state, self._sure = after, True
            return after
        raise Deposed(f"the scaler's state of queue {self._queue} is being changed by others all the time")

    async def forget(self) -> None:
        """The queue is gone, and nothing of it is left."""
        await self._documents.delete(self._key)

    async def settle(self) -> None:
        """Find out what is stored, if the last change left that open. Raises `Deposed`."""
        if self._sure:
            return
        found = await self._documents.get(self._key)
        stored = self._parsed(found.value, found.revision) if found is not None else QueueState()
        if found is None or (stored.epoch, stored.leader) != (self.state.epoch, self._leader):
            raise Deposed(f"queue {self._queue} is led by {stored.leader or 'nobody'} now")
        self.state, self._revision, self._sure = stored, found.revision, True

    def _parsed(self, value: bytes, revision: int) -> QueueState:
        try:
            return QueueState.model_validate_json(value)
        except ValueError as error:
            # Instances are found by what the provider lists; an epoch of at least the revision is larger than any.
            log.warning("the scaler's state can't be read: begun anew", queue=self._queue, why=str(error))
            return QueueState(epoch=revision)


def _json(state: QueueState) -> bytes:
    return state.model_dump_json(exclude_defaults=True).encode()


def with_intent(intent: Intent) -> Change:
    """One more intent is open."""

    def change(state: QueueState) -> QueueState:
        others = tuple(one for one in state.intents if one.id != intent.id)
        return state.model_copy(update={"intents": (*others, intent)})

    return change


def without_intents(ids: frozenset[str]) -> Change:
    """These intents are closed."""
    return lambda state: state.model_copy(update={"intents": tuple(one for one in state.intents if one.id not in ids)})


def booted(config: str, seconds: Sequence[float | None]) -> Change:
    """Instances of a configuration have registered, after so long each (None: that is not known)."""

    def change(state: QueueState) -> QueueState:
        before = state.configs.get(config, ConfigHistory())
        history = ConfigHistory(registered=before.registered + len(seconds))
        boots = (*state.boots_s, *(round(one, 2) for one in seconds if one is not None))[-BOOTS_KEPT:]
        return state.model_copy(update={"configs": _with(state.configs, config, history), "boots_s": boots})

    return change


def boot_failed(config: str, why: str, now: datetime) -> Change:
    """An instance of a configuration has never registered."""

    def change(state: QueueState) -> QueueState:
        before = state.configs.get(config, ConfigHistory())
        history = before.model_copy(update={"failures": before.failures + 1, "failed_at": now, "why": why[:500]})
        return state.model_copy(update={"configs": _with(state.configs, config, history)})

    return change


def lasted(durations: Mapping[str, Sequence[float]]) -> Change:
    """How long jobs have run."""
    kept = {key: tuple(round(one, 2) for one in found[-DURATIONS_KEPT:]) for key, found in durations.items()}
    bounded = dict(list(kept.items())[-TYPES_KEPT:])
    return lambda state: state.model_copy(update={"durations_s": bounded})


def _with(configs: Mapping[str, ConfigHistory], config: str, history: ConfigHistory) -> dict[str, ConfigHistory]:
    """The latest few, this one last."""
    others = [(key, found) for key, found in configs.items() if key != config]
    return dict([*others, (config, history)][-CONFIGS_KEPT:])
