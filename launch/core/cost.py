"""What a queue's instances cost: hours and money, by kind of instance and by what held them.

Pure. Invariant: the parts add up to the whole, of hours as of money: each instance-hour is one of a job type's, of
booting, or of idling, and belongs to one kind of instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from launch.scaling import InstanceEnd, InstanceReport, InstanceStage, ScalingReport

BOOTING = "(booting)"
IDLE = "(idle)"
UNKNOWN_TYPE = "(starting jobs)"
"""Held by jobs of which no record told yet: their images were being pulled, say."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Which instances."""

    instance_type: str
    market: str

    def __str__(self) -> str:
        return f"{self.instance_type} {self.market}".rstrip()


@dataclass(slots=True)
class Sum:
    """Instance-hours, and what they cost as far as prices are known."""

    hours: float = 0.0
    dollars: float = 0.0
    unpriced_h: float = 0.0
    """How many of the hours have no price."""

    def add(self, hours: float, price: float | None) -> None:
        """Some more."""
        self.hours += hours
        if price is None:
            self.unpriced_h += hours
        else:
            self.dollars += hours * price


@dataclass(slots=True)
class Costs:
    """Everything of one queue within a time."""

    total: Sum = field(default_factory=Sum)
    kinds: dict[Kind, Sum] = field(default_factory=dict)
    counts: dict[Kind, int] = field(default_factory=dict)
    """How many instances of each kind."""
    uses: dict[str, Sum] = field(default_factory=dict)
    """By job type, and `BOOTING` and `IDLE`."""
    until: datetime | None = None
    """Up to when instances that exist are counted; None if there are none."""

    @property
    def idle_share(self) -> float:
        """Of all hours, those in which no job held the instance, booting included; by shares of what it has."""
        spent = [self.uses[name].hours for name in (BOOTING, IDLE) if name in self.uses]
        return sum(spent) / self.total.hours if self.total.hours else 0.0

    @property
    def unpriced(self) -> list[str]:
        """The instance types whose price is not known."""
        return sorted({kind.instance_type for kind, cost in self.kinds.items() if cost.unpriced_h > 0})


def costs(
    ends: Iterable[InstanceEnd],
    report: ScalingReport | None,
    prices: Mapping[str, float] | None,
    *,
    since: datetime | None,
) -> Costs:
    """Add up what has ended and what the report says is there. `prices`: dollars an hour by instance type.

    Of an instance that is older than `since` what came before is left out, and of what held it the same part.
    """
    found = Costs()
    over = set()
    for end in ends:
        over.add(end.id)
        life = _Life(end.instance_type, end.market, end.launched_at, end.registered_at, end.ended_at, end.busy_s)
        _add(found, life, prices or {}, since)
    if report is None:
        return found
    for told in report.instances:
        if told.id not in over and told.stage is not InstanceStage.INTENT:
            _add(found, _so_far(told, report.at), prices or {}, since)
            found.until = report.at
    for group in report.more:
        if group.stage is InstanceStage.INTENT:
            continue
        kind = Kind(group.instance_type or "-", group.market)
        longest_s = group.age_s if since is None else max(0.0, (report.at - since).total_seconds()) * group.count
        parts = {_named(job_type): busy_s for job_type, busy_s in group.busy_s.items()}
        parts[IDLE] = max(0.0, group.age_s - sum(parts.values()))
        _count(found, kind, group.count, parts, min(1.0, longest_s / group.age_s) if group.age_s else 0.0, prices or {})
        found.until = report.at
    return found


@dataclass(frozen=True, slots=True)
class _Life:
    instance_type: str | None
    market: str
    launched_at: datetime
    registered_at: datetime | None
    until: datetime
    busy_s: Mapping[str, float]


def _so_far(told: InstanceReport, at: datetime) -> _Life:
    return _Life(told.instance_type, told.market, told.since, told.registered_at, at, told.busy_s)


def _add(found: Costs, life: _Life, prices: Mapping[str, float], since: datetime | None) -> None:
    whole_s = max(0.0, (life.until - life.launched_at).total_seconds())
    start = life.launched_at if since is None else max(life.launched_at, since)
    kept_s = max(0.0, (life.until - start).total_seconds())
    if since is not None and kept_s <= 0 and life.until <= since:
        return
    boot_end = min(life.registered_at or life.until, life.until)
    boot_s = max(0.0, (boot_end - max(start, life.launched_at)).total_seconds())
    busy = {_named(job_type): seconds for job_type, seconds in life.busy_s.items() if seconds > 0}
    scale = kept_s / whole_s if whole_s else 0.0
    room_s = kept_s - boot_s
    total_busy = sum(busy.values()) * scale
    # Clocks differ: what jobs held never exceeds the time that there was for them.
    scale *= min(1.0, room_s / total_busy) if total_busy > 0 else 1.0
    parts = {name: seconds * scale for name, seconds in busy.items()}
    idle_s = max(0.0, room_s - sum(parts.values()))
    parts |= {BOOTING: boot_s, IDLE: idle_s}
    _count(found, Kind(life.instance_type or "-", life.market), 1, parts, 1.0, prices)


def _count(
    found: Costs, kind: Kind, count: int, parts_s: Mapping[str, float], scale: float, prices: Mapping[str, float]
) -> None:
    """Book each part once under its use, once under its kind, once in the whole."""
    price = prices.get(kind.instance_type)
    found.counts[kind] = found.counts.get(kind, 0) + count
    by_kind = found.kinds.setdefault(kind, Sum())
    for name, seconds in parts_s.items():
        hours = seconds * scale / 3600
        if hours > 0:
            for cost in (found.total, by_kind, found.uses.setdefault(name, Sum())):
                cost.add(hours, price)


def _named(job_type: str) -> str:
    return job_type or UNKNOWN_TYPE
