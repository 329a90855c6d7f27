"""How long instances were there, and what held them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.core.capacity import Amount
from launch.scaling import InstanceReport, InstanceStage, ScalingReport
from scaler.core.instance import InstanceState
from scaler.core.lives import ENDED_ITSELF, ENDED_UNSEEN, MISSED_FOR, OTHER, Lives
from scaler.core.snapshot import History, Running, Worker
from tests.unit.scaler.worlds import CAPACITY, NOW, ago, instance, job, presence


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def running(cpu: float = 1, *, job_type: str = "train", since_s: float = 0.0, number: int = 1) -> Running:
    return Running(f"q/{number}", job_type, job(number, cpu).amount, ago(since_s))


def worker(*jobs: Running, age_s: float = 100.0, name: str = "a") -> Worker:
    held = [replace(job(n), id=one.id, amount=one.amount) for n, one in enumerate(jobs)]
    present = presence(name, holds=held, age_s=age_s - 10)
    return Worker(instance(name, age_s=age_s), present, running=jobs)


def booting(age_s: float = 100.0) -> Worker:
    return Worker(instance("a", age_s=age_s), None, History.NEW)


def test_what_jobs_hold_is_added_up_by_type_from_look_to_look() -> None:
    lives = Lives()
    assert lives.follow([worker()], NOW) == []
    both = worker(running(1), running(2, job_type="infer", number=2))
    assert lives.follow([both], later(10)) == []
    assert lives.busy_s("i-a", later(30)) == {"train": 5.0, "infer": 10.0}
    assert lives.follow([both], later(30)) == []
    assert lives.follow([worker(running(1))], later(50)) == []
    assert lives.busy_s("i-a", later(70)) == {"train": 15.0, "infer": 20.0}


def test_a_life_is_told_once_it_is_over() -> None:
    lives = Lives()
    lives.follow([booting()], NOW)
    lives.follow([worker(running(4), age_s=100)], later(5))
    lives.blame("i-a", "idle for 60s")
    (end,) = lives.follow([], later(25))
    assert (end.id, end.agent_id, end.why) == ("i-a", "a", "idle for 60s")
    assert (end.launched_at, end.registered_at, end.ended_at) == (ago(100), ago(90), later(25))
    assert end.busy_s == {"train": 20.0}
    assert lives.follow([], later(26)) == []


def test_one_that_never_registered_has_no_such_time() -> None:
    lives = Lives()
    lives.follow([booting()], NOW)
    lives.blame("i-a", "never registered")
    (end,) = lives.follow([], later(1))
    assert (end.registered_at, end.busy_s) == (None, {})


def test_what_a_provider_loses_sight_of_may_come_back() -> None:
    lives = Lives()
    there = worker(running(4))
    lives.follow([there], NOW)
    assert lives.follow([], later(10)) == []
    assert lives.follow([there], later(12)) == []
    assert lives.busy_s("i-a", later(20)) == {"train": 10.0 + 8.0}
    assert lives.follow([], later(20)) == []
    (end,) = lives.follow([], later(20) + MISSED_FOR)
    assert (end.ended_at, end.why, end.busy_s) == (later(20), ENDED_ITSELF, {"train": 18.0})


def test_one_that_is_being_ended_is_not_waited_for() -> None:
    lives = Lives()
    ending = replace(worker(), instance=instance("a", state=InstanceState.STOPPING))
    lives.follow([ending], NOW)
    assert [end.why for end in lives.follow([], later(1))] == [""]


def test_what_is_only_asked_for_and_what_others_started_have_no_life() -> None:
    lives = Lives()
    others = Worker(None, presence("b"))
    lives.follow([replace(booting(), intended=True), others], NOW)
    lives.follow([], later(100))
    assert lives.follow([], later(200)) == []


def test_jobs_that_together_ask_for_more_than_all_count_as_all() -> None:
    lives = Lives()
    wide = Running("q/2", "infer", Amount(memory_bytes=CAPACITY.memory_bytes, slots=1), NOW)
    lives.follow([worker(running(4), wide)], NOW)
    assert lives.busy_s("i-a", later(10)) == {"train": 5.0, "infer": 5.0}


def test_a_job_of_which_no_record_tells_yet_holds_too() -> None:
    lives = Lives()
    lives.follow([replace(worker(running(2)), running=())], NOW)
    assert lives.busy_s("i-a", later(10)) == {OTHER: 5.0}
    # Once one tells, it tells of the time before, too.
    lives.follow([worker(running(2))], later(20))
    assert lives.busy_s("i-a", later(30)) == {"train": 15.0}


def test_what_no_record_has_told_of_by_the_time_it_ended_stays_unnamed() -> None:
    lives = Lives()
    lives.follow([replace(worker(running(2)), running=())], NOW)
    lives.follow([worker()], later(10))
    lives.follow([worker(running(2))], later(20))
    assert lives.busy_s("i-a", later(30)) == {OTHER: 5.0, "train": 5.0}


def told(**changes: object) -> ScalingReport:
    one = InstanceReport(
        id="i-a", agent_id="a", stage=InstanceStage.READY, since=ago(100), capacity=CAPACITY, busy_s={"train": 30.0}
    )
    asked = InstanceReport(id="intent-1-0", stage=InstanceStage.INTENT, since=ago(1), capacity=CAPACITY)
    return ScalingReport(queue="q", at=ago(20), leader="one", instances=(one.model_copy(update=changes), asked))


def test_the_next_scaler_goes_on_where_the_one_before_was() -> None:
    lives = Lives()
    lives.adopt(told(registered_at=ago(77)))
    lives.follow([worker(running(4, since_s=50), running(0, job_type="infer", since_s=50, number=2))], NOW)
    busy = lives.busy_s("i-a", later(10))
    # 30 from before, 20 while nobody looked, 10 since; a job that asks for no CPU holds its slot.
    assert sum(busy.values()) == pytest.approx(30 + 20 + 10)
    assert busy["train"] == pytest.approx(30 + 16 + 8)
    assert lives.registered_at("i-a") == ago(77)


def test_what_ended_while_nobody_looked_counts_up_to_the_last_look() -> None:
    lives = Lives()
    lives.adopt(told())
    (end,) = lives.follow([], NOW)
    assert (end.ended_at, end.busy_s, end.why) == (ago(20), {"train": 30.0}, ENDED_UNSEEN)


def test_a_scaler_that_comes_first_counts_what_runs_from_its_start() -> None:
    lives = Lives()
    lives.follow([worker(running(2, since_s=40))], NOW)
    assert lives.busy_s("i-a", NOW) == {"train": 20.0}


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 50),
            st.lists(st.tuples(st.floats(0, 4), st.sampled_from(["train", "infer"])), max_size=4),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_nothing_is_busy_for_longer_than_it_was_there(steps: list[tuple[float, list[tuple[float, str]], bool]]) -> None:
    lives, now, ends = Lives(), NOW, []
    for passed, jobs, there in steps:
        now += timedelta(seconds=passed)
        found = [running(cpu, job_type=kind, number=n) for n, (cpu, kind) in enumerate(jobs)]
        ends += lives.follow([worker(*found)] if there else [], now)
        lived = (now - ago(100)).total_seconds()
        assert sum(lives.busy_s("i-a", now).values()) <= lived + 0.01
    for end in ends:
        assert sum(end.busy_s.values()) <= (end.ended_at - end.launched_at).total_seconds() + 0.01
        assert end.launched_at <= end.ended_at <= now
