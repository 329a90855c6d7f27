"""A look and its plan, as the world is told of them: bounded, whatever the size of the fleet.

Pure. What is not known now stays as it was told last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import ceil

from launch.presence import AgentState
from launch.scaling import (
    LISTED_AT_MOST,
    BootTrouble,
    DecisionReport,
    InstanceGroup,
    InstanceReport,
    InstanceStage,
    ScalingReport,
)
from scaler.core.instance import InstanceState, StopMode
from scaler.core.lives import Lives
from scaler.core.plan import Action, Launch, Plan, Refuse, Stop
from scaler.core.snapshot import History, Policy, Snapshot, Unknown, Worker

LINES_AT_MOST = 50
LINE_AT_MOST = 500
"""Characters of one reason."""

_FIRST = {stage: order for order, stage in enumerate(InstanceStage)} | {InstanceStage.READY: len(InstanceStage)}


def report(
    snapshot: Snapshot,
    policy: Policy,
    plan: Plan,
    lives: Lives,
    now: datetime,
    *,
    leader: str,
    trouble: str | None = None,
    before: ScalingReport | None = None,
) -> ScalingReport:
    """How the queue stands. `lives` has followed this snapshot; `before` is what was told last."""
    parts = (snapshot.workers, snapshot.capacity, snapshot.pending)
    unknown = [part.why for part in parts if isinstance(part, Unknown)]
    if isinstance(snapshot.workers, Unknown):
        listed, more = (before.instances, before.more) if before is not None else ((), ())
    else:
        listed, more = _instances(snapshot.workers, lives, now)
    boots_s, boots = sorted(snapshot.past.boots_s), snapshot.boots
    failed = BootTrouble(failures=boots.failures, why=_cut(boots.why), retry_at=boots.retry_at(policy))
    return ScalingReport(
        queue=snapshot.queue,
        at=now,
        leader=leader,
        reasons=_bounded(plan.reasons),
        instances=listed,
        more=more,
        max_instances=policy.max_instances if policy.elastic else None,
        boot_s=_rank(boots_s, 0.5),
        boot_p99_s=_rank(boots_s, 0.99),
        next_look_at=plan.next_look_at,
        trouble=_cut(trouble or "; ".join(dict.fromkeys(unknown))) or None,
        boots=failed if boots.failures else None,
    )


def decision(plan: Plan, now: datetime, *, leader: str) -> DecisionReport:
    """A plan as it is kept."""
    return DecisionReport(
        at=now, leader=leader, actions=_bounded(map(in_words, plan.actions)), reasons=_bounded(plan.reasons)
    )


def in_words(action: Action) -> str:
    """One action, for people."""
    match action:
        case Launch():
            return f"launch {action.count}" + (" as a canary" if action.canary else "")
        case Stop():
            return f"{'drain' if action.mode is StopMode.DRAIN else 'end'} {action.instance_id}"
        case Refuse():
            return f"refuse {action.job_id}"


def same_news(one: ScalingReport | None, other: ScalingReport) -> bool:
    """Whether there is nothing new in the other but that time has passed."""
    return one is not None and _news(one) == _news(other)


def same_reasons(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether they say the same but for numbers: a time that passes makes no new decision."""
    return _without_numbers(one) == _without_numbers(other)


def stage_of(worker: Worker) -> InstanceStage:
    """How far a worker's instance is."""
    instance, presence = worker.instance, worker.presence
    if worker.intended:
        return InstanceStage.INTENT
    if instance is not None and instance.state is InstanceState.STOPPING:
        return InstanceStage.ENDING
    if presence is None:
        return InstanceStage.BOOTING if worker.history is History.NEW else InstanceStage.LOST
    if worker.stale:
        return InstanceStage.LOST
    return InstanceStage.READY if presence.state is AgentState.READY else InstanceStage.DRAINING


def _instances(
    workers: Sequence[Worker], lives: Lives, now: datetime
) -> tuple[tuple[InstanceReport, ...], tuple[InstanceGroup, ...]]:
    """Each of the first ones, and the others added up."""
    staged = [(stage_of(worker), worker) for worker in workers if worker.instance is not None]
    # Stable: those that were launched first stay first. What is on its way says more than what is just there.
    staged.sort(key=lambda item: _FIRST[item[0]])
    listed = tuple(_told(stage, worker, lives, now) for stage, worker in staged[:LISTED_AT_MOST])
    groups: dict[tuple[InstanceStage, str | None, str], InstanceGroup] = {}
    for stage, worker in staged[LISTED_AT_MOST:]:
        told = _told(stage, worker, lives, now)
        key = (stage, told.instance_type, told.market)
        known = groups.get(key)
        busy_s = dict(known.busy_s) if known else {}
        for job_type, seconds in told.busy_s.items():
            busy_s[job_type] = busy_s.get(job_type, 0.0) + seconds
        groups[key] = InstanceGroup(
            stage=stage,
            instance_type=told.instance_type,
            market=told.market,
            count=(known.count if known else 0) + 1,
            jobs=(known.jobs if known else 0) + told.jobs,
            age_s=(known.age_s if known else 0.0) + max(0.0, (now - told.since).total_seconds()),
            busy_s=busy_s,
        )
    return listed, tuple(groups.values())


def _told(stage: InstanceStage, worker: Worker, lives: Lives, now: datetime) -> InstanceReport:
    instance, presence = worker.instance, worker.presence
    assert instance is not None  # noqa: S101 - only workers with one are told of
    return InstanceReport(
        id=instance.id,
        agent_id=instance.agent_id,
        stage=stage,
        since=instance.launched_at,
        instance_type=instance.instance_type,
        market=instance.market,
        zone=instance.zone,
        capacity=presence.capacity if presence is not None else instance.capacity,
        jobs=len(presence.holds) if presence is not None else 0,
        registered_at=lives.registered_at(instance.id),
        busy_s=lives.busy_s(instance.id, now),
    )


def _rank(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of them do not exceed."""
    return round(values[max(0, ceil(share * len(values)) - 1)], 3) if values else None


def _bounded(lines: Iterable[str]) -> tuple[str, ...]:
    found = list(lines)
    kept = tuple(_cut(line) for line in found[:LINES_AT_MOST])
    left = len(found) - len(kept)
    return (*kept, f"and {left} more") if left else kept


def _cut(text: str) -> str:
    return text if len(text) <= LINE_AT_MOST else f"{text[: LINE_AT_MOST - 1]}…"


def _news(told: ScalingReport) -> tuple[object, ...]:
    return (
        _without_numbers(told.reasons),
        tuple((one.id, one.stage, one.jobs, one.registered_at) for one in told.instances),
        tuple((group.stage, group.instance_type, group.market, group.count, group.jobs) for group in told.more),
        (told.leader, told.trouble, told.boots, told.boot_s, told.boot_p99_s, told.max_instances),
    )


def _without_numbers(lines: Sequence[str]) -> tuple[str, ...]:
    # Not those inside of a name: an instance is another one by them.
    return tuple(re.sub(r"(?<![\w/-])\d+(\.\d+)?", "#", line) for line in lines)
