"""What a plan makes of the past: when running jobs end, what boots take, what is to come."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount
from scaler.core.durations import KEPT, TYPES_AT_MOST, Durations, residual_s
from scaler.core.forecast import KINDS_AT_MOST, Arrivals, Load, below_after_s, floor_of, offered_load
from scaler.core.plan import Launch, Plan, Stop, plan
from scaler.core.snapshot import AWS, Past, PendingJob, Policy, Running, Snapshot, Worker
from tests.unit.scaler.worlds import CAPACITY, NOW, ago, busy, idle, job, jobs, snapshot, starting

BOOTS = (50.0, 60.0, 70.0)
ONE = Amount(cpu_milli=1000, slots=1)
RULES = Policy(0, 9, tuning=AWS)


def decide(world: Snapshot, rules: Policy = RULES, **past: Any) -> Plan:
    return plan(replace(world, past=replace(Past(boots_s=BOOTS), **past)), rules, NOW)


def launches(decided: Plan) -> int:
    return sum(action.count for action in decided.actions if isinstance(action, Launch))


def running(name: str, *ages_s: float) -> Worker:
    """Full: four jobs of a CPU each, of these ages."""
    worker = busy(name, held=4)
    return replace(worker, running=tuple(Running(f"r/{n}", "train", ONE, ago(age)) for n, age in enumerate(ages_s)))


# -- room that comes free -------------------------------------------------------------------------------------------


def test_a_job_waits_for_room_that_comes_sooner_than_an_instance() -> None:
    decided = decide(snapshot([running("a", 80, 80, 10, 10)], jobs(2)), durations_s={"train": (100.0,) * 9})
    assert launches(decided) == 0
    assert decided.reasons == ("2 jobs waiting for running ones to end: sooner than a new instance, the first in 22s",)
    assert decided.next_look_at == NOW + timedelta(seconds=22.5)


def test_more_jobs_than_come_free_in_time_are_launched_for() -> None:
    decided = decide(snapshot([running("a", 80, 80, 10, 10)], jobs(4)), durations_s={"train": (100.0,) * 9})
    assert launches(decided) == 1
    assert decided.reasons[0] == "launch 1: 2 pending jobs found no room on the workers at hand"


def test_where_nothing_is_known_no_job_is_waited_for() -> None:
    world = snapshot([running("a", 1, 1, 1, 1)], jobs(4))
    assert launches(decide(world)) == 1
    assert launches(decide(world, durations_s={"train": (0.5,)})) == 1
    assert launches(decide(world, durations_s={"train": (0.5, 9.0)})) == 0


def test_short_jobs_take_turns_in_free_room() -> None:
    world = snapshot([busy("a", held=2)], jobs(12))
    assert launches(decide(world, durations_s={"train": (11.0,) * 9})) == 0
    assert launches(decide(world, durations_s={"train": (50.0,) * 9})) == 2


def test_the_more_urgent_jobs_get_the_room() -> None:
    urgent = [replace(one, rank=0, arrived_at=ago(1)) for one in jobs(4)]
    decided = decide(snapshot([idle("a", 5)], [job(9, 4), *urgent]), replace(RULES, max_instances=1))
    assert decided.reasons == ("1 job waiting: max_instances is 1",)


@given(st.lists(st.floats(0, 1e6), max_size=20).map(sorted), st.floats(0, 1e6), st.floats(0, 0.99))
def test_a_residual_is_the_median_of_what_lasted_longer(lasted: list[float], age_s: float, share: float) -> None:
    left = residual_s(lasted, age_s)
    longer = [one for one in lasted if one > age_s]
    if not longer:
        assert left is None
        return
    careful = residual_s(lasted, age_s, max(share, 0.5))
    assert left == longer[len(longer) // 2] - age_s
    assert careful is not None
    assert careful >= left >= 0


def test_durations_are_bounded() -> None:
    durations = Durations({"a": [1.0] * (KEPT + 9)})
    assert len(durations.view()["a"]) == KEPT
    for number in range(TYPES_AT_MOST):
        durations.add(f"type-{number}", 3.0)
    assert "a" not in durations.view()
    assert len(durations.latest()) == TYPES_AT_MOST
    durations.add("type-5", 2.0)
    assert (durations.view()["type-5"], durations.latest()["type-5"]) == ((2.0, 3.0), (3.0, 2.0))


# -- boots ----------------------------------------------------------------------------------------------------------


def test_the_boot_deadline_follows_what_boots_take() -> None:
    def killed(age_s: float, *boots_s: float) -> bool:
        decided = decide(snapshot([starting("a", age_s=age_s)]), boots_s=boots_s)
        return any(isinstance(action, Stop) for action in decided.actions)

    assert not killed(299, 70.0)
    assert killed(300, 70.0)
    assert not killed(599, 70.0, 200.0)
    assert killed(600, 70.0, 200.0)


def test_what_is_asked_for_is_capacity_and_is_never_ended() -> None:
    asked = replace(starting("a", age_s=9999), intended=True)
    decided = decide(snapshot([asked], jobs(4)))
    assert decided.actions == ()


def test_an_idle_instance_is_kept_for_a_share_of_a_boot_and_as_long_as_it_is_paid() -> None:
    rules = replace(RULES, tuning=replace(AWS, idle_factor=0.5, idle_least_s=15.0))
    assert decide(snapshot([idle("a", 89), busy("b")]), rules).next_look_at == ago(89) + timedelta(seconds=90)
    assert [action.why for action in decide(snapshot([idle("a", 90), busy("b")]), rules).actions] == [
        "idle for 1m30s (limit 1m30s, as a boot takes 1m00s)"
    ]
    young = snapshot([idle("a", 29, 30), busy("b")])
    assert decide(young, boots_s=(2.0,)).next_look_at == ago(30) + timedelta(seconds=60)
    assert decide(young, replace(RULES, tuning=replace(AWS, billed_least_s=0)), boots_s=(2.0,)).actions != ()


def test_the_last_instance_is_kept_for_longer() -> None:
    rules = replace(RULES, tuning=replace(AWS, last_factor=2.0))
    world = snapshot([idle("a", 100), idle("b", 179)])
    assert [action.agent_id for action in decide(world, rules).actions if isinstance(action, Stop)] == ["b"]
    assert decide(world, rules).next_look_at == ago(100) + timedelta(seconds=180)
    assert [action.why for action in decide(snapshot([idle("a", 180)]), rules).actions] == [
        "idle for 3m00s (limit of the last one 3m00s, as a boot takes 1m00s)"
    ]


def test_the_owner_s_idle_timeout_counts_and_nothing_else() -> None:
    past = came(99, 100.0)
    assert decide(snapshot([idle("a", 9)]), replace(RULES, idle_timeout_s=8.0), **past).actions != ()
    assert decide(snapshot([idle("a", 9)]), replace(RULES, idle_timeout_s=10.0), **past).actions == ()


# -- what is to come ------------------------------------------------------------------------------------------------


def came(count: int, lasts_s: float) -> dict[str, Any]:
    """So many jobs of a CPU at once, now."""
    arrivals = Arrivals(AWS.tau_s)
    arrivals.add("train", ONE, NOW, count)
    return {"arriving": arrivals.view(), "durations_s": {"train": (lasts_s,)}}


def test_arrivals_keep_instances_and_start_them() -> None:
    """Load: 60 jobs in a time constant of 300 s, each 100 s on a quarter of an instance: 5 instances."""
    load = offered_load(Past(**came(60, 100.0)), CAPACITY, NOW, AWS.tau_s)
    assert load.mean == pytest.approx(60 * 100 / AWS.tau_s / 4)
    assert load.variance == pytest.approx(60 * 100 / AWS.tau_s / 16)
    floor = floor_of(load, AWS.staffing)
    kept = decide(snapshot([idle(f"i{n}", 999, 2000) for n in range(9)]), **came(60, 100.0))
    assert len(kept.actions) == 9 - floor
    assert kept.reasons[-1] == f"{floor} idle, and kept: so many jobs came of late that {floor} are wanted"
    started = decide(snapshot([busy("a", held=1)]), **came(60, 100.0))
    assert launches(started) == floor - 1
    assert decide(snapshot(), **came(60, 100.0)).actions == ()


def test_the_next_look_is_when_the_forecast_has_faded() -> None:
    world = snapshot([idle("a", 999, 2000), idle("b", 999, 2000)])
    decided = decide(world, **came(20, 100.0))
    assert (decided.actions, decided.next_look_at is not None) == ((), True)
    assert decided.next_look_at is not None
    past = Past(boots_s=BOOTS, **came(20, 100.0))
    just_before = decided.next_look_at - timedelta(seconds=1)
    assert plan(replace(world, past=past), RULES, just_before).actions == ()
    assert len(plan(replace(world, past=past), RULES, decided.next_look_at).actions) == 1


@given(st.floats(0.05, 500), st.floats(0, 50), st.sampled_from([0.0, 0.25, 2.5]), st.floats(0, 3), st.integers(1, 500))
def test_the_fading_is_foretold(mean: float, variance: float, lasting: float, staffing: float, count: int) -> None:
    def at(seconds: float) -> int:
        left = math.exp(-seconds / 300)
        return floor_of(Load(lasting + mean * left, variance * left, lasting), staffing)

    after_s = below_after_s(Load(lasting + mean, variance, lasting), staffing, count, 300.0)
    if after_s is None:
        assert at(0) < count or at(3000) >= count
        return

    assert at(after_s + 0.1) < count
    if after_s > 0.1:
        assert at(after_s - 0.1) >= count


def test_long_jobs_count_while_they_run() -> None:
    arrivals = Arrivals(AWS.tau_s)
    arrivals.add("train", ONE, NOW, 3)
    arrivals.add("eval", ONE, NOW, 3)
    past = Past({"train": (9999.0,), "eval": (AWS.tau_s,)}, (), arrivals.view())
    load = offered_load(past, CAPACITY, NOW, AWS.tau_s, [running("a", 1, 1)])
    assert load.mean == pytest.approx((3 + 2) / 4)
    assert load.variance == pytest.approx(3 / 16)


def test_nothing_is_foreseen_of_what_is_unknown_or_fits_nowhere() -> None:
    arrivals = Arrivals(AWS.tau_s)
    arrivals.add("train", Amount(cpu_milli=99_000, slots=1), NOW, 99)
    arrivals.add("new", ONE, NOW, 99)
    assert offered_load(Past({"train": (9.0,)}, (), arrivals.view()), CAPACITY, NOW, AWS.tau_s) == Load()


def test_kinds_of_arrivals_are_bounded_and_the_faded_go_first() -> None:
    arrivals = Arrivals(300.0)
    for number in range(KINDS_AT_MOST):
        arrivals.add(f"type-{number}", ONE, ago(100 if number == 7 else 1))
    arrivals.add("one more", ONE, NOW)
    kinds = {arriving.job_type for arriving in arrivals.view()}
    assert len(kinds) == KINDS_AT_MOST
    assert "type-7" not in kinds
    arrivals.add("one more", ONE, NOW + timedelta(seconds=300))
    newest = next(arriving for arriving in arrivals.view() if arriving.job_type == "one more")
    assert newest.weight == pytest.approx(1 + math.exp(-1))


# -- what has never come up -----------------------------------------------------------------------------------------


def test_a_canary_goes_first_and_then_the_rest_at_once() -> None:
    world = replace(snapshot(pending=jobs(12)), config="c1", proven=False)
    first = decide(world)
    assert [(action.count, action.canary) for action in first.actions if isinstance(action, Launch)] == [(1, True)]
    assert first.reasons[1] == "no instance of this launch configuration has ever come up: one is tried first"

    def coming(config: str) -> Worker:
        worker = starting("a")
        assert worker.instance is not None
        return replace(worker, instance=replace(worker.instance, config=config))

    waiting = decide(replace(world, workers=(coming("c1"),)))
    assert waiting.actions == ()
    assert waiting.reasons[0].endswith("one is being tried before more are started")
    assert launches(decide(replace(world, workers=(coming("c0"),)))) == 1
    assert launches(decide(replace(world, workers=(coming("c1"),), proven=True))) == 2


def test_an_old_configuration_s_failure_is_not_the_new_one_s() -> None:
    worker = starting("a", age_s=9999)
    assert worker.instance is not None
    old = replace(worker, instance=replace(worker.instance, config="c0"))
    world = replace(snapshot([old], jobs(8)), config="c1")
    assert launches(decide(world)) == 2
    assert launches(decide(replace(world, config="c0"))) == 0


def test_pending_jobs_of_a_type_keep_their_order() -> None:
    late = PendingJob("q/2", "train", ONE, ago(5))
    early = PendingJob("q/1", "train", ONE, ago(50))
    group = snapshot(pending=[late, early]).pending.groups[0]  # type: ignore[union-attr]
    assert (group.ids, group.oldest, group.newest) == (("q/1", "q/2"), ago(50), ago(5))
