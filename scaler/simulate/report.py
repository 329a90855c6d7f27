"""What came out of a run, and how runs compare: figures, a table, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scaler.simulate.record import Record

COLUMNS = ("policy", "settings", "inst-h", "cost", "mean wait", "p50", "p95", "p99", "max", "launches", "idle", "most")
OURS = "nats-launch"


@dataclass(frozen=True, slots=True)
class Result:
    """One run in figures. Seconds, unless a name says otherwise."""

    policy: str
    settings: str
    usual: bool
    """With the parameters that its users usually run it with; else one of a sweep."""
    jobs: int
    done: int
    refused: int
    unserved: int
    paid_s: float
    work_s: float
    idle_share: float
    """Of the time that was paid: in how much of it the machine held nothing, booting included."""
    mean_wait_s: float
    p50_wait_s: float
    p95_wait_s: float
    p99_wait_s: float
    max_wait_s: float
    launches: int
    most: int
    losses: int
    restarts: int
    shortages: int
    decisions: int
    decision_median_ms: float = field(compare=False)
    decision_p99_ms: float = field(compare=False)
    price_per_hour: float | None = None
    complete: bool = True
    """False if the run was cut short."""

    @property
    def instance_hours(self) -> float:
        """What was paid for."""
        return self.paid_s / 3600

    @property
    def cost(self) -> float | None:
        """In the money of the price."""
        return None if self.price_per_hour is None else self.price_per_hour * self.instance_hours

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        names = [name for name in self.__slots__ if name not in ("price_per_hour", "paid_s")]
        rounded = {
            name: round(value, 4) if isinstance(value := getattr(self, name), float) else value for name in names
        }
        cost = self.cost
        return {
            **rounded,
            "instance_hours": round(self.instance_hours, 4),
            "cost": None if cost is None else round(cost, 4),
        }


def result_of(
    record: Record, policy: str, settings: str, *, usual: bool, price_per_hour: float | None, complete: bool = True
) -> Result:
    """The figures of a run that is over."""
    waits, decisions = sorted(record.waits_s), sorted(record.decision_s)
    return Result(
        policy, settings, usual, record.jobs, record.done, record.refused, record.unserved,
        paid_s=record.paid_s,
        work_s=record.worked_s,
        idle_share=record.idle_s / record.paid_s if record.paid_s else 0.0,
        mean_wait_s=sum(waits) / len(waits) if waits else 0.0,
        p50_wait_s=_quantile(waits, 0.5),
        p95_wait_s=_quantile(waits, 0.95),
        p99_wait_s=_quantile(waits, 0.99),
        max_wait_s=waits[-1] if waits else 0.0,
        launches=record.launches,
        most=record.most,
        losses=record.losses,
        restarts=record.restarts,
        shortages=record.shortages,
        decisions=len(decisions),
        decision_median_ms=1000 * _quantile(decisions, 0.5),
        decision_p99_ms=1000 * _quantile(decisions, 0.99),
        price_per_hour=price_per_hour,
        complete=complete,
    )  # fmt: skip


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Versus:
    """Our policy beside one of the others. Ratios are of cost, theirs for 1; None where there is nothing to compare."""

    other: str
    theirs: Result
    """As its users run it."""
    ours: Result
    """The cheapest of our runs in which jobs wait no longer than in `theirs` (on average)."""
    tuned: Result | None
    """The cheapest of their runs in which jobs wait no longer than with our default."""
    default: Result

    @property
    def saved(self) -> float:
        """The share of the cost that we save at their usual wait, or less."""
        return 1 - self.ours.paid_s / self.theirs.paid_s

    @property
    def saved_tuned(self) -> float | None:
        """The share of the cost that our default saves against their best at its wait; None: they never get there."""
        return None if self.tuned is None else 1 - self.default.paid_s / self.tuned.paid_s


def versus(results: Sequence[Result]) -> list[Versus]:
    """Each of the others beside ours, as far as the runs go."""
    ours = [one for one in results if one.policy == OURS and one.complete]
    default = next((one for one in ours if one.usual), None)
    if default is None:
        return []
    found = []
    for theirs in results:
        if theirs.policy == OURS or not theirs.usual or not theirs.complete:
            continue
        runs = [one for one in results if one.policy == theirs.policy and one.complete]
        match = _cheapest(ours, theirs.mean_wait_s) or default
        found.append(Versus(theirs.policy, theirs, match, _cheapest(runs, default.mean_wait_s), default))
    return found


def _cheapest(results: Iterable[Result], mean_wait_s: float) -> Result | None:
    waits = [one for one in results if one.mean_wait_s <= mean_wait_s]
    return min(waits, key=lambda one: one.paid_s, default=None)


def rows(results: Sequence[Result]) -> list[list[str]]:
    """The table's rows, cells as text, in the order of `COLUMNS`."""
    return [
        [
            one.policy,
            one.settings + ("" if one.complete else " (cut short)"),
            f"{one.instance_hours:.1f}",
            "" if one.cost is None else f"{one.cost:.2f}",
            *(f"{wait:.1f}" for wait in (one.mean_wait_s, one.p50_wait_s, one.p95_wait_s, one.p99_wait_s)),
            f"{one.max_wait_s:.0f}",
            str(one.launches),
            f"{100 * one.idle_share:.1f}%",
            str(one.most),
        ]
        for one in results
    ]


def sentences(results: Sequence[Result]) -> list[str]:
    """The comparison in words, ties and losses as well as gains."""
    said: dict[str, None] = {}
    for one in versus(results):
        theirs, ours, default, tuned = one.theirs, one.ours, one.default, one.tuned
        as_usual = f"{one.other} ({theirs.settings}) waits {theirs.mean_wait_s:.1f} s on average"
        if ours.mean_wait_s <= theirs.mean_wait_s:
            said[
                f"{as_usual}: at {ours.mean_wait_s:.1f} s ({ours.settings}) ours costs {_verdict(one.saved)}; "
                f"p99 wait {ours.p99_wait_s:.0f} s to its {theirs.p99_wait_s:.0f} s"
            ] = None
        else:
            said[f"{as_usual}: in none of our runs do jobs wait so little"] = None
        if tuned is None or one.saved_tuned is None:
            said[f"{one.other}: in none of its runs do jobs wait as little as with our default"] = None
        else:
            said[
                f"{one.other}, its cheapest run that waits no longer than our default ({default.mean_wait_s:.1f} s): "
                f"{tuned.settings}, {tuned.mean_wait_s:.1f} s; our default costs {_verdict(one.saved_tuned)}"
            ] = None
    return list(said)


def _verdict(saved: float) -> str:
    if abs(saved) < 0.005:
        return "the same"
    return f"{abs(saved):.1%} {'less' if saved > 0 else 'MORE'}"
