"""The loop of one queue: wait for a hint or a deadline, observe, plan, look again, act.

Holds no policy: what is done is what the plan says. Invariants: nothing is stopped without one more look at its agent;
nothing is done while this scaler does not lead the queue; every decision is kept with its reasons.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from launch.core.states import Event, Reason, State
from launch.errors import LaunchError
from launch.ports import Broker, Clock
from launch.presence import AgentState
from launch.queue import QueueSpec
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record
from scaler.core import ledger as ledgers
from scaler.core.instance import StopMode
from scaler.core.plan import Launch, Plan, Refuse, Stop, plan
from scaler.core.snapshot import History, Policy, Snapshot, Unknown
from scaler.launches import Launches
from scaler.observe import Observer
from scaler.ports import Provider
from scaler.report import Reporter
from scaler.settings import ScalerSettings
from scaler.state import Deposed, StateStore, lasted

NOTICED_S = 0.05
"""What takes longer than this at the end is told."""
AGAIN_S = 1.0
"""When to look again after something could not be done."""

log = structlog.stdlib.get_logger("scaler")


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and when it was made."""

    at: datetime
    plan: Plan


@dataclass(frozen=True, slots=True)
class Parts:
    """What a queue's loop works with."""

    broker: Broker
    provider: Provider
    observer: Observer
    launches: Launches
    store: StateStore
    reporter: Reporter
    clock: Clock
    settings: ScalerSettings
    may_act: Callable[[], bool]
    """Whether this scaler still leads the queue."""
    tell: Callable[[str], None]


