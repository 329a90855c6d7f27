"""What exists, as of the last look at EC2 and of what this process did since. No IO: it is told, and it tells.

EC2 is not consistent at once: a new instance may be unknown to the next call, and one that was ended may be shown as
running. Invariants: what a launch has returned is kept until EC2 shows it, or has not for `VISIBLE_S`; what was asked
to end is stopping until it is gone; every difference is heard by all listeners.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from scaler.adapters.aws.request import TAG, capacity_in
from scaler.core.instance import Instance, InstanceState

VISIBLE_S = 60.0
"""An instance that EC2 does not show for so long, after it was launched or last shown, is gone."""
STORIES_KEPT = 500

_STATES = {
    "pending": InstanceState.STARTING,
    "running": InstanceState.RUNNING,
    "shutting-down": InstanceState.STOPPING,
    "stopping": InstanceState.STOPPING,
}
"""Everything else is gone: `terminated`, and `stopped`, which nobody but a person can have done."""
_BY_CALL = "Client.UserInitiatedShutdown"
"""Somebody has asked EC2 to end it."""


@dataclass(slots=True)
class Entry:
    """One instance: what EC2 said last, and what was asked since. Times are the loop's."""

    instance: Instance
    seen_at_s: float
    visible: bool = False
    """EC2 has shown it."""
    draining: bool = False
    end_asked_s: float | None = None
    ended: bool = False
    """EC2 has taken the request to end it."""

    @property
    def told(self) -> Instance:
        """As it is listed."""
        if self.draining or self.end_asked_s is not None:
            return replace(self.instance, state=InstanceState.STOPPING)
        return self.instance


class Mirror:
    """The instances of one queue."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.stories: OrderedDict[str, str] = OrderedDict()
        """How those that are gone came to their end."""
        self._listeners: set[asyncio.Event] = set()
        self._told: dict[str, Instance] = {}

    # -- what is told -----------------------------------------------------------------------------------------------

    def instances(self) -> list[Instance]:
        """What exists, oldest first."""
        return sorted(self._told.values(), key=lambda instance: (instance.launched_at, instance.id))

    def of_intent(self, intent_id: str) -> list[Instance]:
        """What was launched for an intent, and exists."""
        return [instance for instance in self.instances() if instance.intent == intent_id]

    def restless(self) -> bool:
        """Whether something is about to change."""
        return any(
            not entry.visible or entry.end_asked_s is not None or entry.instance.state is not InstanceState.RUNNING
            for entry in self.entries.values()
        )

    def to_end(self) -> list[str]:
        """Those whose end EC2 has not taken yet, since it did not know them."""
        return [key for key, entry in self.entries.items() if entry.end_asked_s is not None and not entry.ended]

    def listen(self) -> asyncio.Event:
        """Set at every difference, until `unlisten`."""
        changed = asyncio.Event()
        self._listeners.add(changed)
        return changed

    def unlisten(self, changed: asyncio.Event) -> None:
        """See `listen`."""
        self._listeners.discard(changed)

    # -- what happens -----------------------------------------------------------------------------------------------

    def launched(self, items: Iterable[Any], now_s: float) -> list[Instance]:
        """A launch has returned these; those of them that exist."""
        made = []
        for item in items:
            instance = instance_of(item)
            if instance is None or item["InstanceId"] in self.stories:
                continue
            self.entries.setdefault(instance.id, Entry(instance, now_s))
            made.append(instance)
        self._publish()
        return [self._told.get(instance.id, instance) for instance in made]

    def draining(self, instance_id: str) -> None:
        """Its agent was asked to leave."""
        self.entries[instance_id].draining = True
        self._publish()

    def ending(self, instance_id: str, now_s: float, *, taken: bool) -> None:
        """It is to end. `taken`: EC2 has agreed; else it did not know it yet, and will be asked again."""
        entry = self.entries.get(instance_id)
        if entry is not None:
            entry.end_asked_s = entry.end_asked_s or now_s
            entry.ended = entry.ended or taken
            self._publish()

    def gone(self, instance_id: str, why: str) -> None:
        """It does not exist any more."""
        if self.entries.pop(instance_id, None) is not None:
            self.stories[instance_id] = why
            while len(self.stories) > STORIES_KEPT:
                self.stories.popitem(last=False)
        self._publish()

    def looked(self, live: Mapping[str, Any], others: Mapping[str, Any], asked_at_s: float, now_s: float) -> None:
        """EC2 has shown `live`, and `others` of those that it did not; both by id. Asked for at `asked_at_s`."""
        for instance_id, item in {**live, **others}.items():
            self._shown(instance_id, item, asked_at_s, now_s)
        for instance_id, entry in list(self.entries.items()):
            if instance_id not in live and instance_id not in others and asked_at_s - entry.seen_at_s > VISIBLE_S:
                self.gone(instance_id, "EC2 knows nothing of it" + ("" if entry.visible else ", and never did"))
        self._publish()

    def _shown(self, instance_id: str, item: Any, asked_at_s: float, now_s: float) -> None:
        instance = instance_of(item)
        entry = self.entries.get(instance_id)
        if instance is None:
            if entry is not None:
                self.gone(instance_id, reason_in(item, ours=entry.end_asked_s is not None))
            return
        if entry is None:
            if instance_id in self.stories:
                return  # Seen as gone before: EC2 is behind itself.
            entry = self.entries[instance_id] = Entry(instance, now_s)
        entry.instance, entry.seen_at_s, entry.visible = instance, now_s, True
        if (
            entry.ended
            and instance.state is InstanceState.RUNNING
            and asked_at_s - (entry.end_asked_s or 0) > VISIBLE_S
        ):
            entry.end_asked_s, entry.ended = None, False  # It has not ended after all: whoever decides may ask again.

    def _publish(self) -> None:
        told = {key: entry.told for key, entry in self.entries.items()}
        if told != self._told:
            self._told = told
            for changed in self._listeners:
                changed.set()


def instance_of(item: Any) -> Instance | None:
    """One that EC2 tells of; None if it is gone."""
    state = _STATES.get(item["State"]["Name"])
    if state is None:
        return None
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    launched_at: datetime = item["LaunchTime"]
    return Instance(
        id=item["InstanceId"],
        agent_id=item["InstanceId"],
        launched_at=launched_at.astimezone(UTC),
        state=state,
        capacity=capacity_in(tags.get(f"{TAG}capacity")),
        instance_type=item.get("InstanceType"),
        market="spot" if item.get("InstanceLifecycle") == "spot" or item.get("SpotInstanceRequestId") else "on-demand",
        zone=item.get("Placement", {}).get("AvailabilityZone"),
        config=tags.get(f"{TAG}config", ""),
        intent=tags.get(f"{TAG}intent"),
    )


def reason_in(item: Any, *, ours: bool = False) -> str:
    """Why it is in its state, as EC2 puts it. `ours`: this process asked for its end, which is no news then."""
    state = item.get("State", {}).get("Name", "gone")
    reason = item.get("StateReason", {})
    if ours and _BY_CALL in (reason.get("Code"), item.get("StateTransitionReason")):
        return ""
    text = reason.get("Message") or reason.get("Code") or item.get("StateTransitionReason") or ""
    return f"{state}: {text}" if text else str(state)
