"""Our own policy in the simulated world: the same `plan`, fed with what the live loop would feed it.

Invariant: no rule of its own. What the live loop's Observer makes of broker and provider, this makes of the world.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

from launch.core.capacity import Amount
from launch.presence import AgentPresence
from scaler.core.durations import Durations
from scaler.core.forecast import Arrivals
from scaler.core.instance import Instance, InstanceState
from scaler.core.plan import Launch, Refuse, Stop, plan
from scaler.core.snapshot import (
    AWS,
    NAMED_AT_MOST,
    History,
    Past,
    Pending,
    PendingGroup,
    Policy,
    Running,
    Snapshot,
    Worker,
)
from scaler.simulate.fleet import GroupKey, Machine, Task, Vector
from scaler.simulate.world import World

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When simulated time begins."""
BOOTS_KEPT = 200


def at(seconds: float) -> datetime:
    """A moment of the simulation as the plan sees it."""
    return START + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class _View:
    """A group as it was shown last."""

    count: int
    first: int
    last: int
    group: PendingGroup


class Planned:
    """Scales by `scaler.core.plan.plan`."""

    hears = True

    def __init__(self, policy: Policy, settings: str = "", *, settle_s: float = 0.1, name: str = "nats-launch") -> None:
        self.name = name
        self.settings = settings
        self.settle_s = settle_s
        self._policy = policy
        self._durations = Durations()
        self._arrivals = Arrivals(policy.tuning.tau_s)
        self._boots: deque[float] = deque(maxlen=BOOTS_KEPT)
        self._boots_sorted: list[float] = []
        self._past: Past | None = None
        self._groups: dict[GroupKey, _View] = {}

    # -- what is heard ----------------------------------------------------------------------------------------------

    def arrived(self, task: Task, now: float) -> None:
        """A notice of the queue."""
        if task.starts:
            return
        self._arrivals.add(task.job.job_type, task.job.need, at(now))
        self._past = None

    def finished(self, task: Task, now: float) -> None:
        """A record of a job that has ended."""
        self._durations.add(task.job.job_type, now - task.started_s)
        self._past = None

    def registered(self, machine: Machine, now: float) -> None:
        """A new agent."""
        if len(self._boots) == BOOTS_KEPT:
            self._boots_sorted.remove(self._boots[0])
        self._boots.append(now - machine.launched_s)
        insort(self._boots_sorted, self._boots[-1])
        self._past = None

    # -- deciding ---------------------------------------------------------------------------------------------------

    def look(self, world: World) -> float | None:
        """Observe, plan, act."""
        now = at(world.now)
        if self._past is None:
            self._past = Past(self._durations.view(), tuple(self._boots_sorted), self._arrivals.view())
        workers = tuple(self._worker(machine, world) for machine in world.machines.values())
        snapshot = Snapshot(
            "simulated", self._pending(world), workers, world.cloud.capacity,
            past=self._past, config="simulated", proven=bool(self._boots),
        )  # fmt: skip
        decided = plan(snapshot, replace(self._policy, max_instances=world.max_instances), now)
        acted = False
        for action in decided.actions:
            match action:
                case Launch(count):
                    acted = world.launch(count) > 0 or acted
                case Stop(instance_id):
                    machine = world.machines.get(int(instance_id[2:]))
                    acted = (machine is not None and world.end(machine)) or acted
                case Refuse(job_id):
                    acted = world.refuse(int(job_id)) or acted
        if acted:
            return world.now
        return None if decided.next_look_at is None else (decided.next_look_at - START).total_seconds()

    def _pending(self, world: World) -> Pending:
        groups, views = [], {}
        for key, tasks in world.backlog.groups.items():
            first, last = tasks[0].job, tasks[-1].job
            view = self._groups.get(key)
            if view is None or (view.count, view.first, view.last) != (len(tasks), first.id, last.id):
                ids = tuple(str(task.job.id) for task in islice(tasks, NAMED_AT_MOST))
                oldest, newest = at(first.submitted_s), at(last.submitted_s)
                group = PendingGroup(key[2], key[0], first.need, len(tasks), ids, oldest, newest)
                view = _View(len(tasks), first.id, last.id, group)
            views[key] = view
            groups.append(view.group)
        self._groups = views
        return Pending(tuple(groups))

    def _worker(self, machine: Machine, world: World) -> Worker:
        if isinstance(machine.seen_as, Worker):
            return machine.seen_as
        name, launched_at = f"m-{machine.number}", at(machine.launched_s)
        state = InstanceState.RUNNING if machine.ready else InstanceState.STARTING
        instance = Instance(name, name, launched_at, state, world.cloud.capacity, config="simulated")
        if not machine.ready:
            worker = Worker(instance, None, History.NEW, absent_since=launched_at)
        else:
            worker = Worker(instance, _presence(name, machine, world), running=tuple(
                Running(str(task.job.id), task.job.job_type, task.job.need, at(task.started_s))
                for task in machine.running.values()
            ))  # fmt: skip
        machine.seen_as = worker
        return worker


def _presence(name: str, machine: Machine, world: World) -> AgentPresence:
    return AgentPresence.model_construct(
        agent_id=name,
        queue="simulated",
        capacity=world.cloud.capacity,
        free=_amount(machine.free),
        holds=tuple(str(number) for number in machine.running),
        version="",
        host=name,
        instance=name,
        started_at=at(machine.ready_s),
        idle_since=None if machine.running else at(max(machine.idle_since, machine.ready_s)),
    )


def _amount(free: Vector) -> Amount:
    return Amount.model_construct(cpu_milli=free[0], memory_bytes=free[1], gpus=free[2], slots=free[3])


def policy_of(**tuning: float) -> Policy:
    """The policy of an AWS queue that leaves its idle timeout open, with some of its tuning changed."""
    return Policy(0, 10_000, None, tuning=replace(AWS, **tuning))
