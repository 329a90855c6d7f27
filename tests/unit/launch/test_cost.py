"""What instances cost: the parts add up to the whole, whatever lives there were."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount
from launch.core.cost import BOOTING, IDLE, UNKNOWN_TYPE, Costs, Kind, costs
from launch.scaling import InstanceEnd, InstanceGroup, InstanceReport, InstanceStage, ScalingReport

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROOM = Amount(cpu_milli=4000, slots=4)
PRICES = {"g4dn.xlarge": 0.5, "c5.large": 0.1}
SPOT, DEMAND = Kind("g4dn.xlarge", "spot"), Kind("g4dn.xlarge", "on-demand")


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def end(name: str = "i-1", **changes: object) -> InstanceEnd:
    base = InstanceEnd(
        id=name,
        instance_type="g4dn.xlarge",
        market="spot",
        capacity=ROOM,
        launched_at=ago(180),
        registered_at=ago(174),
        ended_at=ago(60),
        busy_s={"train": 3600, "infer": 1800},
    )
    return base.model_copy(update=changes)


def alive(name: str = "i-9", **changes: object) -> InstanceReport:
    base = InstanceReport(
        id=name,
        stage=InstanceStage.READY,
        since=ago(60),
        registered_at=ago(57),
        instance_type="g4dn.xlarge",
        market="on-demand",
        capacity=ROOM,
        busy_s={"train": 1800},
    )
    return base.model_copy(update=changes)


def report(*instances: InstanceReport, more: tuple[InstanceGroup, ...] = ()) -> ScalingReport:
    return ScalingReport(queue="q", at=NOW, leader="one", instances=instances, more=more)


def hours(found: Costs) -> dict[str, float]:
    return {name: round(cost.hours, 6) for name, cost in found.uses.items()}


def test_one_life_by_what_held_it() -> None:
    found = costs([end()], None, PRICES, since=None)
    assert hours(found) == {"train": 1.0, "infer": 0.5, BOOTING: 0.1, IDLE: 0.4}
    assert found.total.hours == pytest.approx(2.0)
    assert found.total.dollars == pytest.approx(1.0)
    assert found.uses["train"].dollars == pytest.approx(0.5)
    assert found.idle_share == pytest.approx(0.25)
    assert found.counts == {SPOT: 1}
    assert found.until is None


def test_what_is_there_counts_up_to_the_report() -> None:
    found = costs([end()], report(alive()), PRICES, since=None)
    assert {kind: round(cost.hours, 6) for kind, cost in found.kinds.items()} == {SPOT: 2.0, DEMAND: 1.0}
    assert hours(found) == {"train": 1.5, "infer": 0.5, BOOTING: 0.15, IDLE: 0.85}
    assert found.until == NOW


def test_what_has_ended_is_not_counted_again_and_what_is_only_asked_for_not_at_all() -> None:
    told = report(alive("i-1"), alive("intent", stage=InstanceStage.INTENT))
    found = costs([end("i-1")], told, PRICES, since=None)
    assert found.counts == {SPOT: 1}
    assert found.until is None


def test_what_came_before_is_left_out() -> None:
    found = costs([end(), end("i-2", ended_at=ago(170))], report(alive()), PRICES, since=ago(120))
    assert found.counts == {SPOT: 1, DEMAND: 1}
    assert found.kinds[SPOT].hours == pytest.approx(1.0)
    assert hours(found) == {"train": 1.0, "infer": 0.25, BOOTING: 0.05, IDLE: 0.7}


def test_one_that_never_registered_only_booted() -> None:
    found = costs([end(registered_at=None, busy_s={})], None, None, since=None)
    assert hours(found) == {BOOTING: 2.0}
    assert found.idle_share == 1.0


def test_unknown_prices_are_named() -> None:
    lives = [end(), end("i-2", instance_type="p3.2xlarge"), end("i-3", instance_type=None, market="")]
    found = costs(lives, None, PRICES, since=None)
    assert found.unpriced == ["-", "p3.2xlarge"]
    assert found.total.dollars == pytest.approx(1.0)
    assert found.total.unpriced_h == pytest.approx(4.0)
    assert costs([end()], None, None, since=None).unpriced == ["g4dn.xlarge"]


def test_a_time_held_by_jobs_that_nobody_knew_yet_has_a_name() -> None:
    assert costs([end(busy_s={"": 60})], None, None, since=None).uses[UNKNOWN_TYPE].hours == pytest.approx(1 / 60)


def test_a_group_counts_as_a_whole() -> None:
    group = InstanceGroup(
        stage=InstanceStage.READY, instance_type="c5.large", count=10, age_s=36_000, busy_s={"train": 18_000}
    )
    found = costs([], report(more=(group,)), PRICES, since=None)
    assert hours(found) == {"train": 5.0, IDLE: 5.0}
    assert found.counts == {Kind("c5.large", ""): 10}
    assert costs([], report(more=(group,)), PRICES, since=ago(30)).total.hours == pytest.approx(5.0)


def test_nothing_costs_nothing() -> None:
    found = costs([], None, PRICES, since=None)
    assert (found.total.hours, found.idle_share, found.unpriced) == (0.0, 0.0, [])


_minutes = st.floats(0, 10_000, allow_nan=False)
_busy = st.dictionaries(st.sampled_from(["train", "infer", ""]), st.floats(0, 1e6), max_size=3)


@st.composite
def _lives(draw: st.DrawFn) -> InstanceEnd:
    launched, lasted, boot = draw(_minutes), draw(_minutes), draw(st.none() | _minutes)
    launched_at = ago(launched)
    return end(
        f"i-{draw(st.integers(0, 9999))}",
        instance_type=draw(st.sampled_from(["g4dn.xlarge", "c5.large", "other", None])),
        market=draw(st.sampled_from(["spot", "on-demand", ""])),
        launched_at=launched_at,
        registered_at=None if boot is None else launched_at + timedelta(minutes=boot),
        ended_at=launched_at + timedelta(minutes=lasted),
        busy_s=draw(_busy),
    )


@given(st.lists(_lives(), max_size=6), st.lists(_lives(), max_size=3), st.none() | _minutes)
def test_the_parts_add_up_to_the_whole(ends: list[InstanceEnd], now: list[InstanceEnd], since: float | None) -> None:
    there = [
        alive(f"r-{n}", since=one.launched_at, registered_at=one.registered_at, busy_s=one.busy_s)
        for n, one in enumerate(now)
    ]
    window = None if since is None else ago(since)
    found = costs(ends, report(*there), PRICES, since=window)
    for name in ("hours", "dollars", "unpriced_h"):
        whole = getattr(found.total, name)
        assert sum(getattr(cost, name) for cost in found.uses.values()) == pytest.approx(whole)
        assert sum(getattr(cost, name) for cost in found.kinds.values()) == pytest.approx(whole)
    assert all(cost.hours >= 0 for cost in found.uses.values())
    lived = 0.0
    for launched_at, until in [*((e.launched_at, e.ended_at) for e in ends), *((t.since, NOW) for t in there)]:
        start = launched_at if window is None else max(launched_at, window)
        lived += max(0.0, (until - start).total_seconds()) / 3600
    assert found.total.hours == pytest.approx(lived, abs=1e-6)
