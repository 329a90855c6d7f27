"""The record side of a job's life: claim it, move it, end it, in the order that survives a crash at any point.

Invariant: a record is written before the message is answered, and every write is a compare-and-set that only the owner
of the current attempt wins. What is said to the broker is said until it is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Any

import structlog

from agent.core.claim import ClaimDecision, Leftover, Verdict, decide_claim, decide_leftover
from agent.core.outcome import Outcome
from agent.holds import Hold, Holds
from agent.persist import until_heard
from launch.core.retry import RetryDecision, decide_retry
from launch.core.states import Event, Reason
from launch.errors import BrokerError, BrokerUnavailable, Conflict
from launch.job import JobSpec
from launch.ports import Broker, Clock, Delivery, Versioned
from launch.record import JobRecord
from launch.subjects import RAW_KEPT_BYTES, JobId

MESSAGE_KEPT = 64 * 1024
"""A body can be wrong in as many ways as it has keys; a record must fit the broker's largest message."""

SIGHTINGS_KEPT = 1000

_log = structlog.get_logger(__name__)


class Fenced(Exception):
    """The record belongs to a later attempt: whatever this one came to is discarded."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A delivery with what its record said, ready to be claimed."""

    delivery: Delivery
    known: Versioned[JobRecord] | None
    decision: ClaimDecision

    @property
    def started_before(self) -> bool:
        """Whether the job has had an attempt."""
        return self.known is not None and self.known.value.attempt > 0


