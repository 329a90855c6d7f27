"""The scaler's plan, case by case."""

from __future__ import annotations

from datetime import timedelta

from launch.core.capacity import Amount
from launch.presence import AgentState
from scaler.core.instance import InstanceState, StopMode
from scaler.core.plan import Launch, Plan, Refuse, Stop, plan
from scaler.core.snapshot import Boots, History, Pending, Snapshot, Worker
from tests.unit.scaler.worlds import (
    CAPACITY,
    NOW,
    ago,
    busy,
    idle,
    instance,
    job,
    jobs,
    policy,
    presence,
    snapshot,
    starting,
)


def launches(decided: Plan) -> int:
    return sum(action.count for action in decided.actions if isinstance(action, Launch))


def stopped(decided: Plan) -> list[str]:
    return [action.agent_id for action in decided.actions if isinstance(action, Stop)]


def decide(world: Snapshot, minimum: int = 0, maximum: int = 5, **changes: object) -> Plan:
    return plan(world, policy(minimum, maximum, **changes), NOW)


# -- launching ------------------------------------------------------------------------------------------------------


def test_nothing_to_do_does_nothing() -> None:
    assert decide(snapshot()) == Plan((), None, ())


def test_it_launches_what_pending_jobs_need() -> None:
    decided = decide(snapshot(pending=jobs(9)))
    assert decided.actions == (Launch(3, "9 pending jobs found no room on the workers at hand"),)
    assert decided.reasons == ("launch 3: 9 pending jobs found no room on the workers at hand",)


def test_running_jobs_are_no_demand() -> None:
    assert launches(decide(snapshot([busy("a", held=4)]))) == 0


def test_free_room_comes_first() -> None:
    assert launches(decide(snapshot([busy("a", held=2)], jobs(2)))) == 0
    assert launches(decide(snapshot([busy("a", held=2)], jobs(3)))) == 1


def test_starting_instances_are_capacity() -> None:
    decided = decide(snapshot([starting("a", age_s=5)], jobs(4)))
    assert decided.actions == ()
    assert decided.next_look_at == ago(5) + timedelta(seconds=60)


def test_the_maximum_bounds_and_says_so() -> None:
    decided = decide(snapshot([busy("a", held=4)], Pending.of(jobs(12), beyond=100)), maximum=2)
    assert launches(decided) == 1
    assert decided.reasons[-1] == "108 jobs waiting: max_instances is 2"


def test_the_minimum_is_kept_without_work() -> None:
    decided = decide(snapshot([idle("a", 1000)]), minimum=2)
    assert decided.actions == (Launch(1, "min_instances is 2 and 1 exist"),)
    assert decided.reasons == ("launch 1: min_instances is 2 and 1 exist",)


def test_a_job_that_fits_no_instance_launches_nothing_and_is_refused_by_name() -> None:
    decided = decide(snapshot(pending=[job(7, 8), *(job(n, 0, gpus=1) for n in range(8, 12))]))
    refused = [action for action in decided.actions if isinstance(action, Refuse)]
    assert {action.job_id for action in refused} == {f"q/{n}" for n in range(7, 12)}
    assert refused[0] == Refuse("q/7", "it asks for more than any worker of this queue can have: cpu 8 of 4")
    assert len(decided.actions) == len(refused)
    assert decided.reasons[0] == "q/7 fits no instance that could be started: cpu 8 of 4"
    assert decided.reasons[-1] == "and 2 more like that"


def test_a_job_that_fits_only_a_larger_present_worker_waits_for_it() -> None:
    large = presence("big", capacity=CAPACITY.model_copy(update={"cpu_milli": 16000}), holds=[job(1, 12)])
    decided = decide(snapshot([Worker(None, large)], [job(2, 8)]))
    assert decided.actions == ()
    assert decided.reasons == ("q/2 waits for room on a larger worker: cpu 8 of 4 of a new one",)


def test_a_type_that_no_worker_takes_launches_nothing() -> None:
    decided = decide(snapshot(pending=[job(1, job_type="other"), job(2)]), job_types=("train",))
    assert launches(decided) == 1
    assert decided.reasons[-1] == "q/1: no worker of this queue takes the type other (job_types of the queue)"


def test_a_present_worker_of_another_type_is_no_room() -> None:
    typed = Worker(None, presence("other", job_types=("eval",)))
    assert launches(decide(snapshot([typed], jobs(1)))) == 1


def test_a_paused_queue_is_no_demand() -> None:
    decided = decide(snapshot([idle("a", 1000)], Pending.of(jobs(3), beyond=2, paused=True)))
    assert launches(decided) == 0
    assert stopped(decided) == ["a"]
    assert decided.reasons[-1] == "the queue is paused: 5 jobs pending until it is resumed"


def test_workers_started_by_others_are_room_but_no_instances() -> None:
    others = [Worker(None, presence(f"x{n}")) for n in range(9)]
    assert launches(decide(snapshot(others, jobs(36)))) == 0
    assert launches(decide(snapshot(others, jobs(40)))) == 1


def test_a_static_queue_starts_nothing_and_says_what_it_waits_for() -> None:
    def static(*workers: Worker) -> tuple[str, ...]:
        decided = decide(snapshot(workers, [job(1, 2), job(2, 64)], capacity=Amount()), elastic=False)
        assert decided.actions == ()
        return decided.reasons

    assert static() == ("2 jobs waiting: no worker is present, and the scaler starts none for this queue",)
    full = Worker(None, presence("x", holds=[job(9, 3)]))
    assert static(full) == (
        "1 job waiting for room on a worker",
        "q/2: too large for any worker that is present",
    )  # fmt: skip


# -- stopping -------------------------------------------------------------------------------------------------------


