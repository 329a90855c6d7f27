"""One job from claim to ack.

Image, container, its files, start, output, exit, files, record, ack, removal: in this order, so that a crash between
any two steps is repaired by the next delivery or the next start, and a finished job never runs again. Cancelling a run
(the agent leaves in a hurry) leaves its container running for the next process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from agent.claims import Fenced
from agent.core.container import container_config, working_directory
from agent.core.crash import account_of
from agent.core.outcome import (
    Outcome,
    StopCause,
    Unready,
    outcome_of_exit,
    outcome_of_stop,
    reason_of_engine_error,
)
from agent.core.policy import account, user_denials
from agent.core.secret_source import references
from agent.holds import Hold
from agent.logs import LogPump
from agent.metrics import JobMetrics
from agent.ports import EngineError, EngineUnavailable, ImageInfo, SecretRefused, SecretUnavailable
from agent.secrets import mask_of
from agent.services import Services
from agent.steady import (
    ENGINE_RETRY_S,
    at_last,
    exited,
    first_done,
    make,
    patiently,
    put_away,
    seen_through,
    signal,
    unless,
)
from agent.workspace import Workspace
from launch.core.states import Event, Reason, State
from launch.subjects import LABEL_SUBMITTED, container_name

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Started:
    """A container that runs, or has run: its id, since when, its files, and its environment, secrets and all."""

    container: str
    at: datetime
    workspace: Workspace
    env: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A container that has stopped: why it was told to, if it was, and when."""

    stop: StopCause | None
    sent_at: datetime | None


