"""One job from claim to ack.

Image, container, start, output, exit, record, ack, removal: in this order, so that a crash between any two steps is
repaired by the next delivery or the next start, and a finished job never runs again. Cancelling a run (the agent
leaves in a hurry) leaves its container running for the next process.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import structlog

from agent.claims import Claims, Fenced
from agent.core.container import ContainerPolicy, container_config
from agent.core.outcome import (
    Outcome,
    StopCause,
    outcome_of_exit,
    outcome_of_stop,
    reason_of_engine_error,
)
from agent.holds import Hold, Holds
from agent.logs import LogPump
from agent.ports import Engine, EngineError, EngineUnavailable
from launch.core.states import Event, Reason, State
from launch.ports import Clock, Logs
from launch.subjects import LABEL_SUBMITTED, container_name

T = TypeVar("T")

ENGINE_RETRY_S = 1.0
ENGINE_PATIENCE = 30
"""How many times an engine that does not answer is asked again before an attempt that has not started gives up."""

_GONE = 404
_CONFLICT = 409
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Started:
    """A container that runs, or has run: its id, and since when."""

    container: str
    at: datetime


@dataclass(frozen=True, slots=True)
class _Ended:
    """A container that has stopped: why it was told to, if it was, and when."""

    stop: StopCause | None
    sent_at: datetime | None


class Runner:
    """Runs claimed jobs on one engine."""

    def __init__(
        self,
        engine: Engine,
        logs: Logs,
        claims: Claims,
        holds: Holds,
        clock: Clock,
        *,
        agent_id: str,
        policy: ContainerPolicy,
        max_log_bytes: int,
    ) -> None:
        self._engine = engine
        self._logs = logs
        self._claims = claims
        self._holds = holds
        self._clock = clock
        self._agent_id = agent_id
        self._policy = policy
        self._max_log_bytes = max_log_bytes

    async def run(self, hold: Hold) -> None:
        """See the job through. Raises nothing but cancellation: whatever goes wrong becomes its outcome."""
        log = _log.bind(job=str(hold.job), attempt=hold.record.attempt)
        name = container_name(hold.job, hold.record.attempt)
        log.info("job recovered" if hold.recovered else "job claimed", image=hold.spec.image, type=hold.record.job_type)
        try:
            try:
                await self._claims.tell_the_old_owner(hold)
                outcome = await self._attempt(hold, name)
            except Fenced:
                raise
            # A defect of ours must not cost the job its truthful end, nor the agent its life.
            except Exception as error:
                log.exception("the agent failed at this job")
                trace = "".join(traceback.format_exception(error))
                message = f"the agent itself failed: {type(error).__name__}: {error}\n{trace}"
                outcome = Outcome(Event.FAIL, Reason.ENGINE_ERROR, message, None, crashed=True)
                await self._remove(name)  # it may still run, and nobody would look after it
            self._holds.unreserve(hold.job)
            await self._claims.settle(hold, outcome)
            log.info(
                "job ended",
                outcome=str(outcome.event),
                reason=outcome.reason and str(outcome.reason),
                message=outcome.message,
            )
        except Fenced:
            log.warning("fenced: a later attempt owns the job; its outcome here is discarded")
        except Exception:  # as above; the message comes again, and the job gets another attempt
            log.exception("the agent failed to record the outcome")
        await self._remove(name)
        self._holds.drop(hold)

    # -- the attempt --------------------------------------------------------------------------------------------

    async def _attempt(self, hold: Hold, name: str) -> Outcome:
        started, outcome = await self._begin(hold, name)
        if started is None:
            if hold.made:
                # It may run, unheard of: then nobody may hear of its end, or try again, before it is gone.
                await self._remove(name)
            if hold.fenced:
                raise Fenced(str(hold.job))
            return outcome or outcome_of_stop(hold.stop.result(), None, hold.spec)
        pump = LogPump(
            self._engine,
            self._logs,
            hold.job,
            hold.record.attempt,
            started.container,
            max_bytes=hold.spec.max_log_bytes or self._max_log_bytes,
        )
        async with asyncio.TaskGroup() as tasks:
            resumed = asyncio.Event()
            tasks.create_task(_follow(hold, pump, resumed), name=f"logs of {hold.job}")
            announcing = tasks.create_task(self._announce(hold, started), name=f"start of {hold.job}")
            ended = await self._supervise(hold, started)
            self._holds.unreserve(hold.job)
            await announcing
            await resumed.wait()
            output = await pump.finish()
        if output.error is not None:
            _log.warning("output is incomplete", job=str(hold.job), error=output.error)
        if hold.fenced:
            raise Fenced(str(hold.job))
        status = await self._at_last(lambda: self._engine.inspect(started.container))
        if status is None:
            return Outcome(Event.FAIL, Reason.ENGINE_ERROR, "its container was removed by somebody else", None)
        return outcome_of_exit(status, stop=ended.stop, spec=hold.spec, tail=output.tail, stop_sent_at=ended.sent_at)

    async def _begin(self, hold: Hold, name: str) -> tuple[_Started | None, Outcome | None]:
        """The started container, or what came of the attempt without one; neither if a stop was asked for first."""
        try:
            return await self._unless_stopped(hold, self._prepare(hold, name)), None
        except EngineError as error:
            hold.made = False  # refused: it does not run
            fault = reason_of_engine_error(error)
            return None, Outcome(Event.FAIL, fault.reason, fault.message, None)
        except EngineUnavailable as error:
            return None, Outcome(Event.FAIL, Reason.ENGINE_ERROR, error.message, None)

    async def _prepare(self, hold: Hold, name: str) -> _Started:
        """Image, container, start; or, for a recovered job, the container as it was left."""
        if hold.recovered:
            hold.made = True
            left = await self._patiently(lambda: self._engine.inspect(name))
            if left is not None and left.state != "created" and left.started_at is not None:
                hold.digest = hold.record.digest
                return _Started(left.id, datetime.fromisoformat(left.started_at))
        reference = hold.spec.image
        image = await self._engine.image(reference)
        if image is None:
            await self._claims.move(hold, None, message=f"pulling {reference}")
            _log.info("pulling", job=str(hold.job), image=reference)
            await self._engine.pull(reference)
            image = await self._engine.image(reference)
        hold.digest = (image.digest or image.id) if image else None
        config = container_config(
            hold.spec, hold.job, hold.record.attempt, self._agent_id, hold.reply, self._policy, hold.holding.gpus
        )
        config["Labels"][LABEL_SUBMITTED] = hold.record.submitted_at.isoformat()
        # Cancelled half-way, the engine would still make the container, or start it, when the job's end is recorded.
        hold.made = True
        container = await seen_through(self._create(name, config))
        await seen_through(self._engine.start(container))
        return _Started(container, self._clock.now())

    async def _create(self, name: str, config: dict[str, Any]) -> str:
        """Create the container, putting away one of the same name that is not this attempt's."""
        try:
            return await self._engine.create(name, config)
        except EngineError as error:
            if error.status != _CONFLICT:
                raise
            _log.warning("name taken by another container: removing it", container=name)
            await self._engine.remove(name)
            return await self._engine.create(name, config)

    async def _announce(self, hold: Hold, started: _Started) -> None:
        if hold.record.state is State.RUNNING:
            return  # recovered, and announced by the process before
        news = {"container": started.container, "started_at": started.at, "digest": hold.digest, "message": None}
        try:
            await self._claims.move(hold, Event.START, **news)
        except Fenced:
            hold.ask_to_stop(StopCause.FENCED)

    async def _supervise(self, hold: Hold, started: _Started) -> _Ended:
        """Wait until the container has exited, stopping it when it is asked for or its time is up."""
        container = started.container
        timer = None
        if hold.spec.timeout is not None:
            ran_s = (self._clock.now() - started.at).total_seconds()
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max(0.0, hold.spec.timeout - ran_s), hold.ask_to_stop, StopCause.TIMED_OUT)
        try:
            async with asyncio.TaskGroup() as tasks:
                exit_ = tasks.create_task(self._exited(container), name=f"exit of {hold.job}")
                await first_done(exit_, hold.stop)
                if exit_.done():
                    return _Ended(None, None)
                sent_at = self._clock.now()
                await self._signal(container, "SIGTERM")
                await asyncio.wait({exit_}, timeout=hold.grace_s)
                while not exit_.done():
                    await self._signal(container, "SIGKILL")
                    await asyncio.wait({exit_}, timeout=ENGINE_RETRY_S)
                return _Ended(hold.stop.result(), sent_at)
        finally:
            if timer is not None:
                timer.cancel()

    async def _exited(self, container: str) -> None:
        """Return once the container does not run, through restarts of the engine."""
        while True:
            try:
                await self._engine.wait(container)
            except EngineUnavailable as error:
                _log.warning("engine does not answer", container=container[:12], error=error.message)
            except EngineError as error:
                if error.status == _GONE:
                    return
                _log.warning("engine can't wait", container=container[:12], error=error.message)
            else:
                return
            await asyncio.sleep(ENGINE_RETRY_S)

    async def _signal(self, container: str, name: str) -> None:
        try:
            await self._engine.signal(container, name)
        except (EngineError, EngineUnavailable) as error:
            _log.warning("signal not delivered", container=container[:12], signal=name, error=error.message)

    async def _at_last(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the engine until it answers: what an attempt came to is worth any wait."""
        while True:
            with contextlib.suppress(EngineUnavailable):
                return await call()
            await asyncio.sleep(ENGINE_RETRY_S)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the engine again while it does not answer."""
        for _ in range(ENGINE_PATIENCE):
            with contextlib.suppress(EngineUnavailable):
                return await call()
            await asyncio.sleep(ENGINE_RETRY_S)
        return await call()

    async def _unless_stopped(self, hold: Hold, work: Coroutine[None, None, T]) -> T | None:
        """The result of `work`, or None if a stop was asked for first; then `work` is cancelled."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(_look_at)
        try:
            await first_done(task, hold.stop)
            if task.done():
                return task.result()
            return None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _remove(self, name: str) -> None:
        """Put the container away; an engine that is away is asked again for as long as that takes."""
        while True:
            try:
                await self._engine.remove(name)
                return
            except EngineUnavailable as error:
                _log.warning("container not removed yet", container=name, error=error.message)
            except EngineError as error:
                _log.warning("container not removed", container=name, error=error.message)
                return
            await asyncio.sleep(ENGINE_RETRY_S)


async def _follow(hold: Hold, pump: LogPump, resumed: asyncio.Event) -> None:
    """Carry the output over, from where an earlier process left off; sets `resumed` once that is known."""
    if hold.recovered:
        await pump.resume()
    resumed.set()
    await pump.run()


async def first_done(*futures: asyncio.Future[Any]) -> None:
    """Return once any of them is done; none is cancelled."""
    await asyncio.wait(set(futures), return_when=asyncio.FIRST_COMPLETED)


async def seen_through(work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which comes to its end even if this is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait({task})


def _look_at(task: asyncio.Future[Any]) -> None:
    """Who asked may be gone; a failure that nobody hears of is none to complain of."""
    if not task.cancelled():
        task.exception()