def test_idle_instances_stop_after_the_timeout() -> None:
    decided = decide(snapshot([idle("a", 61), idle("b", 20)]))
    assert decided.actions == (
        Stop("i-a", "a", StopMode.DRAIN, "idle for 1m01s (idle_timeout 1m00s)"),
    )  # fmt: skip
    assert decided.next_look_at == ago(20) + timedelta(seconds=60)


def test_the_longest_idle_goes_first_and_of_equals_the_youngest() -> None:
    fleet = [idle("a", 100, 500), idle("b", 300, 500), idle("c", 100, 200)]
    assert stopped(decide(snapshot(fleet), minimum=2)) == ["b"]
    assert stopped(decide(snapshot(fleet), minimum=1)) == ["b", "c"]


def test_an_idle_instance_at_the_minimum_stays() -> None:
    decided = decide(snapshot([idle("a", 1000)]), minimum=1)
    assert decided == Plan((), None, ())


def test_an_idle_instance_that_pending_work_needs_stays() -> None:
    assert decide(snapshot([idle("a", 1000), idle("b", 2000)], jobs(2))).actions == (
        Stop("i-b", "b", StopMode.DRAIN, "idle for 33m20s (idle_timeout 1m00s)"),
    )  # fmt: skip


def test_pending_work_goes_to_the_fuller_workers_so_that_idle_ones_can_go() -> None:
    assert stopped(decide(snapshot([idle("a", 1000), busy("b", held=1)], jobs(3)))) == ["a"]


def test_above_the_maximum_idle_ones_go_at_once_and_busy_ones_stay() -> None:
    decided = decide(snapshot([idle("a", 1), busy("b"), busy("c")]), maximum=1)
    assert stopped(decided) == ["a"]


def test_an_agent_that_was_drained_is_ended_and_replaced() -> None:
    drained = Worker(instance("a"), presence("a", state=AgentState.DRAINED))
    decided = decide(snapshot([drained]), minimum=1)
    assert stopped(decided) == ["a"]
    assert launches(decided) == 1


def test_a_draining_agent_is_left_alone_and_is_no_room() -> None:
    draining = Worker(instance("a"), presence("a", state=AgentState.DRAINING))
    decided = decide(snapshot([draining], jobs(1)))
    assert (launches(decided), stopped(decided)) == (1, [])
    assert decide(snapshot([draining], jobs(1)), maximum=1).actions == ()


def test_a_stopping_instance_is_no_room_and_fills_a_place() -> None:
    leaving = Worker(instance("a", state=InstanceState.STOPPING), presence("a"))
    assert decide(snapshot([leaving], jobs(1)), maximum=1).actions == ()
    assert launches(decide(snapshot([leaving], jobs(1)), maximum=2)) == 1


# -- what never came, and what is out of sight ----------------------------------------------------------------------


def test_an_instance_that_never_registers_is_killed_and_the_next_launch_waits() -> None:
    decided = decide(snapshot([starting("a", age_s=60)], jobs(9)))
    assert decided.actions == (
        Stop("i-a", "a", StopMode.KILL, "its agent did not register within 1m00s", absent=True, never_came=True),
    )  # fmt: skip
    assert decided.next_look_at == NOW + timedelta(seconds=5)
    assert decided.reasons[1].startswith("an instance never registered (a never registered): the next try is at ")


def test_failed_launches_back_off_exponentially() -> None:
    rules = policy()
    pauses = []
    for failures in (1, 2, 3, 7, 60):
        at = Boots(failures, NOW, "x").retry_at(rules)
        assert at is not None
        pauses.append((at - NOW).total_seconds())
    assert pauses == [5, 10, 20, 300, 300]
    assert Boots().retry_at(rules) is None


def test_after_failures_one_is_tried_before_more() -> None:
    boots = Boots(3, ago(21), "it crashed")
    assert launches(decide(snapshot(pending=jobs(20), boots=boots))) == 1
    assert launches(decide(snapshot([starting("a")], jobs(20), boots=boots))) == 0
    assert launches(decide(snapshot(pending=jobs(20), boots=Boots(3, ago(19), "it crashed")))) == 0


def lost(name: str, silent_s: float, history: History = History.REGISTERED) -> Worker:
    return Worker(instance(name, age_s=9999), None, history, absent_since=ago(silent_s))


def test_a_lost_instance_is_no_room_and_is_ended_late() -> None:
    for silent_s in (5, 299):
        decided = decide(snapshot([lost("a", silent_s)], jobs(1)))
        assert (launches(decided), stopped(decided)) == (1, [])
    assert decide(snapshot([lost("a", 300)])).actions == (
        Stop("i-a", "a", StopMode.KILL, "its agent has been out of sight for 5m00s", absent=True),
    )  # fmt: skip


def test_an_instance_found_at_the_start_gets_time_to_be_seen() -> None:
    assert decide(snapshot([lost("a", 29, History.ADOPTED)], jobs(1))).actions == ()
    assert launches(decide(snapshot([lost("a", 30, History.ADOPTED)], jobs(1)))) == 1


def test_agents_cut_off_with_the_broker_keep_their_place() -> None:
    stale = Worker(instance("a"), presence("a", idle_s=1000), stale=True, absent_since=ago(3))
    decided = decide(snapshot([stale], jobs(4)))
    assert decided.actions == ()
    assert stopped(decide(snapshot([stale]))) == []


def test_where_somebody_may_yet_start_a_larger_worker_nothing_is_refused() -> None:
    decided = decide(snapshot(pending=[job(7, 8)]), elastic=False)
    assert decided.actions == ()
    assert decided.reasons == ("1 job waiting: no worker is present, and the scaler starts none for this queue",)
