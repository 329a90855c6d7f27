"""The simulated world's laws, for any trace, luck and policy: nothing is lost, nothing is cheaper than the work."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.core.capacity import Amount
from scaler.simulate.baselines import BatchWindow, LagCount, OneEach
from scaler.simulate.bounds import bounds
from scaler.simulate.cloud import BILLED_AT_LEAST_S, Cloud, Luck
from scaler.simulate.compare import lag_targets, others, ours, run_all
from scaler.simulate.fleet import Machine, Task, vector
from scaler.simulate.ours import Planned, policy_of
from scaler.simulate.report import Result, result_of, sentences, versus
from scaler.simulate.synthetic import Kind, generate
from scaler.simulate.trace import Job, Trace, in_order
from scaler.simulate.world import Scaler, World

pytestmark = pytest.mark.timeout(300)  # Many replays, which a loaded machine takes its time for.

GIB = 1024**3
MACHINE = Amount(cpu_milli=4000, memory_bytes=16 * GIB, gpus=2, slots=4)
POLICIES: dict[str, Callable[[], Scaler]] = {
    "ours": lambda: Planned(policy_of()),
    "lag count": lambda: LagCount(2),
    "one each": OneEach,
    "batch window": BatchWindow,
}

amounts = st.builds(
    Amount,
    cpu_milli=st.sampled_from([250, 1000, 2000, 4000]),
    memory_bytes=st.sampled_from([0, GIB, 8 * GIB]),
    gpus=st.sampled_from([0, 0, 1, 2]),
    slots=st.just(1),
)
job_lists = st.lists(
    st.builds(
        Job,
        id=st.just(0),
        submitted_s=st.sampled_from([0.0, 1.0, 1.5, 30.0, 61.0, 200.0, 5000.0]),
        duration_s=st.sampled_from([1.0, 10.0, 59.0, 300.0, 4000.0]),
        need=amounts,
        job_type=st.sampled_from(["train", "eval"]),
        rank=st.sampled_from([0, 2, 3]),
    ),
    min_size=1,
    max_size=25,
)
clouds = st.builds(
    Cloud,
    capacity=st.just(MACHINE),
    boot_s=st.sampled_from([0.0, 1.0, 60.0, 180.0]),
    boot_sigma=st.sampled_from([0.0, 0.25, 1.0]),
    shortage_every_s=st.sampled_from([0.0, 0.0, 300.0]),
    spot_loss_per_hour=st.sampled_from([0.0, 0.0, 2.0]),
    api_burst=st.sampled_from([1, 3, 1000]),
)


def trace_of(jobs: list[Job]) -> Trace:
    return Trace("any", in_order(jobs), {})


def run(trace: Trace, cloud: Cloud, scaler: Scaler, seed: int = 1, **limits: int) -> World:
    world = World(trace, cloud, seed, **limits)
    world.run(scaler, lambda: 0.0, lambda _: None)
    return world


def figures(world: World) -> Result:
    return result_of(world.record, "any", "", usual=True, price_per_hour=None)


# -- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=25, deadline=None)
@given(jobs=job_lists, cloud=clouds, seed=st.integers(0, 3))
def test_every_job_runs_to_its_end_once(name: str, jobs: list[Job], cloud: Cloud, seed: int) -> None:
    trace = trace_of(jobs)
    world = run(trace, cloud, POLICIES[name](), seed)
    record = world.record
    assert (record.done, record.refused, record.unserved) == (len(jobs), 0, 0)
    assert len(record.waits_s) == len(jobs)
    assert min(record.waits_s) >= 0
    lasted = sum(job.duration_s for job in trace.jobs)
    if cloud.spot_loss_per_hour:
        assert record.worked_s >= lasted - 1e-6
    else:
        assert record.worked_s == pytest.approx(lasted)
        assert record.restarts == record.losses == 0


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=25, deadline=None)
@given(jobs=job_lists, cloud=clouds)
def test_nobody_pays_less_than_the_work_costs(name: str, jobs: list[Job], cloud: Cloud) -> None:
    trace = trace_of(jobs)
    record = run(trace, cloud, POLICIES[name]()).record
    least = bounds(trace, vector(MACHINE))
    assert least.work_s <= least.zero_wait_s + 1e-6
    assert record.paid_s >= least.work_s - 1e-6
    assert record.paid_s >= BILLED_AT_LEAST_S * record.launches - 1e-6
    assert -1e-6 <= record.idle_s <= record.paid_s + 1e-6


@settings(max_examples=25, deadline=None)
@given(jobs=job_lists)
def test_nobody_who_lets_nobody_wait_is_below_the_zero_wait_bound(jobs: list[Job]) -> None:
    trace = trace_of(jobs)
    record = run(trace, Cloud(MACHINE, boot_s=0.0), _Oracle()).record
    assert max(record.waits_s) == 0
    assert record.paid_s >= bounds(trace, vector(MACHINE)).zero_wait_s - 1e-6


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=15, deadline=None)
@given(jobs=job_lists, cloud=clouds, most=st.integers(1, 3))
def test_never_more_than_the_maximum(name: str, jobs: list[Job], cloud: Cloud, most: int) -> None:
    world = run(trace_of(jobs), cloud, POLICIES[name](), max_instances=most)
    assert world.record.most <= most
    assert world.record.done == len(jobs)


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    trace = generate(Kind.BURSTY, 400, seed=3)
    machine = Amount(cpu_milli=48_000, memory_bytes=192 * GIB, gpus=4, slots=48)
    cloud = Cloud(machine, shortage_every_s=3600, spot_loss_per_hour=0.2)
    first, again = (run(trace, cloud, POLICIES[name](), seed=5) for _ in range(2))
    assert figures(first) == figures(again)
    assert first.record.waits_s == again.record.waits_s
    assert first.record.curve() == again.record.curve()
    assert figures(first) != figures(run(trace, cloud, POLICIES[name](), seed=6))


class _Oracle:
    """Starts a machine for each job at its arrival, there at once, and ends it at once: nobody waits."""

    name, settings, hears, settle_s = "oracle", "", True, 0.0

    def look(self, world: World) -> float | None:
        for machine in list(world.machines.values()):
            if machine.ready and not machine.running:
                world.end(machine)
        if world.backlog.count:
            world.launch(world.backlog.count)
        return None

    def arrived(self, task: Task, now: float) -> None: ...
    def finished(self, task: Task, now: float) -> None: ...
    def registered(self, machine: Machine, now: float) -> None: ...


# -- single stories -------------------------------------------------------------------------------------------------


def job(at: float, lasts: float = 100.0, *, cpu: int = 1000, rank: int = 2, gpus: int = 0) -> Job:
    return Job(0, at, lasts, Amount(cpu_milli=cpu, gpus=gpus, slots=1), "train", rank)


STILL = Cloud(MACHINE, boot_s=60.0, boot_sigma=0.0)


def test_a_job_waits_for_a_boot_and_its_machine_is_paid_from_its_launch_on() -> None:
    world = run(trace_of([job(0)]), STILL, BatchWindow(empty_s=30))
    # The window closes 1 s after the arrival; boot 60 s, job 100 s, 30 s empty.
    assert list(world.record.waits_s) == pytest.approx([61.0])
    assert world.record.paid_s == pytest.approx(190.0)
    assert world.record.idle_s == pytest.approx(90.0)


def test_a_short_life_is_paid_for_a_minute() -> None:
    cloud = replace(STILL, boot_s=0.0)
    assert run(trace_of([job(0, 5)]), cloud, BatchWindow(empty_s=0)).record.paid_s == 60.0


def test_the_urgent_go_first_then_the_oldest_that_fits() -> None:
    big, small = job(1, cpu=4000), job(2)
    low, high = job(3, rank=3), job(4, rank=0)
    world = run(trace_of([job(0, 200, cpu=2000), big, small, low, high]), STILL, LagCount(100))
    # One machine from the poll at 0 on, ready at 60. The first job holds two of its four CPUs until 260.
    urgent, oldest, fitting, lowest, largest = 56, 60, 58, 157, 259
    assert list(world.record.waits_s) == pytest.approx([urgent, oldest, fitting, lowest, largest])


def test_a_lost_machine_s_jobs_start_anew_in_their_old_place() -> None:
    trace = trace_of([job(number, 600) for number in range(6)])
    cloud = replace(STILL, spot_loss_per_hour=12.0)
    record = run(trace, cloud, OneEach(delay_s=0)).record
    assert record.losses > 0
    assert record.restarts > 0
    assert record.done == 6
    assert record.worked_s > 6 * 600


def test_a_spell_without_capacity_holds_everybody_up_alike() -> None:
    cloud = replace(STILL, shortage_every_s=1.0, shortage_for_s=3600.0)
    for make in POLICIES.values():
        # The first job finds a machine before the first spell; by the second's arrival there is one.
        record = run(trace_of([job(0), *[job(100, 1000, cpu=4000)] * 3]), cloud, make()).record
        assert record.shortages > 0
        assert record.done == 4
        assert max(record.waits_s) > 180


def test_launches_are_let_through_as_the_provider_s_limits_allow() -> None:
    luck = Luck(replace(STILL, api_burst=10, api_per_s=2.0), seed=1)
    assert luck.let_through(25, 0.0) == 10
    assert luck.let_through(15, 0.2) == 0
    assert luck.let_through(15, 1.0) == 2
    assert luck.let_through(15, 1000.0) == 10


def test_a_refused_launch_is_tried_again_as_soon_as_the_limits_allow() -> None:
    cloud = replace(STILL, api_burst=1, api_per_s=2.0)
    record = run(trace_of([job(0), job(0, cpu=4000)]), cloud, OneEach(delay_s=0)).record
    assert sorted(record.waits_s) == pytest.approx([60.0, 60.5], abs=0.2)


def test_a_machine_that_holds_a_job_is_never_ended() -> None:
    class Reckless(OneEach):
        def look(self, world: World) -> float | None:
            ended = [world.end(machine) for machine in list(world.machines.values()) if machine.running]
            assert not any(ended)
            return super().look(world)

    record = run(trace_of([job(0), job(90)]), STILL, Reckless(delay_s=0)).record
    assert (record.done, record.restarts, record.launches) == (2, 0, 1)


def test_luck_goes_with_the_number_of_the_launch() -> None:
    cloud = Cloud(MACHINE, boot_s=60, spot_loss_per_hour=1, shortage_every_s=600)
    one, other = Luck(cloud, 1), Luck(cloud, 1)
    assert [one.boot_s(number) for number in (3, 1, 2)] == [other.boot_s(number) for number in (3, 1, 2)]
    assert one.life_s(1) == other.life_s(1)
    assert one.boot_s(1) != Luck(cloud, 2).boot_s(1)
    times = [float(at) for at in range(0, 20_000, 50)]
    forward = [one.short_at(at) for at in times]
    assert forward == [other.short_at(at) for at in times]
    assert True in forward
    assert False in forward


# -- comparing ------------------------------------------------------------------------------------------------------


def test_lag_is_divided_by_what_a_machine_holds() -> None:
    trace = trace_of([job(0), job(1), job(2), job(3, gpus=2)])
    assert lag_targets(trace, MACHINE) == (4, 2)


def test_all_are_run_and_compared_in_words() -> None:
    trace = generate(Kind.SHORT, 300, seed=1)
    machine = Amount(cpu_milli=48_000, memory_bytes=192 * GIB, gpus=4, slots=48)
    variants = [*ours(policy_of(), sweep=False, settle_s=0.1), *others(trace, machine, sweep=False)]
    found = run_all(
        variants, trace, Cloud(machine, price_per_hour=2.0), 1,
        max_instances=100, stopwatch=lambda: 0.0, watch=lambda *_: None,
    )  # fmt: skip
    results = [one.result for one in found]
    assert [one.policy for one in results][:1] == ["nats-launch"]
    assert {one.policy for one in results[1:]} == {"lag count", "one machine a job", "batch window"}
    assert all(one.complete and one.done == 300 for one in results)
    assert all(one.cost == pytest.approx(2.0 * one.instance_hours) for one in results)
    assert len(versus(results)) == len(results) - 1
    assert all("ours" in line or "our default" in line or "our runs" in line for line in sentences(results))


def test_an_interrupt_ends_the_runs_and_keeps_what_there_is() -> None:
    trace = generate(Kind.STEADY, 300, seed=1)
    machine = Amount(cpu_milli=48_000, memory_bytes=192 * GIB, gpus=4, slots=48)

    def watch(number: int, world: World) -> None:
        if number == 1 and world.record.done > 50:
            raise KeyboardInterrupt

    variants = others(trace, machine, sweep=False)
    found = list(run_all(variants, trace, Cloud(machine), 1, max_instances=100, stopwatch=lambda: 0.0, watch=watch))
    assert [one.result.complete for one in found] == [True, False]
    assert 50 < found[1].result.done < 300


def test_a_comparison_says_where_ours_is_dearer() -> None:
    base = figures(run(trace_of([job(0)]), STILL, BatchWindow()))
    mine = replace(base, policy="nats-launch", settings="default", paid_s=110.0, mean_wait_s=5.0)
    theirs = replace(base, policy="other", settings="x", paid_s=100.0, mean_wait_s=5.0)
    said = sentences([mine, theirs])
    assert any("ours costs 10.0% MORE" in line for line in said)
    assert any("our default costs 10.0% MORE" in line for line in said)
    quick = replace(theirs, mean_wait_s=4.0)
    assert any("in none of our runs do jobs wait so little" in line for line in sentences([mine, quick]))
    slow = replace(theirs, mean_wait_s=6.0)
    assert any("in none of its runs do jobs wait as little" in line for line in sentences([mine, slow]))
