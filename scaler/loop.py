"""The loop of one queue: wait for a hint or a deadline, observe, plan, look again, act.

Holds no policy: what is done is what the plan says. Invariant: nothing is stopped without one more look at its agent,
and every decision is kept with its reasons.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from launch.core.states import Event, Reason, State
from launch.errors import LaunchError
from launch.ports import Broker, Clock
from launch.queue import QueueSpec
from launch.subjects import JobId
from launch.unclaimed import unclaimed_record
from scaler.core import ledger as ledgers
from scaler.core.instance import StopMode
from scaler.core.plan import Action, Launch, Plan, Refuse, Stop, plan
from scaler.core.snapshot import History, Snapshot, Unknown
from scaler.observe import Observer
from scaler.ports import Provider
from scaler.settings import ScalerSettings

log = structlog.stdlib.get_logger("scaler")


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and when it was made."""

    at: datetime
    plan: Plan


class QueueLoop:
    """Scales one queue through one provider. `wake` is set by whoever hears something about the queue."""

    def __init__(
        self,
        spec: QueueSpec,
        broker: Broker,
        provider: Provider,
        observer: Observer,
        clock: Clock,
        settings: ScalerSettings,
        *,
        wake: asyncio.Event,
        tell: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.decisions: deque[Decision] = deque(maxlen=settings.decisions_kept)
        self._broker = broker
        self._provider = provider
        self._observer = observer
        self._clock = clock
        self._settings = settings
        self._wake = wake
        self._tell = tell
        self._reasons: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}

    async def run(self, until: Callable[[], bool]) -> None:
        """Scale until `until()`, which is asked after every wake."""
        while not until():
            self._wake.clear()
            next_look_at = await self.turn()
            await asyncio.sleep(self._settings.settle_s)  # What comes in a burst is looked at once.
            await self._wait(next_look_at)

    async def turn(self) -> datetime | None:
        """Observe, plan, act: once. Returns when to look again at the latest."""
        snapshot = await self._observer.look(self.spec)
        self._tell_changes(snapshot)
        decided = plan(snapshot, self._observer.policy(self.spec), self._clock.now())
        self._keep(decided)
        for action in decided.actions:
            if await self._act(action):
                self._wake.set()  # The world is another one now: see what follows from that.
        return decided.next_look_at

    async def finish(self, drain_timeout_s: float, abort: asyncio.Event, *, escalate: bool) -> None:
        """End what must not outlive the scaler: drained at first, then (on `abort`, or if `escalate`d) at once.

        Bounded; says which are left.
        """
        if self._known:
            self._say(f"waiting for {', '.join(sorted(self._known))} to finish and leave")
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(self._end(self._provider.drain, drain_timeout_s), name="scaler-drain")
            aborted = tasks.create_task(abort.wait(), name="scaler-abort")
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
        for name in sorted(self._known.keys() - set(left)):
            self._say(f"{name} has left")
        if left:
            self._say(f"still running, and left to end by themselves: {', '.join(left)}")

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _act(self, action: Action) -> bool:
        """Carry one action out; whether it changed anything."""
        match action:
            case Launch():
                return await self._launch(action)
            case Stop():
                return await self._stop(action)
            case Refuse():
                return await self._refuse(action)

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
        token = secrets.token_hex(8)
        try:
            instances = await self._provider.launch(self.spec, action.count, token=token)
        except LaunchError as error:
            self._say(f"could not launch: {error}")
            self._observer.boot_failed(error.message)
            return True
        observer = self._observer
        observer.ledger = ledgers.launched(observer.ledger, instances, self._clock.now())
        names = ", ".join(instance.agent_id for instance in instances)
        self._known |= {instance.agent_id: False for instance in instances}
        self._say(f"started {names}")
        return True

    async def _stop(self, action: Stop) -> bool:
        """Stop an instance, unless a last look at its agent shows something else than the plan was made for."""
        try:
            presence = await self._broker.agents.get(action.agent_id)
        except LaunchError as error:
            self._say(f"not stopping {action.agent_id}: its agent can't be looked at: {error.message}")
            return False
        if (presence is None) != action.absent or (presence is not None and presence.holds):
            log.info("not stopping after all", queue=self.spec.queue_name, agent=action.agent_id)
            return False
        observer = self._observer
        observer.ledger = ledgers.ending(observer.ledger, action.instance_id)
        if not await self._try_stop(action.instance_id, action.mode):
            return False
        if action.mode is StopMode.KILL:
            story = await observer.story(action.instance_id)
            observer.boot_failed(story or f"{action.agent_id} never registered")
        return True

    async def _try_stop(self, instance_id: str, mode: StopMode) -> bool:
        try:
            await self._provider.stop(instance_id, mode)
        except LaunchError as error:
            self._say(f"could not stop {instance_id}: {error}")
            return False
        return True

    async def _end(self, end: Callable[[float], Awaitable[Sequence[str]]], timeout_s: float) -> list[str]:
        try:
            return list(await end(timeout_s))
        except LaunchError as error:
            self._say(f"could not end the instances: {error}")
            return []

    # -- waiting and telling ----------------------------------------------------------------------------------------

    async def _wait(self, until: datetime | None) -> None:
        timeout_s = self._settings.resync_s
        if until is not None:
            timeout_s = min(timeout_s, max(0.0, (until - self._clock.now()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    def _keep(self, decided: Plan) -> None:
        """Log, tell and keep a plan, unless it says the same as the last one."""
        if not decided.actions and decided.reasons == self._reasons:
            return
        self.decisions.append(Decision(self._clock.now(), decided))
        actions = [repr(action) for action in decided.actions]
        log.info("plan", queue=self.spec.queue_name, reasons=list(decided.reasons), actions=actions)
        for reason in decided.reasons:
            if reason not in self._reasons:
                self._tell(reason)
        self._reasons = decided.reasons

    def _say(self, line: str) -> None:
        log.info(line, queue=self.spec.queue_name)
        self._tell(line)

    def _tell_changes(self, snapshot: Snapshot) -> None:
        """Say which instances have become ready, and which have gone."""
        if isinstance(snapshot.workers, Unknown):
            return
        ready = {
            worker.instance.agent_id: worker.presence is not None
            for worker in snapshot.workers
            if worker.instance is not None
        }
        for name, is_ready in ready.items():
            if is_ready and not self._known.get(name, False):
                self._say(f"{name} is ready")
        for name in self._known.keys() - ready.keys():
            self._say(f"{name} has left")
        self._known = {name: is_ready or self._known.get(name, False) for name, is_ready in ready.items()}