class QueueLoop:
    """Scales one queue through one provider. `wake` is set by whoever hears something about the queue."""

    def __init__(self, spec: QueueSpec, parts: Parts, *, wake: asyncio.Event) -> None:
        self.decisions: deque[Decision] = deque(maxlen=parts.settings.decisions_kept)
        self._spec = spec
        self._parts = parts
        self._broker = parts.broker
        self._provider = parts.provider
        self._observer = parts.observer
        self._clock = parts.clock
        self._settings = parts.settings
        self._wake = wake
        self._tell = parts.tell
        self._reasons: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}
        self._gone = False
        self._stored_at: datetime | None = None

    @property
    def spec(self) -> QueueSpec:
        """The queue's spec."""
        return self._spec

    @spec.setter
    def spec(self, spec: QueueSpec) -> None:
        if spec != self._spec:
            self._parts.launches.forgive()
        self._spec = spec
        self._observer.look_anew()

    async def run(self, until: Callable[[], bool]) -> None:
        """Scale until `until()`, which is asked after every wake. Raises `Deposed`."""
        while not until():
            self._wake.clear()
            next_look_at = await self.turn()
            await asyncio.sleep(self._settings.settle_s)  # What comes in a burst is looked at once.
            await self._wait(next_look_at)

    async def close_down(self, until: Callable[[], bool]) -> None:
        """End every instance, as none is wanted any more, each once it holds nothing. Returns at `until()`, too."""
        self._gone = True
        try:
            while not until():
                self._wake.clear()
                next_look_at = await self.turn()
                if self._observer.instances is not None and not self._observer.instances:
                    if await self._parts.launches.close_answered():
                        return
                    next_look_at = self._clock.now() + timedelta(seconds=AGAIN_S)
                await asyncio.sleep(self._settings.settle_s)
                await self._wait(next_look_at)
        finally:
            self._gone = False

    async def turn(self) -> datetime | None:
        """Observe, plan, act: once. Returns when to look again at the latest. Raises `Deposed`."""
        try:
            return await self._turn()
        except Deposed:
            raise
        except LaunchError as error:
            # Nothing is lost: what was begun is stored, and the next look shows where it stands.
            self._say(f"could not go on: {error.message}")
            return self._clock.now() + timedelta(seconds=AGAIN_S)

    async def _turn(self) -> datetime | None:
        observer, launches = self._observer, self._parts.launches
        await self._parts.store.settle()
        policy = self._policy()
        snapshot = await observer.look(self._spec, gone=self._gone)
        if observer.instances is not None and launches.due() and not self._gone:
            await launches.replay(observer.instances, policy.max_instances)
            snapshot = await observer.look(self._spec)
        self._tell_changes(snapshot)
        decided = self._allowed(plan(snapshot, policy, self._clock.now()))
        self._keep(snapshot, policy, decided)
        for action in decided.actions:
            if isinstance(action, (Launch, Refuse)) and await self._act(action):
                self._wake.set()  # The world is another one now: see what follows from that.
        if any(await self._stop_all([action for action in decided.actions if isinstance(action, Stop)])):
            self._wake.set()
        if observer.instances is not None:
            await launches.settle(observer.instances)
        await self._store_durations()
        return self._next_look(decided)

    async def finish(self, drain_timeout_s: float, abort: asyncio.Event, *, escalate: bool) -> None:
        """End what must not outlive the scaler: drained at first, then (on `abort`, or if `escalate`d) at once.

        Bounded; says which are left.
        """
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(self._end(self._provider.drain, drain_timeout_s), name="scaler-drain")
            aborted = tasks.create_task(abort.wait(), name="scaler-abort")
            done, _ = await asyncio.wait({draining, aborted}, timeout=NOTICED_S, return_when=asyncio.FIRST_COMPLETED)
            if not done and self._known:
                self._say(f"waiting for {', '.join(sorted(self._known))} to finish and leave")
            await asyncio.wait({draining, aborted}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            aborted.cancel()
        left = [] if draining.cancelled() else draining.result()
        if draining.cancelled() or (left and escalate):
            left = await self._end(self._provider.force, self._settings.force_timeout_s)
        for instance_id in list(left):
            seen = self._observer.ledger.seen.get(instance_id)
            if seen is not None and seen.history is History.NEW and await self._try_stop(instance_id, StopMode.KILL):
                left.remove(instance_id)
        try:
            instances = await self._provider.list()
            there = {instance.agent_id for instance in instances}
            self._parts.reporter.stopped([instance.id for instance in instances])
        except LaunchError:
            there = set(left)
        for name in sorted(self._known.keys() - there):
            self._say(f"{name} has left")
            del self._known[name]
        if left:
            self._say(f"still running, and left to end by themselves: {', '.join(left)}")

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _act(self, action: Launch | Refuse) -> bool:
        """Carry one action out; whether it changed anything."""
        if not self._parts.may_act():
            return False
        return await (self._launch(action) if isinstance(action, Launch) else self._refuse(action))

    async def _refuse(self, action: Refuse) -> bool:
        """Record the job as failed, unless somebody has claimed or changed it; then take its message out."""
        job = JobId.parse(action.job_id)
        try:
            known = await self._broker.records.get(job)
            message = await self._broker.jobs.get(job)
            if message is None or (known is not None and known.value.state is not State.QUEUED):
                return False
            now = self._clock.now()
            base = known.value if known is not None else unclaimed_record(message)
            record = base.moved(Event.FAIL, now, reason=Reason.UNSCHEDULABLE, message=action.why, finished_at=now)
            if known is not None:
                await self._broker.records.update(record, known.revision)
            else:
                await self._broker.records.create(record)
            await self._broker.jobs.discard(job)
        except LaunchError as error:
            # Somebody was faster, or the broker is away: the next look shows what is left to do.
            log.info("not refused", queue=self.spec.queue_name, job=action.job_id, why=error.message)
            return False
        log.info("refused", queue=self.spec.queue_name, job=action.job_id, why=action.why)
        return True

    async def _launch(self, action: Launch) -> bool:
        launches, observer = self._parts.launches, self._observer
        made = await launches.launch(self._spec, action.count, config=observer.config)
        if launches.proposed is not None:
            observer.learn_config(self._spec, launches.proposed)
        observer.ledger = ledgers.launched(observer.ledger, made, self._clock.now())
        self._known |= {instance.agent_id: False for instance in made}
        if made:
            self._say(f"started {', '.join(instance.agent_id for instance in made)}")
        return True

    async def _stop_all(self, actions: Sequence[Stop]) -> list[bool]:
        """Stop these, some at a time; which of them were."""
        gate = asyncio.Semaphore(self._settings.stops_at_once)

        async def stop(action: Stop) -> bool:
            async with gate:
                return self._parts.may_act() and await self._stop(action)

        return await asyncio.gather(*(stop(action) for action in actions))

    async def _stop(self, action: Stop) -> bool:
        """Stop an instance, unless a last look at its agent shows something else than the plan was made for.

        What may take seconds comes before that look: between it and the end lies only the provider's own call.
        """
        # Asked while it is there: nobody can tell of it later.
        story = await self._observer.story(action.instance_id) if action.never_came else ""
        try:
            presence = await self._broker.agents.get(action.agent_id)
        except LaunchError as error:
            self._say(f"not stopping {action.agent_id}: its agent can't be looked at: {error.message}")
            return False
        changed = (presence is None) != action.absent or (presence is not None and bool(presence.holds))
        if action.mode is StopMode.KILL and presence is not None:
            # It may have come back as another process, or it is not what the plan was made for.
            changed = changed or presence.state is not AgentState.DRAINED
        if changed or not self._parts.may_act():
            log.info("not stopping after all", queue=self._spec.queue_name, agent=action.agent_id)
            return False
        return await (self._drain(action) if action.mode is StopMode.DRAIN else self._end_one(action, story))

    async def _drain(self, action: Stop) -> bool:
        """Ask the agent to take no more work; its presence says when it has heard, and when it holds nothing."""
        try:
            await self._broker.agents.ask_to_drain(action.agent_id)
        except LaunchError as error:
            self._say(f"could not ask {action.agent_id} to drain: {error.message}")
            return False
        observer = self._observer
        observer.ledger = ledgers.drain_asked(observer.ledger, action.instance_id, self._clock.now())
        return True

    async def _end_one(self, action: Stop, story: str) -> bool:
        observer = self._observer
        instance = next((one for one in observer.instances or () if one.id == action.instance_id), None)
        observer.ledger = ledgers.ending(observer.ledger, action.instance_id)
        if not await self._try_stop(action.instance_id, action.mode):
            return False
        if action.never_came and instance is not None:
            story = await observer.story(action.instance_id) or story
            await observer.boot_failed(instance, story or f"{action.agent_id} never registered")
        return True

    async def _try_stop(self, instance_id: str, mode: StopMode) -> bool:
        try:
            async with asyncio.timeout(self._settings.call_timeout_s):
                await self._provider.stop(instance_id, mode)
        except (LaunchError, TimeoutError) as error:
            self._say(f"could not stop {instance_id}: {str(error) or 'no answer in time'}")
            return False
        return True

    async def _end(self, end: Callable[[float], Awaitable[Sequence[str]]], timeout_s: float) -> list[str]:
        try:
            return list(await end(timeout_s))
        except LaunchError as error:
            self._say(f"could not end the instances: {error}")
            return []

    # -- waiting and telling ----------------------------------------------------------------------------------------

    def _policy(self) -> Policy:
        policy = self._observer.policy(self._spec)
        return replace(policy, min_instances=0, max_instances=0) if self._gone else policy

    def _allowed(self, decided: Plan) -> Plan:
        """The plan without launches while the provider would only refuse them again."""
        trouble = self._parts.launches.trouble
        if trouble is None or not self._parts.launches.blocked():
            return decided
        kept = tuple(action for action in decided.actions if not isinstance(action, Launch))
        if len(kept) == len(decided.actions):
            return decided
        why = f"nothing is launched before {trouble.retry_at:%H:%M:%S} UTC: {trouble.text}"
        return replace(decided, actions=kept, reasons=(why,))

    def _next_look(self, decided: Plan) -> datetime | None:
        looks = [decided.next_look_at] if decided.next_look_at is not None else []
        trouble = self._parts.launches.trouble
        if trouble is not None and trouble.retry_at > self._clock.now():
            looks.append(trouble.retry_at)
        return min(looks, default=None)

    async def _wait(self, until: datetime | None) -> None:
        timeout_s = self._settings.resync_s
        if until is not None:
            timeout_s = min(timeout_s, max(0.0, (until - self._clock.now()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def _store_durations(self) -> None:
        """Keep how long jobs last, now and then: a successor begins with that."""
        now, every = self._clock.now(), timedelta(seconds=self._settings.store_every_s)
        if self._stored_at is None or now - self._stored_at >= every:
            self._stored_at = now
            await self._parts.store.change(lasted(self._observer.running.durations.latest()))

    def _keep(self, snapshot: Snapshot, policy: Policy, decided: Plan) -> None:
        """Log, tell and keep a plan, unless it says the same as the last one."""
        trouble = self._parts.launches.trouble
        self._parts.reporter.trouble(f"can't launch: {trouble.text}" if trouble is not None else None)
        self._parts.reporter.look(snapshot, policy, decided)
        if not decided.actions and decided.reasons == self._reasons:
            return
        self.decisions.append(Decision(self._clock.now(), decided))
        actions = [repr(action) for action in decided.actions]
        log.info("plan", queue=self._spec.queue_name, reasons=list(decided.reasons), actions=actions)
        for reason in decided.reasons:
            if reason not in self._reasons:
                self._tell(reason)
        self._reasons = decided.reasons

    def _say(self, line: str) -> None:
        log.info(line, queue=self._spec.queue_name)
        self._tell(line)

    def _tell_changes(self, snapshot: Snapshot) -> None:
        """Say which instances have become ready, and which have gone."""
        if isinstance(snapshot.workers, Unknown):
            return
        ready = {
            worker.instance.agent_id: worker.presence is not None
            for worker in snapshot.workers
            if worker.instance is not None and not worker.intended
        }
        for name, is_ready in ready.items():
            if is_ready and not self._known.get(name, False):
                self._say(f"{name} is ready")
        for name in self._known.keys() - ready.keys():
            self._say(f"{name} has left")
        self._known = {name: is_ready or self._known.get(name, False) for name, is_ready in ready.items()}
