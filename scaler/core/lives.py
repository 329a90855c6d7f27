"""What becomes of each instance: how long it was there, and for how much of that jobs held it.

Owns the adding up, from look to look. No IO: the clock is an argument. Invariants: an instance is never busy for longer
than it was there; one that was seen ends exactly once; what is unknown ends nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from launch.presence import AgentPresence
from launch.scaling import InstanceEnd, InstanceStage, ScalingReport
from scaler.core.instance import Instance, InstanceState
from scaler.core.snapshot import Running, Worker

OTHER = ""
"""The type under which time is counted that is held by a job of which no record tells yet."""
MISSED_FOR = timedelta(seconds=5)
"""A provider may lose sight of an instance for a moment: one that nobody has ended is gone after this long."""
ENDED_UNSEEN = "it ended while no scaler looked; counted up to when one last did"
STOPPED = "its scaler stopped"
ENDED_ITSELF = "it ended by itself"


@dataclass(slots=True)
class _Life:
    """One instance that is there. `shares` is what jobs hold of it since `held_since`, by type, 1 in all at most."""

    instance: Instance
    held_since: datetime
    registered_at: datetime | None = None
    busy_s: dict[str, float] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    presence: AgentPresence | None = None
    running: tuple[Running, ...] = ()
    adopted: bool = False
    missing_since: datetime | None = None
    why: str = ""

    def busy_until(self, now: datetime) -> dict[str, float]:
        """What has been held up to now."""
        passed_s = max(0.0, (now - self.held_since).total_seconds())
        total = dict(self.busy_s)
        for job_type, share in self.shares.items():
            total[job_type] = total.get(job_type, 0.0) + share * passed_s
        return total

    def hold(self, worker: Worker, now: datetime) -> None:
        """Bring it up to now, and go on with what its agent holds."""
        if worker.presence is self.presence and worker.running == self.running and not self.adopted:
            return  # nearly always
        held = shares_of(worker)
        if OTHER in self.shares and _holds(worker.presence) == _holds(self.presence):
            self.shares = held  # What is known only now was so before.
        self.busy_s = self.busy_until(now)
        if self.adopted and worker.running:
            # What ran while nobody looked counts from then on.
            unseen = shares_of(worker, since=self.held_since, now=now)
            for job_type, seconds in unseen.items():
                self.busy_s[job_type] = self.busy_s.get(job_type, 0.0) + seconds
        self.held_since, self.shares, self.adopted = now, held, False
        self.presence, self.running = worker.presence, worker.running


class Lives:
    """The instances of one queue."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def adopt(self, report: ScalingReport) -> None:
        """Take over what an earlier scaler knew."""
        for told in report.instances:
            if told.stage is not InstanceStage.INTENT:
                self._lives[told.id] = _Life(
                    instance=Instance(
                        told.id,
                        told.agent_id or told.id,
                        told.since,
                        InstanceState.STOPPING if told.stage is InstanceStage.ENDING else InstanceState.RUNNING,
                        told.capacity,
                        told.instance_type,
                        told.market,
                        told.zone,
                    ),
                    held_since=max(told.since, report.at),
                    registered_at=told.registered_at,
                    busy_s=dict(told.busy_s),
                    adopted=True,
                )

    def follow(self, workers: Sequence[Worker], now: datetime) -> list[InstanceEnd]:
        """Bring everything up to this look; returns the lives that are over."""
        there = set()
        for worker in workers:
            instance = worker.instance
            if instance is None or worker.intended:
                continue
            there.add(instance.id)
            life = self._lives.get(instance.id)
            if life is None:
                life = self._lives[instance.id] = _Life(instance, instance.launched_at, adopted=True)
            life.instance, life.missing_since = instance, None
            if life.registered_at is None and worker.presence is not None:
                life.registered_at = min(now, max(instance.launched_at, worker.presence.started_at))
            life.hold(worker, now)
        return [end for key in self._lives.keys() - there if (end := self._missed(key, now)) is not None]

    def stopped(self, left: Collection[str], now: datetime) -> list[InstanceEnd]:
        """The scaler stops, and has ended all but these; returns the lives that are over."""
        for instance_id in self._lives.keys() - set(left):
            life = self._lives[instance_id]
            life.why = life.why or STOPPED
        return [end for key in self._lives.keys() - set(left) if (end := self._missed(key, now)) is not None]

    def blame(self, instance_id: str, why: str) -> None:
        """Remember why an instance is being ended."""
        life = self._lives.get(instance_id)
        if life is not None:
            life.why = why

    def registered_at(self, instance_id: str) -> datetime | None:
        """When its agent was first there."""
        life = self._lives.get(instance_id)
        return life.registered_at if life is not None else None

    def busy_s(self, instance_id: str, now: datetime) -> dict[str, float]:
        """Instance-seconds held up to now, by job type."""
        life = self._lives.get(instance_id)
        return _rounded(life.busy_until(now)) if life is not None else {}

    def _missed(self, instance_id: str, now: datetime) -> InstanceEnd | None:
        life = self._lives[instance_id]
        if life.missing_since is None:
            life.missing_since = life.held_since if life.adopted else now
            life.busy_s, life.shares = life.busy_until(life.missing_since), {}
            life.held_since, life.presence, life.running = life.missing_since, None, ()
        expected = life.why or life.instance.state is InstanceState.STOPPING or life.adopted
        if not expected and now - life.missing_since < MISSED_FOR:
            return None
        del self._lives[instance_id]
        instance, ended_at = life.instance, life.missing_since
        return InstanceEnd(
            id=instance.id,
            agent_id=instance.agent_id,
            instance_type=instance.instance_type,
            market=instance.market,
            zone=instance.zone,
            capacity=instance.capacity,
            launched_at=instance.launched_at,
            registered_at=life.registered_at,
            ended_at=max(ended_at, instance.launched_at),
            busy_s=_rounded(life.busy_s),
            why=life.why or (ENDED_UNSEEN if life.adopted else "" if expected else ENDED_ITSELF),
        )


def shares_of(worker: Worker, *, since: datetime | None = None, now: datetime | None = None) -> dict[str, float]:
    """What its jobs hold of an instance, by type, each the largest share of any dimension; 1 in all at most.

    With `since` and `now`: the seconds that those which run now have held it in that time.
    """
    presence = worker.presence
    if presence is None or worker.instance is None:
        return {}
    capacity = presence.capacity
    shares: dict[str, float] = {}
    weights: dict[str, float] = {}
    for job in worker.running:
        share = job.amount.load_of(capacity)
        shares[job.job_type] = shares.get(job.job_type, 0.0) + share
        if since is not None and now is not None:
            ran_s = max(0.0, (now - max(since, job.started_at)).total_seconds())
            weights[job.job_type] = weights.get(job.job_type, 0.0) + share * ran_s
    known = sum(shares.values())
    held = (capacity - presence.free).load_of(capacity) if presence.holds else 0.0
    if len(presence.holds) > len(worker.running) and held > known and since is None:
        shares[OTHER] = held - known
    total = sum(shares.values())
    scale = 1.0 / total if total > 1.0 else 1.0
    found = shares if since is None else weights
    return {job_type: value * scale for job_type, value in found.items() if value > 0}


def _holds(presence: AgentPresence | None) -> tuple[str, ...]:
    return presence.holds if presence is not None else ()


def _rounded(busy_s: Mapping[str, float]) -> dict[str, float]:
    return {job_type: round(seconds, 3) for job_type, seconds in busy_s.items()}
