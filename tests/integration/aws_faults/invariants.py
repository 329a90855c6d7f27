"""What must never happen, found in EC2's own log and in the agents themselves. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from launch.record import JobRecord
from tests.support.ec2_faults import Call, Ec2Instance

INTENT = "nats-launch:intent"
_BY_CALL = "Client.UserInitiatedShutdown"


def peak(instances: Iterable[Ec2Instance]) -> int:
    """The most that existed at one moment."""
    changes = []
    for instance in instances:
        changes.append((instance.launched_at, 1))
        if instance.ended_at is not None:
            changes.append((instance.ended_at, -1))
    count = most = 0
    for _, change in sorted(changes):
        count += change
        most = max(most, count)
    return most


def above_max(instances: Iterable[Ec2Instance], max_instances: int) -> list[str]:
    """More instances than allowed."""
    most = peak(instances)
    return [f"{most} instances at once; allowed: {max_instances}"] if most > max_instances else []


def double_launches(log: Sequence[Call]) -> list[str]:
    """More than one launch, or more instances than asked for, because of one intent."""
    by_intent: dict[str, list[Call]] = defaultdict(list)
    for call in log:
        if call.action == "RunInstances":
            by_intent[call.tags.get(INTENT, "none")].append(call)
    found = [f"a launch without an intent: {call}" for call in by_intent.pop("none", [])]
    for intent, calls in by_intent.items():
        if len({call.token for call in calls}) > 1:
            found.append(f"intent {intent} went out under {len({call.token for call in calls})} tokens")
        if any(call.outcome == "IdempotentParameterMismatch" for call in calls):
            found.append(f"intent {intent} was replayed with other parameters")
        started = [call for call in calls if call.started]
        if len(started) > 1:
            found.append(f"intent {intent} started instances {len(started)} times")
    return found


def busy_ended(instances: Iterable[Ec2Instance], held_at_end: Mapping[str, Sequence[str]]) -> list[str]:
    """Instances that a call ended while their agents held jobs."""
    return [
        f"{instance.id} was terminated with {', '.join(held_at_end[instance.id])}"
        for instance in instances
        if instance.reason[0] == _BY_CALL and held_at_end.get(instance.id)
    ]


def left_over(instances: Iterable[Ec2Instance]) -> list[str]:
    """Instances that are still there at the end."""
    return [f"{instance.id} is left" for instance in instances if instance.live]


def not_done(expected: Iterable[str], records: Mapping[str, JobRecord]) -> list[str]:
    """Jobs that did not come to a good end."""
    found = []
    for job in expected:
        record = records.get(job)
        if record is None or str(record.state) != "succeeded":
            said = "has no record" if record is None else f"is {record.state}: {record.reason} {record.message}"
            found.append(f"{job} {said}")
    return found


def bursts_of_unproven(instances: Sequence[Ec2Instance], first_agent_at: float | None) -> list[str]:
    """More than one instance at a time before any agent was there."""
    early = [one for one in instances if first_agent_at is None or one.launched_at < first_agent_at]
    most = peak(early)
    return [f"{most} instances at once before any agent was there; allowed: 1"] if most > 1 else []
