"""What holds for every plan, whatever the world."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.presence import AgentState
from scaler.core.instance import InstanceState, StopMode
from scaler.core.plan import Launch, Refuse, Stop, plan
from scaler.core.snapshot import History, Pending, Policy, Snapshot, Unknown, Worker
from tests.unit.scaler.worlds import NOW, any_policy, any_snapshot, carry_out


def workers_of(world: Snapshot) -> tuple[Worker, ...]:
    assert not isinstance(world.workers, Unknown)
    return world.workers


def launched(world: Snapshot, rules: Policy) -> int:
    return sum(action.count for action in plan(world, rules, NOW).actions if isinstance(action, Launch))


@given(any_snapshot(), any_policy())
def test_never_above_the_maximum(world: Snapshot, rules: Policy) -> None:
    existing = sum(1 for worker in workers_of(world) if worker.instance is not None)
    count = launched(world, rules)
    assert count == 0 or existing + count <= rules.max_instances
    if not rules.elastic:
        assert count == 0


@given(any_snapshot(), any_policy())
def test_idle_workers_are_never_stopped_below_the_minimum(world: Snapshot, rules: Policy) -> None:
    ready = {
        worker.instance.id
        for worker in workers_of(world)
        if worker.instance is not None
        and worker.instance.state is not InstanceState.STOPPING
        and worker.presence is not None
        and worker.presence.state is AgentState.READY
    }
    stops = [action for action in plan(world, rules, NOW).actions if isinstance(action, Stop)]
    stopped = {action.instance_id for action in stops}
    over = {action.instance_id for action in stops if "max_instances" in action.why}
    useless = {action.instance_id for action in stops if action.mode is StopMode.KILL}
    if (stopped - useless) & ready and not over:
        assert len(ready - stopped) >= rules.min_instances


@given(any_snapshot(), any_policy())
def test_the_minimum_is_kept_where_it_may_be(world: Snapshot, rules: Policy) -> None:
    after = carry_out(world, plan(world, rules, NOW))
    boots = after.boots.retry_at(rules)
    existing = sum(1 for worker in workers_of(after) if worker.instance is not None)
    coming = [
        worker
        for worker in workers_of(after)
        if worker.instance is not None
        and worker.instance.state is not InstanceState.STOPPING
        and (worker.presence is None or worker.presence.state is AgentState.READY)
        # One that has not heard within the time for that still takes work.
        and (worker.drain_asked_at is None or (NOW - worker.drain_asked_at).total_seconds() >= rules.drain_retry_s)
    ]
    if boots is None and after.proven and rules.elastic and existing < rules.max_instances:
        assert len(coming) >= rules.min_instances


@given(any_snapshot(), any_policy())
def test_a_holder_is_never_stopped(world: Snapshot, rules: Policy) -> None:
    by_id = {worker.instance.id: worker for worker in workers_of(world) if worker.instance is not None}
    for action in plan(world, rules, NOW).actions:
        if isinstance(action, Stop):
            worker = by_id[action.instance_id]
            assert worker.presence is None or (not worker.presence.holds and not worker.stale)
            assert worker.instance is not None
            assert worker.instance.state is not InstanceState.STOPPING
            assert not worker.intended
            if worker.presence is None and worker.history not in (History.NEW, History.DRAINED):
                assert worker.absent_since is not None
                assert (NOW - worker.absent_since).total_seconds() >= rules.lost_deadline_s


@pytest.mark.parametrize("part", ["pending", "workers", "capacity"])
@given(world=any_snapshot(), rules=any_policy())
def test_the_unknown_holds(part: str, world: Snapshot, rules: Policy) -> None:
    unknown = replace(world, **{part: Unknown("no answer")})  # type: ignore[arg-type]
    decided = plan(unknown, rules, NOW)
    assert decided.actions == ()
    assert decided.reasons == ("holding: no answer",)


@given(any_snapshot(), any_policy())
def test_planning_again_at_the_same_moment_does_nothing_more(world: Snapshot, rules: Policy) -> None:
    after = carry_out(world, plan(world, rules, NOW))
    assert plan(after, rules, NOW).actions == ()


@given(any_snapshot(), any_policy(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_does_not_matter(world: Snapshot, rules: Policy, random: Random) -> None:
    workers = list(workers_of(world))
    random.shuffle(workers)
    assert plan(replace(world, workers=tuple(workers)), rules, NOW).actions == plan(world, rules, NOW).actions


@given(any_snapshot(), any_policy())
def test_the_next_look_is_in_the_future(world: Snapshot, rules: Policy) -> None:
    decided = plan(world, rules, NOW)
    assert decided.next_look_at is None or decided.next_look_at > NOW


@given(any_snapshot(), any_policy(), st.integers(1, 9))
def test_more_jobs_of_a_kind_never_launch_less(world: Snapshot, rules: Policy, more: int) -> None:
    assert isinstance(world.pending, Pending)
    for group in world.pending.groups:
        alone = replace(world.pending, groups=(group,))
        fuller = replace(alone, groups=(replace(group, count=group.count + more),))
        assert launched(replace(world, pending=fuller), rules) >= launched(replace(world, pending=alone), rules)


@given(any_snapshot(), any_policy())
def test_what_is_in_doubt_starts_one_at_a_time(world: Snapshot, rules: Policy) -> None:
    doubted = replace(world, proven=False)
    first = plan(doubted, rules, NOW)
    assert launched(doubted, rules) <= 1
    assert all(action.canary for action in first.actions if isinstance(action, Launch))
    after = carry_out(doubted, first)
    assert launched(after, rules) == 0


@given(any_snapshot(), any_policy())
def test_every_action_has_its_reason(world: Snapshot, rules: Policy) -> None:
    decided = plan(world, rules, NOW)
    assert all(action.why for action in decided.actions)
    assert all(any(action.why.split(":")[0] in reason for reason in decided.reasons)
               for action in decided.actions if not isinstance(action, Refuse))  # fmt: skip
