"""Which instances go: those that are of no use any more, and those that are idle and spare."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from launch.core.quantity import show_duration
from scaler.core.actions import Part, Stop
from scaler.core.forecast import Load, below_after_s, floor_of
from scaler.core.instance import StopMode
from scaler.core.snapshot import Past, Policy
from scaler.core.standing import Kind, Standing, boot_s


@dataclass(frozen=True, slots=True)
class Floor:
    """What is foreseen: the load, in instances, and how many are kept for it."""

    load: Load = field(default_factory=Load)
    count: int = 0


def end_useless(fleet: Sequence[Standing]) -> Part:
    """Instances that can't be of use any more."""
    stops, reasons = [], []
    for item in sorted((item for item in fleet if item.why_end is not None), key=lambda item: item.worker.name):
        instance = item.worker.instance
        if instance is None or item.why_end is None:
            continue
        absent = item.worker.presence is None
        never_came = item.kind is Kind.OVERDUE
        stops.append(Stop(instance.id, instance.agent_id, StopMode.KILL, item.why_end, absent, never_came))
        reasons.append(f"stop {item.worker.name}: {item.why_end}")
    return Part(tuple(stops), (), tuple(reasons))


def end_idle(
    fleet: Sequence[Standing], used: Set[int], floor: Floor, policy: Policy, past: Past, now: datetime
) -> Part:
    """Instances that hold nothing, that no pending job needs, and that the minimum and the forecast can spare.

    Those that have been idle longest go first: waiting pulls are served so that work gathers on the fuller agents,
    hence these are the last to be needed. Of equals the youngest goes. Above the maximum no idle timeout counts.
    """
    ready = sum(1 for item in fleet if item.kind is Kind.READY)
    live = sum(1 for item in fleet if item.live)
    excess = max(0, live - policy.max_instances)
    least = max(policy.min_instances, min(floor.count, policy.max_instances))
    usual, for_last = idle_limit(policy, past), idle_limit(policy, past, last=True)
    stops, looks, reasons, held = [], [], [], 0
    for number, since in _idle(fleet):
        item = fleet[number]
        instance = item.worker.instance
        if instance is None or not (ready > policy.min_instances or excess):
            continue
        limit_s, rule = for_last if live == 1 else usual
        paid_until = instance.launched_at + timedelta(seconds=policy.tuning.billed_least_s)
        expires = max(since + timedelta(seconds=limit_s), paid_until)
        if excess:
            why = f"max_instances is {policy.max_instances}, and it holds nothing"
        elif number in used:
            continue
        elif now < expires:
            if ready > least:
                looks.append(expires)
            continue
        elif ready <= least:
            held += 1
            continue
        else:
            why = f"idle for {show_duration((now - since).total_seconds())} ({rule})"
        ready, live, excess = ready - 1, live - 1, max(0, excess - 1)
        stops.append(Stop(instance.id, instance.agent_id, StopMode.DRAIN, why))
        reasons.append(f"stop {item.worker.name}: {why}")
    if least > policy.min_instances and ready <= least:
        # Nothing that happens says so: without arrivals the forecast fades by itself.
        fades_s = below_after_s(floor.load, policy.tuning.staffing, ready, policy.tuning.tau_s)
        if fades_s is not None:
            looks.append(now + timedelta(seconds=fades_s + 0.1))
    if held:
        reasons.append(f"{held} idle, and kept: so many jobs came of late that {least} are wanted")
    return Part(tuple(stops), tuple(looks), tuple(reasons))


def idle_limit(policy: Policy, past: Past, *, last: bool = False) -> tuple[float, str]:
    """How long an instance (or the last one) may be idle, and whose rule that is."""
    if policy.idle_timeout_s is not None:
        return policy.idle_timeout_s, f"idle_timeout {show_duration(policy.idle_timeout_s)}"
    usual_s, tuning = boot_s(past, policy), policy.tuning
    factor = max(tuning.idle_factor, tuning.last_factor) if last else tuning.idle_factor
    limit_s = max(tuning.idle_least_s, usual_s * (1 + factor))
    whose = "limit of the last one" if last else "limit"
    return limit_s, f"{whose} {show_duration(limit_s)}, as a boot takes {show_duration(usual_s)}"


def floor_for(load: Load, policy: Policy) -> Floor:
    """What is kept for this load. An owner who says how long to be idle wants nothing kept beyond that."""
    if policy.idle_timeout_s is not None or policy.tuning.tau_s <= 0:
        return Floor()
    return Floor(load, floor_of(load, policy.tuning.staffing))


def _idle(fleet: Sequence[Standing]) -> list[tuple[int, datetime]]:
    """Those that hold nothing, in the order in which they go."""
    idle = []
    for number, item in enumerate(fleet):
        presence = item.worker.presence
        if item.kind is Kind.READY and presence is not None and presence.idle_since and not presence.holds:
            idle.append((presence.idle_since, -item.launched_at.timestamp(), item.worker.name, number))
    return [(number, since) for since, _, _, number in sorted(idle)]
