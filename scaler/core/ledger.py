"""What the scaler remembers of the instances it has seen, and what that says about its launches.

Owns the answer to "has this instance's agent ever registered?", which no single look at the world can give. Pure: each
look makes a new ledger of the old one. Invariant: an instance counts as a failed launch at most once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from launch.presence import AgentPresence, AgentState
from scaler.core.instance import Instance
from scaler.core.snapshot import Boots, History, Running, Worker

CLOCK_SKEW = timedelta(seconds=5)
"""How far an agent's clock may be behind the scaler's before its presence is taken for a predecessor's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as remembered."""

    history: History
    absent_since: datetime | None = None
    ending: bool = False
    """It has been asked to end, so its end is no news."""
    drain_asked_at: datetime | None = None
    """When its agent was last asked to drain."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All instances that existed at the last look, by id."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    boots: Boots = field(default_factory=Boots)


@dataclass(frozen=True, slots=True)
class Presences:
    """The agents of a queue as mirrored: those present, and those that a break of the connection took out of sight."""

    present: Mapping[str, AgentPresence]
    stale: Mapping[str, AgentPresence] = field(default_factory=dict)


def note(
    ledger: Ledger,
    instances: Sequence[Instance],
    presences: Presences,
    *,
    now: datetime,
    view_since: datetime,
    boot_deadline_s: float,
) -> tuple[Ledger, list[str]]:
    """The ledger after a look, and the ids of instances that ended before they had registered.

    `view_since`: since when agents could be seen without a break; nobody is missed for longer than that.
    """
    seen: dict[str, Seen] = {}
    registered = False
    for instance in instances:
        before = ledger.seen.get(instance.id)
        present = _agent_of(instance, presences.present)
        if present is not None:
            registered = registered or before is None or before.history in (History.NEW, History.ADOPTED)
            drained = present.state is AgentState.DRAINED and not present.holds
            history = History.DRAINED if drained else History.REGISTERED
            asked_at = None if before is None else before.drain_asked_at
            seen[instance.id] = Seen(history, None, before is not None and before.ending, asked_at)
        elif before is None:
            old = now - instance.launched_at >= timedelta(seconds=boot_deadline_s)
            seen[instance.id] = Seen(History.ADOPTED if old else History.NEW, absent_since=now)
        else:
            seen[instance.id] = replace(before, absent_since=max(before.absent_since or now, view_since))
    ended = [
        key
        for key, entry in ledger.seen.items()
        if key not in seen and entry.history is History.NEW and not entry.ending
    ]
    return Ledger(seen, Boots() if registered else ledger.boots), ended


def launched(ledger: Ledger, instances: Sequence[Instance], now: datetime) -> Ledger:
    """Remember fresh instances, so that one that ends before the next look is noticed."""
    fresh = {instance.id: Seen(History.NEW, absent_since=now) for instance in instances}
    return replace(ledger, seen={**fresh, **ledger.seen})


def ending(ledger: Ledger, instance_id: str) -> Ledger:
    """Remember that this instance has been asked to end."""
    entry = ledger.seen.get(instance_id)
    if entry is None:
        return ledger
    return replace(ledger, seen={**ledger.seen, instance_id: replace(entry, ending=True)})


def drain_asked(ledger: Ledger, instance_id: str, now: datetime) -> Ledger:
    """Remember that this instance's agent has been asked to drain."""
    entry = ledger.seen.get(instance_id)
    if entry is None:
        return ledger
    return replace(ledger, seen={**ledger.seen, instance_id: replace(entry, drain_asked_at=now)})


def join(
    ledger: Ledger,
    instances: Sequence[Instance],
    presences: Presences,
    running: Mapping[str, tuple[Running, ...]] | None = None,
) -> tuple[Worker, ...]:
    """Instances with their agents, oldest first, then the agents that somebody else started.

    `running`: by agent, the jobs of which records tell.
    """
    workers: list[Worker] = []
    runs = running or {}
    for instance in instances:
        entry = ledger.seen.get(instance.id, Seen(History.NEW))
        present = _agent_of(instance, presences.present)
        last = present or _agent_of(instance, presences.stale)
        workers.append(
            Worker(
                instance,
                last,
                entry.history,
                stale=last is not present,
                absent_since=entry.absent_since,
                running=runs.get(instance.agent_id, ()),
                drain_asked_at=entry.drain_asked_at,
            )
        )
    ours = {instance.agent_id for instance in instances}
    others = sorted(agent_id for agent_id in presences.present if agent_id not in ours)
    workers += [Worker(None, presences.present[agent_id], running=runs.get(agent_id, ())) for agent_id in others]
    return tuple(workers)


def _agent_of(instance: Instance, presences: Mapping[str, AgentPresence]) -> AgentPresence | None:
    """The instance's agent, unless the entry is still that of a predecessor with the same name."""
    presence = presences.get(instance.agent_id)
    if presence is None or presence.started_at < instance.launched_at - CLOCK_SKEW:
        return None
    return presence
