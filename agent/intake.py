"""Takes jobs from the queue, only with free capacity, the most urgent first.

First a sweep over the consumers in the order of their priority; when all are empty, one waiting pull on each, of which
the first to be answered ends the others. Every delivery that arrives is dealt with: run, kept back, or given back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import structlog

from agent.claims import Claims, Offer
from agent.core.claim import Verdict
from agent.core.crash import account_of
from agent.core.fitting import Fit, FitDecision, decide_fit
from agent.core.ledger import Holding
from agent.core.outcome import StopCause
from agent.core.policy import account, denials
from agent.holds import Hold, Holds
from agent.reading import read_job
from launch.core.capacity import Amount
from launch.core.quantity import show_duration
from launch.core.retry import MAX_CRASHES
from launch.core.states import Reason
from launch.errors import BrokerError, Conflict, LaunchError, SpecError, Unreadable
from launch.job import JobSpec, Pull
from launch.policy import AgentPolicy
from launch.ports import Broker, Clock, Delivery
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.subjects import JobId, WorkConsumer

WAIT_S = 60.0
"""How long one waiting pull stands before it is renewed."""
RECHECK_S = 1.0
"""How often a job that is kept back looks whether somebody else has room."""
FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 5.0
RANKS = 9
STATIC_PATIENCE_S = 300.0
"""How long a job that fits no present worker of a `static` queue waits for a larger one to come (back)."""
CRASHES_KEPT = 1000
CRASH_DELAY_S = 2.0
HOPELESS_DELAY_S = 300.0
ANSWER_S = 5.0
"""How long a drain waits for an answer that is being given: longer only if the broker is away."""

Answer: TypeAlias = Coroutine[Any, Any, None]
"""What is to be done about a delivery: carried out once awaited."""

_log = structlog.get_logger(__name__)


class Intake:
    """The pulling side of one agent."""

    def __init__(
        self,
        broker: Broker,
        claims: Claims,
        holds: Holds,
        clock: Clock,
        start: Callable[[Hold], object],
        expect: Callable[[str], None],
        *,
        agent_id: str,
        queue: Callable[[], QueueSpec],
        job_types: Sequence[str] | None,
        hold_s: float,
        policy: AgentPolicy,
    ) -> None:
        """`start` runs a claimed job in a task of its own; `queue` gives the queue's spec as it is now.

        `expect` hears of the image that a job wants which is about to be claimed.
        """
        self._broker = broker
        self._claims = claims
        self._holds = holds
        self._clock = clock
        self._start = start
        self._expect = expect
        self._agent_id = agent_id
        self._queue = queue
        self._job_types = job_types
        self._hold_s = hold_s
        self._policy = policy
        self._consumers: tuple[WorkConsumer, ...] = ()
        self._consumers_changed = asyncio.Event()
        self._room = holds.watch()
        self._crashes: dict[JobId, int] = {}
        self._passed_on = False
        """What it could not run goes to others first: a full agent asks before an idle one, and would get it back."""
        self._draining = False
        self._giving: asyncio.Task[None] | None = None

    def drain(self) -> None:
        """Be cancelled gently from now on: an answer that is being given is given whole."""
        self._draining = True

    def leave(self) -> None:
        """Give no answer any more: a claim that came to its end now could not start its job."""
        self._draining = False
        if self._giving is not None:
            self._giving.cancel()

    async def run(self) -> None:
        """Take work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._learn(), name="learn of job types")
            tasks.create_task(self._take_all(), name="pull")

    async def _learn(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                async with aclosing(self._broker.work.consumers(self._queue().queue_name, self._job_types)) as sets:
                    async for consumers in sets:
                        self._consumers = consumers
                        self._consumers_changed.set()
                        backoff_s = FIRST_BACKOFF_S
            except LaunchError as error:
                # A queue that is not there is no reason to leave what runs: it may come back, and the spec says if not.
                _log.warning("can't learn of job types", error=error.message, next_try_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)

    async def _take_all(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                await self._free_slot()
                for delivery in await self._next():
                    await self._take(delivery)
                backoff_s = FIRST_BACKOFF_S
            except LaunchError as error:
                _log.warning("can't take work", error=error.message, next_try_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)

    async def _free_slot(self) -> None:
        while self._holds.ledger.free.slots < 1:
            self._room.clear()
            if self._holds.ledger.free.slots < 1:
                await self._room.wait()

    async def _next(self) -> list[Delivery]:
        """The next deliveries; empty when it is time to look anew."""
        self._consumers_changed.clear()
        name = self._queue().queue_name
        for consumer in self._consumers:
            found = await self._broker.work.pull_now(name, consumer, 1)
            if found:
                return found
        if not self._consumers:
            await self._consumers_changed.wait()
            return []
        rank = RANKS if self._passed_on else round((1 - self._holds.ledger.load) * RANKS)
        self._passed_on = False
        # No TaskGroup: it would wrap the pull's BrokerError.
        waiting = self._broker.work.pull_wait(name, self._consumers, rank=rank, wait_s=WAIT_S)
        pull = asyncio.create_task(waiting, name="waiting pull")
        change = asyncio.create_task(self._consumers_changed.wait(), name="new job types")
        try:
            await asyncio.wait({pull, change}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pull.cancel()
            change.cancel()
            await asyncio.wait({pull, change})
        return [] if pull.cancelled() else pull.result()

    # -- one delivery -------------------------------------------------------------------------------------------

    async def _take(self, delivery: Delivery) -> None:
        """Deal with one delivery: whatever happens, it is answered or runs."""
        fresh = delivery.delivered == 1
        while True:
            try:
                await self._give(delivery, await self._weigh(delivery, fresh=fresh))
            except Conflict:
                fresh = False  # somebody changed the record: look again
                continue
            except Unreadable as error:
                await self._give(delivery, self._set_aside(delivery, error))
            except LaunchError:
                raise
            except Exception as error:  # a defect of ours that this message brings out must not end the agent
                log = _log.bind(job=str(delivery.message.job))
                log.exception("the agent failed at this delivery")
                await self._give(delivery, self._set_aside(delivery, error))
            return

    async def _weigh(self, delivery: Delivery, *, fresh: bool) -> Answer:
        """The answer to a delivery, still to be given."""
        try:
            return await self._decide(await self._claims.look(delivery, fresh=fresh))
        except asyncio.CancelledError:
            await self._give_back(delivery)
            raise

    async def _give(self, delivery: Delivery, answer: Answer) -> None:
        """Give an answer; a drain that comes upon it lets it be given whole.

        Half of one costs somebody else: a claim that nobody runs costs its job an interruption, and an end that is
        recorded without its ack leaves the message in the queue.
        """
        giving = self._giving = asyncio.create_task(answer, name="answer a delivery")
        try:
            await asyncio.shield(giving)
        except asyncio.CancelledError:
            if self._draining:
                await asyncio.wait({giving}, timeout=ANSWER_S)
            giving.cancel()
            await asyncio.wait({giving})
            if giving.cancelled() or giving.exception() is not None:
                await self._give_back(delivery)
            raise

    async def _give_back(self, delivery: Delivery) -> None:
        """The agent stops: somebody else need not wait for the ack wait."""
        with contextlib.suppress(BrokerError):
            await self._broker.work.nak(delivery.reply)

    async def _set_aside(self, delivery: Delivery, error: Exception) -> None:
        """Give a message that broke our own code back, and the third time record it as failed: it never loops."""
        job = delivery.message.job
        count = self._crashes.pop(job, 0) + 1
        delay_s = CRASH_DELAY_S
        if count >= MAX_CRASHES:
            said = f"{account_of(error)}; the log of {self._agent_id} says more"
            message = f"the agent failed {count} times at this job: {said}"
            try:
                offer = await self._claims.look(delivery, fresh=False)
                await self._claims.refuse(offer, Reason.ENGINE_ERROR, message)
                return
            except BrokerError:
                raise
            except Exception:  # not even that: its record can't be read, or says something impossible
                log = _log.bind(job=str(job))
                log.exception("a job that can't be set aside")
                delay_s = HOPELESS_DELAY_S
        if len(self._crashes) < CRASHES_KEPT:
            self._crashes[job] = count
        await self._broker.work.nak(delivery.reply, delay_s=delay_s)

    async def _decide(self, offer: Offer) -> Answer:
        if offer.decision.verdict not in (Verdict.CLAIM, Verdict.TAKE_OVER):
            return self._claims.answer(offer)
        try:
            spec = read_job(offer.delivery.message, self._queue())
        except SpecError as error:
            return self._claims.refuse(offer, Reason.INVALID_SPEC, error.message)
        waited_s = (self._clock.now() - offer.delivery.message.published_at).total_seconds()
        if spec.expire_after is not None and waited_s > spec.expire_after and not offer.started_before:
            message = f"waited {show_duration(waited_s)}, expire_after is {show_duration(spec.expire_after)}"
            return self._claims.refuse(offer, Reason.EXPIRED, message, spec)
        if denied := denials(spec, self._policy, self._queue()):
            return self._claims.refuse(offer, Reason.POLICY_DENIED, account(denied), spec)
        amount = spec.resources.amount()
        decision = await self._fit(offer, spec, amount)
        match decision.fit:
            case Fit.RUN:
                return self._claim(offer, spec, amount)
            case Fit.NEVER:
                return self._claims.refuse(offer, Reason.UNSCHEDULABLE, decision.why, spec)
            case Fit.PASS_ON | Fit.HOLD:
                return self._pass_on(offer, decision)

    async def _pass_on(self, offer: Offer, decision: FitDecision) -> None:
        self._passed_on = True
        await self._broker.work.nak(offer.delivery.reply, delay_s=decision.delay_s)
        job = str(offer.delivery.message.job)
        _log.info("passed on", job=job, why=decision.why, delay_s=decision.delay_s)

    def _claim(self, offer: Offer, spec: JobSpec, amount: Amount) -> Answer:
        """Keep the room at once; the claim itself is still to be made."""
        job = offer.delivery.message.job
        earlier = self._holds.get(job)
        if earlier is not None and self._holds.ledger.find(job) is not None:
            # This agent was taken for lost, its job was tried elsewhere, and comes back before that has been noticed.
            earlier.ask_to_stop(StopCause.FENCED)
            return self._broker.work.nak(offer.delivery.reply, delay_s=RECHECK_S)
        holding = self._holds.reserve(job, amount)
        if spec.pull is not Pull.ALWAYS:
            self._expect(spec.image)
        return self._make_mine(offer, spec, holding)

    async def _make_mine(self, offer: Offer, spec: JobSpec, holding: Holding) -> None:
        job = offer.delivery.message.job
        try:
            hold = await self._claims.claim(offer, spec)
        except BaseException:
            self._holds.unreserve(job, holding)
            raise
        if hold is None:
            self._holds.unreserve(job, holding)
        else:
            self._start(hold)

    async def _fit(self, offer: Offer, spec: JobSpec, amount: Amount) -> FitDecision:
        """Whether it fits; waits, within bounds, if it only does not fit now."""
        job = offer.delivery.message.job
        loop = asyncio.get_running_loop()
        since = loop.time()
        waited_s = (self._clock.now() - offer.delivery.message.published_at).total_seconds()
        try:
            while True:
                others = await self._others() if not amount.fits_in(self._holds.ledger.free) else []
                self._room.clear()
                decision = decide_fit(
                    amount,
                    free=self._holds.ledger.free,
                    capacity=self._holds.ledger.capacity,
                    others=others,
                    held_for_s=loop.time() - since,
                    hold_s=self._hold_s,
                    waited_s=waited_s,
                    more_may_come=self._more_may_come(waited_s),
                )
                if decision.fit is not Fit.HOLD:
                    return decision
                self._holds.keep_back(job, offer.delivery.reply, spec)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RECHECK_S):
                        await self._room.wait()
        finally:
            self._holds.let_go(job)

    def _more_may_come(self, waited_s: float) -> bool:
        """Whether a worker could appear that is larger than those present."""
        match self._queue().provider.type:
            case "local":
                return False
            case "static":
                return waited_s < STATIC_PATIENCE_S
            case "aws":
                return True

    async def _others(self) -> list[AgentPresence]:
        present = await self._broker.agents.list(self._queue().queue_name)
        return [agent for agent in present if agent.agent_id != self._agent_id]