class Runner:
    """Runs claimed jobs on one engine."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._engine = services.engine
        self._claims = services.claims
        self._holds = services.holds
        self._clock = services.clock

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
                where = f"the log of {self._services.agent_id} says more"
                message = f"the agent itself failed: {account_of(error)}; {where}"
                outcome = Outcome(Event.FAIL, Reason.ENGINE_ERROR, message, None, crashed=True)
                await put_away(self._engine, name)  # it may still run, and nobody would look after it
            self._holds.unreserve(hold.job, hold.holding)
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
        await put_away(self._engine, name)
        await self._services.networks.part(name)
        self._holds.drop(hold)

    # -- the attempt --------------------------------------------------------------------------------------------

    async def _attempt(self, hold: Hold, name: str) -> Outcome:
        started, outcome = await self._begin(hold, name)
        if started is None:
            if hold.made:
                # It may run, unheard of: then nobody may hear of its end, or try again, before it is gone.
                await put_away(self._engine, name)
            if hold.fenced:
                raise Fenced(str(hold.job))
            return outcome or outcome_of_stop(hold.stop.result(), None, hold.spec)
        reported = self._reported(hold, started)
        pump = await self._pump(hold, started, reported)
        async with asyncio.TaskGroup() as tasks:
            resumed = asyncio.Event()
            tasks.create_task(_follow(hold, pump, resumed), name=f"logs of {hold.job}")
            announcing = tasks.create_task(self._announce(hold, started), name=f"start of {hold.job}")
            tasks.create_task(reported.watch(), name=f"metrics of {hold.job}")
            watching = tasks.create_task(started.workspace.watch(), name=f"checkpoints of {hold.job}")
            ended = await self._supervise(hold, started)
            watching.cancel()
            reported.exited()
            self._holds.unreserve(hold.job, hold.holding)
            await announcing
            await resumed.wait()
            output = await pump.finish()
        await reported.finish()
        if output.error is not None:
            _log.warning("output is incomplete", job=str(hold.job), error=output.error)
        if hold.fenced:
            raise Fenced(str(hold.job))
        status = await at_last(lambda: self._engine.inspect(started.container))
        if status is None:
            return Outcome(Event.FAIL, Reason.ENGINE_ERROR, "its container was removed by somebody else", None)
        outcome = outcome_of_exit(status, stop=ended.stop, spec=hold.spec, tail=output.tail, stop_sent_at=ended.sent_at)
        outcome = await started.workspace.keep(outcome)
        if hold.fenced:
            raise Fenced(str(hold.job))
        return outcome

    def _reported(self, hold: Hold, started: _Started) -> JobMetrics:
        """What carries the attempt's points over."""
        return self._services.reporting.job(
            hold.job,
            hold.record.attempt,
            started.container,
            started_at=started.at,
            gpus=hold.holding.gpus,
        )

    async def _pump(self, hold: Hold, started: _Started, reported: JobMetrics) -> LogPump:
        """What carries the attempt's output over."""
        services = self._services
        return LogPump(
            self._engine,
            services.broker.logs,
            hold.job,
            hold.record.attempt,
            started.container,
            max_bytes=hold.spec.max_log_bytes or services.settings.max_log_bytes,
            mask=await mask_of(hold.spec, started.env, str(hold.job)) if references(hold.spec) else None,
            heard=reported.heard,
        )

    async def _begin(self, hold: Hold, name: str) -> tuple[_Started | None, Outcome | None]:
        """The started container, or what came of the attempt without one; neither if a stop was asked for first."""
        try:
            return await unless(hold.stop, self._prepare(hold, name)), None
        except EngineError as error:
            hold.made = hold.made and error.step == "put"  # refused: it does not run
            fault = reason_of_engine_error(error)
            return None, Outcome(Event.FAIL, fault.reason, fault.message, None)
        except Unready as error:
            return None, Outcome(Event.FAIL, error.reason, str(error), None)
        except SecretRefused as error:
            return None, Outcome(Event.FAIL, Reason.INVALID_SPEC, str(error), None)
        except (EngineUnavailable, SecretUnavailable) as error:
            return None, Outcome(Event.FAIL, Reason.ENGINE_ERROR, error.message, None)

    async def _prepare(self, hold: Hold, name: str) -> _Started:
        """Image, container, its files, start; or, for a recovered job, the container as it was left."""
        left = None
        if hold.recovered:
            hold.made = True
            left = await patiently(lambda: self._engine.inspect(name))
            if left is not None and left.state != "created" and left.started_at is not None:
                hold.digest = hold.record.digest
                workspace = await Workspace.of(self._services, hold, left.id)
                workspace.resume()
                return _Started(left.id, datetime.fromisoformat(left.started_at), workspace, _read(left.env))
        # Before the image is fetched, which may take long: what is missing is told at once.
        env = await self._services.secrets.resolve(hold.spec)
        image = await self._image(hold)
        if denied := user_denials(hold.spec, image.user, self._services.settings.policy):
            raise Unready(Reason.POLICY_DENIED, account(denied))
        workdir = working_directory(hold.spec, image)
        config = container_config(
            hold.spec,
            hold.job,
            hold.record.attempt,
            self._services.agent_id,
            hold.reply,
            self._services.policy,
            hold.holding.gpus,
            env=env,
            workdir=workdir,
        )
        config["Labels"][LABEL_SUBMITTED] = hold.record.submitted_at.isoformat()
        self._services.networks.join(name, config)
        # Cancelled half-way, the engine would still make the container, or start it, when the job's end is recorded.
        hold.made = True
        ready = await self._services.next.take(hold.job, name, config, image.id)
        container = ready.container if ready else await seen_through(make(self._engine, name, config))
        workspace = await Workspace.of(self._services, hold, container)
        await workspace.fill(image, workdir, ready.untouched if ready else None)
        await seen_through(self._engine.start(container))
        self._services.next.started(hold.job)
        if left is not None and left.id == container:
            env = _read(left.env)  # made by an earlier process, with what the secrets were then
        return _Started(container, self._clock.now(), workspace, env)

    async def _image(self, hold: Hold) -> ImageInfo:
        """The job's image, fetched if need be."""

        async def tell(message: str) -> None:
            await self._claims.move(hold, None, message=message)

        image = await self._services.images.fetch(hold.spec.image, hold.spec.pull, tell)
        hold.digest = image.digest or image.id
        return image

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
                exit_ = tasks.create_task(exited(self._engine, container), name=f"exit of {hold.job}")
                await first_done(exit_, hold.stop)
                if exit_.done():
                    return _Ended(None, None)
                sent_at = self._clock.now()
                await signal(self._engine, container, "SIGTERM")
                await asyncio.wait({exit_}, timeout=hold.grace_s)
                while not exit_.done():
                    await signal(self._engine, container, "SIGKILL")
                    await asyncio.wait({exit_}, timeout=ENGINE_RETRY_S)
                return _Ended(hold.stop.result(), sent_at)
        finally:
            if timer is not None:
                timer.cancel()


async def _follow(hold: Hold, pump: LogPump, resumed: asyncio.Event) -> None:
    """Carry the output over, from where an earlier process left off; sets `resumed` once that is known."""
    if hold.recovered:
        await pump.resume()
    resumed.set()
    await pump.run()


def _read(env: tuple[str, ...]) -> dict[str, str]:
    """A container's environment as a mapping."""
    return {name: value for name, _, value in (line.partition("=") for line in env)}
