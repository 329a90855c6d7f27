"""What is told of a look and its plan: everything, in a bounded size."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from launch.presence import AgentState
from launch.scaling import LISTED_AT_MOST, InstanceStage, ScalingReport
from scaler.core.instance import InstanceState, StopMode
from scaler.core.lives import Lives
from scaler.core.plan import Launch, Plan, Refuse, Stop
from scaler.core.report import LINE_AT_MOST, LINES_AT_MOST, decision, report, same_news, same_reasons, stage_of
from scaler.core.snapshot import Boots, History, Past, Pending, Snapshot, Unknown, Worker
from tests.unit.scaler.worlds import CAPACITY, NOW, ago, busy, idle, instance, policy, presence

NOTHING = Plan((), None, ())


def starting(name: str, age_s: float = 5) -> Worker:
    return Worker(instance(name, age_s=age_s), None, History.NEW)


def snapshot(*workers: Worker, **changes: object) -> Snapshot:
    return replace(Snapshot("q", Pending(), workers, CAPACITY), **changes)  # type: ignore[arg-type]


def told(found: Snapshot, plan: Plan = NOTHING, **changes: object) -> ScalingReport:
    lives = Lives()
    if not isinstance(found.workers, Unknown):
        lives.follow(found.workers, NOW)
    return report(found, policy(), plan, lives, NOW, leader="one", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("worker", "stage"),
    [
        (replace(starting("a"), intended=True), InstanceStage.INTENT),
        (starting("a"), InstanceStage.BOOTING),
        (idle("a", 1), InstanceStage.READY),
        (busy("a"), InstanceStage.READY),
        (Worker(instance("a"), presence("a", state=AgentState.DRAINING)), InstanceStage.DRAINING),
        (Worker(instance("a"), presence("a", state=AgentState.DRAINED)), InstanceStage.DRAINING),
        (Worker(instance("a", state=InstanceState.STOPPING), presence("a")), InstanceStage.ENDING),
        (Worker(instance("a"), None, History.REGISTERED), InstanceStage.LOST),
        (Worker(instance("a"), None, History.ADOPTED), InstanceStage.LOST),
        (Worker(instance("a"), presence("a"), stale=True), InstanceStage.LOST),
    ],
)
def test_how_far_an_instance_is(worker: Worker, stage: InstanceStage) -> None:
    assert stage_of(worker) is stage


def test_a_report_tells_of_each_instance_what_is_on_its_way_first() -> None:
    found = told(snapshot(busy("b", 2), starting("c"), Worker(None, presence("other"))), Plan((), NOW, ("because",)))
    assert [(one.id, one.stage, one.jobs) for one in found.instances] == [
        ("i-c", InstanceStage.BOOTING, 0),
        ("i-b", InstanceStage.READY, 2),
    ]
    assert found.instances[1].registered_at == ago(290)
    assert (found.queue, found.at, found.leader, found.reasons) == ("q", NOW, "one", ("because",))
    assert (found.more, found.max_instances, found.next_look_at, found.trouble, found.boots) == ((), 5, NOW, None, None)
    assert told(snapshot()).count == 0


def test_ten_thousand_instances_are_summed_up() -> None:
    workers = [busy(f"b{n}", 2) for n in range(6000)] + [idle(f"i{n}", 3) for n in range(3998)]
    found = told(snapshot(*workers, starting("late"), starting("later")), Plan((), None, ("x" * 9999,) * 999))
    assert found.count == 10_000
    assert len(found.instances) == LISTED_AT_MOST
    assert [one.id for one in found.instances[:2]] == ["i-late", "i-later"]
    (group,) = found.more
    assert (group.count, group.jobs) == (10_000 - LISTED_AT_MOST, 2 * (6000 - LISTED_AT_MOST + 2))
    assert group.age_s == pytest.approx(300 * group.count)
    assert len(found.model_dump_json()) < 256 * 1024
    assert len(found.reasons) == LINES_AT_MOST + 1
    assert found.reasons[-1] == "and 949 more"
    assert len(found.reasons[0]) == LINE_AT_MOST


def test_boot_times_are_told_as_median_and_99th_percentile() -> None:
    found = told(snapshot(past=Past(boots_s=[float(n) for n in range(1, 101)])))
    assert (found.boot_s, found.boot_p99_s) == (50.0, 99.0)
    assert (told(snapshot()).boot_s, told(snapshot()).boot_p99_s) == (None, None)


def test_launches_that_failed_are_told_with_the_next_try() -> None:
    found = told(snapshot(boots=Boots(3, ago(1), "no such image"))).boots
    assert found is not None
    assert (found.failures, found.why) == (3, "no such image")
    assert found.retry_at == ago(1) + timedelta(seconds=20)


def test_what_is_unknown_stays_as_it_was_told_and_is_trouble() -> None:
    before = told(snapshot(busy("b")))
    found = told(
        snapshot(workers=Unknown("EC2 does not answer"), capacity=Unknown("EC2 does not answer")), before=before
    )
    assert found.instances == before.instances
    assert found.trouble == "EC2 does not answer"
    assert told(snapshot(workers=Unknown("x"))).instances == ()
    assert told(snapshot(workers=Unknown("x")), trouble="may not").trouble == "may not"


def test_a_decision_in_words() -> None:
    actions = (
        Launch(1, "the first", canary=True),
        Launch(2),
        Stop("i-0ab", "a", StopMode.DRAIN, "idle"),
        Stop("i-0cd", "b", StopMode.KILL, "drained"),
        Refuse("q/7", "too large"),
    )
    made = decision(Plan(actions, None, ("why",)), NOW, leader="one")
    assert made.actions == ("launch 1 as a canary", "launch 2", "drain i-0ab", "end i-0cd", "refuse q/7")
    assert (made.at, made.leader, made.reasons) == (NOW, "one", ("why",))


def test_time_that_passes_is_no_news() -> None:
    one = told(snapshot(busy("b"), starting("c")), Plan((), NOW, ("i-c boots since 3.5 s",)))
    later = one.model_copy(
        update={
            "at": NOW + timedelta(seconds=9),
            "next_look_at": None,
            "reasons": ("i-c boots since 12 s",),
            "instances": tuple(i.model_copy(update={"busy_s": {"train": 9.0}}) for i in one.instances),
        }
    )
    assert same_news(one, later)
    assert not same_news(None, one)
    ready = told(snapshot(busy("b"), idle("c", 1)))
    for change in (
        {"instances": ready.instances},
        {"instances": one.instances[:1]},
        {"reasons": ("something else",)},
        {"leader": "two"},
        {"trouble": "may not"},
        {"boot_s": 1.0},
        {"max_instances": 6},
    ):
        assert not same_news(one, later.model_copy(update=change)), change


def test_another_instance_is_another_reason() -> None:
    assert same_reasons(("3 jobs waiting: max_instances is 5",), ("41 jobs waiting: max_instances is 5",))
    assert not same_reasons(("stop i-0123: idle for 60s",), ("stop i-0124: idle for 60s",))
    assert not same_reasons(("q/7 fits nothing",), ("q/8 fits nothing",))
    assert not same_reasons((), ("a",))
