"""What the seeded runs are judged by: each invariant tells of a breach, and of nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

from launch.core.states import State
from launch.record import JobRecord
from tests.integration.aws_faults import invariants
from tests.support.ec2_faults import Call, Ec2Instance, Pool

BY_CALL = ("Client.UserInitiatedShutdown", "")


def instance(name: str, launched_at: float, ended_at: float | None, reason: tuple[str, str] = BY_CALL) -> Ec2Instance:
    made = Ec2Instance(name, Pool(), {}, "", None, launched_at, launched_at, launched_at)
    made.ended_at, made.reason = ended_at, reason if ended_at is not None else ("", "")
    return made


def launch(intent: str, token: str, *instances: str, outcome: str = "ok", started: bool = True) -> Call:
    tags = {invariants.INTENT: intent}
    return Call(0, "RunInstances", outcome, token, instances, len(instances), tags, started)


def record(seq: int, state: State) -> JobRecord:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return JobRecord(queue="q", seq=seq, job_type="t", state=state, submitted_at=at, updated_at=at)


def test_above_max() -> None:
    # The third comes at the very moment that the first goes: that is never more than two.
    lives = [instance("a", 0, 2), instance("b", 1, None), instance("c", 2, 3)]
    assert invariants.above_max(lives, 2) == []
    assert invariants.above_max([*lives, instance("d", 2.5, None)], 2) == ["3 instances at once; allowed: 2"]


def test_double_launches() -> None:
    again = launch("i", "t", "a", started=False)
    assert invariants.double_launches([launch("i", "t", "a"), again, launch("j", "u", "b")]) == []
    assert len(invariants.double_launches([launch("i", "t", "a"), launch("i", "u", "b")])) == 2
    assert len(invariants.double_launches([launch("i", "t", "a"), launch("i", "t", "b")])) == 1
    mismatch = launch("i", "t", outcome="IdempotentParameterMismatch", started=False)
    assert len(invariants.double_launches([launch("i", "t", "a"), mismatch])) == 1
    assert len(invariants.double_launches([Call(0, "RunInstances", "ok", "t", ("a",), 1, {}, started=True)])) == 1


def test_busy_ended() -> None:
    lives = [instance("a", 0, 1), instance("b", 0, 1, ("Server.SpotInstanceTermination", "")), instance("c", 0, 1)]
    assert invariants.busy_ended(lives, {"a": [], "b": ["q/1"], "c": []}) == []
    assert invariants.busy_ended(lives, {"a": ["q/1", "q/2"]}) == ["a was terminated with q/1, q/2"]


def test_left_over() -> None:
    assert invariants.left_over([instance("a", 0, 1)]) == []
    assert invariants.left_over([instance("a", 0, 1), instance("b", 0, None)]) == ["b is left"]


def test_not_done() -> None:
    records = {"q/1": record(1, State.SUCCEEDED), "q/2": record(2, State.RUNNING)}
    assert invariants.not_done(["q/1"], records) == []
    assert [line[:12] for line in invariants.not_done(["q/1", "q/2", "q/3"], records)] == [
        "q/2 is runni",
        "q/3 has no r",
    ]


def test_bursts_of_unproven() -> None:
    one_by_one = [instance("a", 0, 1), instance("b", 1, None)]
    assert invariants.bursts_of_unproven(one_by_one, None) == []
    assert invariants.bursts_of_unproven([*one_by_one, instance("c", 5, None)], 4.0) == []
    assert len(invariants.bursts_of_unproven([*one_by_one, instance("c", 5, None)], None)) == 1
