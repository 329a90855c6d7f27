"""How many instances are started now: what pending jobs need, what the minimum lacks, what is foreseen; and how boldly.

Invariant: a configuration that has not brought up an agent, or whose latest launch did not, starts one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from scaler.core.actions import Launch, Part, show_count
from scaler.core.ending import Floor
from scaler.core.schedule import Schedule
from scaler.core.snapshot import Boots, Policy, Snapshot
from scaler.core.standing import Kind, Standing


def launch(
    snapshot: Snapshot,
    fleet: Sequence[Standing],
    found: Schedule,
    floor: Floor,
    policy: Policy,
    limit: int,
    now: datetime,
) -> Part:
    """What to start. `limit`: how many more may exist. `floor` counts only where jobs are pending."""
    live = sum(1 for item in fleet if item.live)
    short = max(0, policy.min_instances - live)
    foreseen = max(0, floor.count - live)
    wanted = min(limit, max(found.opened, short, foreseen))
    if not wanted:
        return Part()
    if found.opened >= max(short, foreseen):
        why = f"{show_count(found.in_new, 'pending job')} found no room on the workers at hand"
    elif short >= foreseen:
        why = f"min_instances is {policy.min_instances} and {live} exist"
    else:
        why = f"so many jobs came of late that {floor.count} are wanted, and {live} exist"
    held = _careful(snapshot, fleet, wanted, policy, now)
    if held is not None:
        reasons = (f"launch 1 of {wanted}: {why}", *held.reasons) if held.actions else held.reasons
        return Part(tuple(Launch(1, why, canary=True) for _ in held.actions), held.look_at, reasons)
    return Part((Launch(wanted, why),), (), (f"launch {wanted}: {why}",))


def _careful(snapshot: Snapshot, fleet: Sequence[Standing], wanted: int, policy: Policy, now: datetime) -> Part | None:
    """What is allowed of a configuration in doubt: one, or none for now. None: it is not in doubt."""
    # An agent that never came makes the next launch wait, in this very plan as in the next one.
    boots: Boots = snapshot.boots
    for item in fleet:
        instance = item.worker.instance
        if item.kind is Kind.OVERDUE and instance is not None and _same(instance.config, snapshot.config):
            boots = boots.failed(now, f"{item.worker.name} never registered")
    retry_at = boots.retry_at(policy)
    if retry_at is None and snapshot.proven:
        return None
    if retry_at is not None:
        times = "" if boots.failures == 1 else f"{boots.failures} times in a row "
        story = f"{times}an instance never registered ({boots.why})"
        if now < retry_at:
            return Part((), (retry_at,), (f"{story}: the next try is at {retry_at:%H:%M:%S} UTC",))
    else:
        story = "no instance of this launch configuration has ever come up"
    if any(
        item.kind is Kind.STARTING and item.worker.instance and _same(item.worker.instance.config, snapshot.config)
        for item in fleet
    ):
        return Part((), (), (f"{story}: one is being tried before more are started",))
    told = () if wanted == 1 and retry_at is None else (f"{story}: one is tried first",)
    return Part((Launch(1),), (), told)


def _same(config: str, current: str) -> bool:
    """Whether an instance may be of the current configuration; where nothing is known, it is."""
    return not config or not current or config == current