class Claims:
    """Reads and writes records for one agent."""

    def __init__(self, broker: Broker, clock: Clock, holds: Holds, *, agent_id: str, lease_s: float) -> None:
        self._broker = broker
        self._clock = clock
        self._holds = holds
        self._agent_id = agent_id
        self._lease_s = lease_s
        self._sightings: dict[JobId, tuple[int, float]] = {}
        """Revisions of others' records, and since when I have seen them; the one looked at last is at the end."""

    # -- before the claim ---------------------------------------------------------------------------------------

    async def look(self, delivery: Delivery, *, fresh: bool) -> Offer:
        """What the record says about a delivery. `fresh`: it has never been delivered before, so none is expected."""
        job = delivery.message.job
        known = None if fresh else await self._broker.records.get(job)
        record = known.value if known else None
        owner = None
        if record is not None and record.agent is not None and record.agent != self._agent_id:
            owner = await self._broker.agents.get(record.agent)
        now = self._clock.now()
        since = self._broker.connected_since
        decision = decide_claim(
            record,
            me=self._agent_id,
            running_here=self._holds.get(job) is not None,
            owner=owner,
            connected_for_s=(now - since).total_seconds() if since else 0.0,
            lease_s=self._lease_s,
            unchanged_for_s=self._unchanged_for_s(known) if known is not None and owner is not None else 0.0,
        )
        return Offer(delivery, known, decision)

    def _unchanged_for_s(self, known: Versioned[JobRecord]) -> float:
        """For how long I have seen the record at this revision: 0 the first time."""
        now_s = asyncio.get_running_loop().time()
        job = known.value.id
        revision, since_s = self._sightings.pop(job, (0, 0.0))
        if revision != known.revision:
            since_s = now_s
        self._sightings[job] = known.revision, since_s
        if len(self._sightings) > SIGHTINGS_KEPT:
            del self._sightings[next(iter(self._sightings))]
        return now_s - since_s

    async def answer(self, offer: Offer) -> None:
        """Carry out a verdict that does not lead to a claim."""
        delivery, decision = offer.delivery, offer.decision
        job = delivery.message.job
        log = _log.bind(job=str(job), why=decision.why)
        match decision.verdict:
            case Verdict.KEEP:
                hold = self._holds.get(job)
                if hold is not None:
                    hold.reply = delivery.reply
                log.info("kept running")
            case Verdict.LEAVE:
                log.info("left to its owner")
            case Verdict.ACK:
                await until_heard("ack", lambda: self._broker.work.ack(delivery.reply))
                log.info("late duplicate acked")
            case Verdict.WAIT:
                await self._broker.work.nak(delivery.reply, delay_s=decision.delay_s)
                log.info("given back", delay_s=round(decision.delay_s, 1))
            case Verdict.CANCEL if offer.known is not None:
                before = "another attempt" if offer.known.value.attempt else "it ran"
                record = offer.known.value.moved(
                    Event.CANCEL,
                    self._clock.now(),
                    reason=Reason.CANCELLED,
                    message=f"cancelled before {before}",
                    finished_at=self._clock.now(),
                )
                await self._broker.records.update(record, offer.known.revision)
                await until_heard("ack", lambda: self._broker.work.ack(delivery.reply))
                log.info("cancelled")
            case _:
                raise AssertionError(f"{decision.verdict} is not an answer")

    async def refuse(self, offer: Offer, reason: Reason, message: str, spec: JobSpec | None = None) -> None:
        """End a job that can never run: record it as failed, keep what was sent, take the message out."""
        delivery = offer.delivery
        now = self._clock.now()
        base = offer.known.value if offer.known else self._first_record(delivery)
        body = delivery.message.body
        if len(message) > MESSAGE_KEPT:
            message = f"{message[:MESSAGE_KEPT]}… and {len(message) - MESSAGE_KEPT} more characters"
        kept = body[:RAW_KEPT_BYTES].decode("utf-8", errors="backslashreplace")
        changes: dict[str, Any] = {"reason": reason, "message": message, "finished_at": now, "spec": spec}
        if reason is Reason.INVALID_SPEC:
            changes |= {"raw": kept, "raw_bytes": len(body)}
        record = base.moved(Event.FAIL, now, **changes)
        if offer.known:
            await self._broker.records.update(record, offer.known.revision)
        else:
            await self._broker.records.create(record)
        await until_heard("term", lambda: self._broker.work.term(delivery.reply, why=reason))
        _log.info("refused", job=str(record.id), reason=str(reason), message=message)

    # -- the claim ----------------------------------------------------------------------------------------------

    async def claim(self, offer: Offer, spec: JobSpec) -> Hold | None:
        """Make the job mine; its resources are reserved already. Raises `Conflict` if somebody else was faster.

        None if it was lost to the infrastructure too often: it has been recorded as failed.
        """
        delivery = offer.delivery
        job = delivery.message.job
        now = self._clock.now()
        base = offer.known.value if offer.known else self._first_record(delivery)
        event = Event.TAKE_OVER if offer.decision.verdict is Verdict.TAKE_OVER else Event.CLAIM
        changes: dict[str, Any] = {}
        if event is Event.TAKE_OVER:
            retry = self._retry(base, Reason.AGENT_LOST)
            if not retry.retry:
                message = f"{offer.decision.why}; {retry.why}"
                lost = base.moved(
                    Event.FAIL, now, reason=Reason.AGENT_LOST, message=message, finished_at=now
                ).model_copy(update={"interruptions": retry.interruptions})
                await self._broker.records.update(lost, offer.known.revision if offer.known else 0)
                await until_heard("ack", lambda: self._broker.work.ack(delivery.reply))
                return None
            changes = {"interruptions": retry.interruptions, "reason": Reason.AGENT_LOST, "message": offer.decision.why}
        holding = self._holds.ledger.held_by(job)
        record = base.moved(
            event,
            now,
            **{"reason": None, "message": None, **changes},
            attempt=base.attempt + 1,
            agent=self._agent_id,
            container=None,
            exit_code=None,
            image=spec.image,
            digest=None,
            held=holding.amount,
            gpus=holding.gpus,
            claimed_at=now,
            started_at=None,
            finished_at=None,
            spec=spec,
        )
        if offer.known:
            revision = await self._broker.records.update(record, offer.known.revision)
        else:
            revision = await self._broker.records.create(record)
        hold = Hold(job, record, revision, spec, delivery.reply, holding)
        self._holds.add(hold)
        return hold

    async def adopt(self, job: JobId, attempt: int, submitted: str, reply: str) -> Hold | Leftover:
        """Take up what an earlier process of this agent left, if its attempt is still mine."""
        known = await until_heard("read the record", lambda: self._broker.records.get(job))
        record = known.value if known else None
        verdict = decide_leftover(record, me=self._agent_id, attempt=attempt, submitted=submitted)
        if verdict is Leftover.FINISH:
            await until_heard("ack", lambda: self._broker.work.ack(reply))
        if verdict is not Leftover.ADOPT or known is None or known.value.spec is None:
            return verdict
        held = known.value.held or known.value.spec.resources.amount()
        holding = self._holds.ledger.adopt(job, held, known.value.gpus)
        hold = Hold(job, known.value, known.revision, known.value.spec, reply, holding, recovered=True)
        self._holds.add(hold)
        return hold

    def _first_record(self, delivery: Delivery) -> JobRecord:
        message = delivery.message
        return JobRecord(
            queue=message.job.queue,
            seq=message.job.seq,
            job_type=message.consumer.job_type,
            priority=message.consumer.priority,
            submitted_at=message.published_at,
            updated_at=self._clock.now(),
        )

    async def tell_the_old_owner(self, hold: Hold) -> None:
        """If the job was taken over: have its old owner look at the record.

        It may be back by now, and have looked just before the record changed hands.
        """
        if hold.record.reason is Reason.AGENT_LOST:
            with contextlib.suppress(BrokerError):
                await self._broker.cancels.announce(hold.job)

    # -- after the claim ----------------------------------------------------------------------------------------

    async def move(self, hold: Hold, event: Event | None, **changes: Any) -> None:
        """Write a change of a job that I own (`event` None: news without a change of state). Raises `Fenced`."""
        tried: JobRecord | None = None

        async def write() -> None:
            nonlocal tried
            if tried is not None and _says(hold.record, tried):
                return  # an earlier try was stored, although its answer was lost
            if hold.record.state.terminal:
                raise Fenced(f"{hold.job} has ended")
            now = self._clock.now()
            if event is None:
                tried = hold.record.model_copy(update={**changes, "updated_at": now})
            else:
                tried = hold.record.moved(event, now, **changes)
            before = hold.revision
            try:
                revision = await self._broker.records.update(tried, before)
            except Conflict as conflict:
                await self.refresh(hold, ending=True)
                if hold.revision == before:
                    raise BrokerUnavailable(f"{conflict.message}; what can be read is older") from None
                await write()
            else:
                _advance(hold, tried, revision)

        await until_heard("record", write)

    async def refresh(self, hold: Hold, *, ending: bool = False) -> None:
        """Read the record again, taking in a cancel request. Raises `Fenced` if it is no longer mine.

        `ending`: I am writing its end myself, and may find it written.
        """
        known = await self._broker.records.get(hold.job)
        if known is not None and known.revision < hold.revision:
            return  # an answer from before my own last write
        if known is None or (known.value.agent, known.value.attempt) != (self._agent_id, hold.record.attempt):
            raise Fenced(f"{hold.job} attempt {hold.record.attempt}")
        if known.value.state.terminal and not ending:
            raise Fenced(f"{hold.job} has ended")
        _advance(hold, known.value, known.revision)

    async def settle(self, hold: Hold, outcome: Outcome) -> None:
        """Record how an attempt ended, then answer the message: confirmed ack, or nak with the retry's delay."""
        now = self._clock.now()
        changes: dict[str, Any] = {
            "reason": outcome.reason,
            "message": outcome.message,
            "exit_code": outcome.exit_code,
            "finished_at": now,
        }
        if outcome.artifacts is not None:
            changes["artifacts"] = outcome.artifacts
        if outcome.event is not Event.FAIL or outcome.reason is None:
            await self._finish(hold, outcome.event, changes)
            return
        crashes = hold.record.crashes + outcome.crashed
        retry = self._retry(hold.record, outcome.reason, crashes)
        if retry.retry and hold.record.cancel is None:
            # A cancel wins over a retry, even if its announcement was lost.
            await until_heard("read the record", lambda: self.refresh(hold))
        changes |= {"failures": retry.failures, "interruptions": retry.interruptions, "crashes": crashes}
        if retry.retry and hold.record.cancel is not None:
            changes |= {"reason": Reason.CANCELLED, "message": f"cancelled; the last attempt: {outcome.message}"}
            await self._finish(hold, Event.CANCEL, changes)
            return
        if retry.retry:
            changes["message"] = f"{outcome.message}; {retry.why}"
            await self.move(hold, Event.REQUEUE, **changes)
            await until_heard("nak", lambda: self._broker.work.nak(hold.reply, delay_s=retry.delay_s))
            return
        if (hold.record.spec is not None and hold.record.spec.retries) or outcome.crashed:
            changes["message"] = f"{outcome.message}; {retry.why}"
        await self._finish(hold, Event.FAIL, changes)

    async def _finish(self, hold: Hold, event: Event, changes: dict[str, Any]) -> None:
        await self.move(hold, event, **changes)
        await until_heard("ack", lambda: self._broker.work.ack(hold.reply))

    def _retry(self, record: JobRecord, reason: Reason, crashes: int = 0) -> RetryDecision:
        return decide_retry(
            reason=reason,
            retries=record.spec.retries if record.spec else 0,
            failures=record.failures,
            interruptions=record.interruptions,
            crashes=crashes,
            jitter=random.random(),  # noqa: S311  (spreads retries; nothing depends on its secrecy)
        )


def _says(record: JobRecord, wanted: JobRecord) -> bool:
    """Whether a record that was read says what was to be written, but for what others may add."""
    return record.model_copy(update={"updated_at": wanted.updated_at, "cancel": wanted.cancel}) == wanted


def _advance(hold: Hold, record: JobRecord, revision: int) -> None:
    """Take in a newer value of the record; answers may come in another order than they were asked for."""
    if revision > hold.revision:
        hold.record, hold.revision = record, revision
