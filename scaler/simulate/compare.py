"""Which policies are run with which parameters, and running them one after the other on the same luck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from launch.core.capacity import Amount
from scaler.core.snapshot import Policy
from scaler.simulate.baselines import BatchWindow, LagCount, OneEach
from scaler.simulate.cloud import Cloud
from scaler.simulate.ours import Planned
from scaler.simulate.record import Record
from scaler.simulate.report import OURS, Result, result_of
from scaler.simulate.trace import Trace
from scaler.simulate.world import Scaler, World

OURS_SWEPT: tuple[tuple[str, dict[str, float]], ...] = (
    ("staffing 0, patience 1", {"staffing": 0.0, "patience": 1.0, "last_factor": -1.0}),
    ("staffing 0", {"staffing": 0.0}),
    ("idle factor 0", {"idle_factor": 0.0}),
    ("idle factor 1", {"idle_factor": 1.0}),
    ("idle factor 2", {"idle_factor": 2.0}),
    ("idle factor 3", {"idle_factor": 3.0}),
    ("idle factor 8, staffing 2", {"idle_factor": 8.0, "staffing": 2.0}),
    ("idle factor 16, staffing 3", {"idle_factor": 16.0, "staffing": 3.0}),
)
"""Our tuning beside the default: from cheap to quick."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy with parameters, made anew for each run."""

    make: Callable[[], Scaler]
    usual: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one variant."""

    result: Result
    record: Record


def ours(policy: Policy, *, sweep: bool, settle_s: float) -> list[Variant]:
    """Our policy as given, and from cheap to quick."""

    def variant(label: str, changes: dict[str, float], *, usual: bool) -> Variant:
        changed = replace(policy, tuning=replace(policy.tuning, **changes))
        return Variant(lambda: Planned(changed, label, settle_s=settle_s, name=OURS), usual)

    found = [variant("default", {}, usual=True)]
    if sweep:
        found += [variant(label, changes, usual=False) for label, changes in OURS_SWEPT]
    return found


def lag_targets(trace: Trace, capacity: Amount) -> tuple[int, int]:
    """What users divide lag by: how many typical jobs a machine holds; and how many of the mean size."""
    loads = sorted(max(1e-6, job.need.load_of(capacity)) for job in trace.jobs)
    return max(1, int(1 / loads[len(loads) // 2])), max(1, round(1 / fmean(loads)))


def others(trace: Trace, capacity: Amount, *, sweep: bool, only: str | None = None) -> list[Variant]:
    """The baselines as their users run them, and with a wide choice of other parameters."""
    usual = sorted(set(lag_targets(trace, capacity)))
    found = [Variant(_bound(LagCount, float(target)), usual=True) for target in usual]
    found += [Variant(OneEach, usual=True), Variant(BatchWindow, usual=True)]
    if sweep:
        for target in sorted({1, max(1, usual[0] // 2), *usual}):
            for poll_s in (5.0, 30.0):
                for cooldown_s in (30.0, 120.0, 300.0, 900.0):
                    if target not in usual or (poll_s, cooldown_s) != (30.0, 300.0):
                        found.append(Variant(_bound(LagCount, float(target), poll_s, cooldown_s), usual=False))
        for delay_s in (0.0, 30.0):
            for idle_s in (15.0, 30.0, 60.0, 120.0, 300.0, 900.0):
                if (delay_s, idle_s) != (30.0, 300.0):
                    found.append(Variant(_bound(OneEach, delay_s, idle_s), usual=False))
        for quiet_s, longest_s in ((0.1, 1.0), (1.0, 10.0)):
            for empty_s in (0.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0):
                if (quiet_s, empty_s) != (1.0, 30.0):
                    found.append(Variant(_bound(BatchWindow, empty_s, quiet_s, longest_s), usual=False))
    return found if only is None else [one for one in found if one.make().name == only]


def _bound(kind: Callable[..., Scaler], *values: float) -> Callable[[], Scaler]:
    return lambda: kind(*values)


def run_all(
    variants: list[Variant],
    trace: Trace,
    cloud: Cloud,
    seed: int,
    *,
    max_instances: int,
    stopwatch: Callable[[], float],
    watch: Callable[[int, World], None],
) -> Iterator[Run]:
    """Run each; what was done of one that `watch` (given its number) cuts short by an interrupt comes as the last."""
    for number, variant in enumerate(variants):
        scaler = variant.make()
        world = World(trace, cloud, seed, max_instances=max_instances)
        complete = True
        try:
            world.run(scaler, stopwatch, lambda now, number=number: watch(number, now))  # type: ignore[misc]
        except KeyboardInterrupt:
            complete = False
            world.finish()
        result = result_of(
            world.record, scaler.name, scaler.settings,
            usual=variant.usual, price_per_hour=cloud.price_per_hour, complete=complete,
        )  # fmt: skip
        yield Run(result, world.record)
        if not complete:
            return
