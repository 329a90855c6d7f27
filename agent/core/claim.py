"""A delivery and the job's record: what to do.

A redelivery proves nothing about the owner (a change of the consumer's leader redelivers everything at once), so the
record and the owner's presence decide, never the fact of being handed the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from launch.core.states import State
from launch.presence import AgentPresence
from launch.record import JobRecord


class Verdict(StrEnum):
    """What to do with a delivery."""

    CLAIM = "claim"
    """It is free: make it mine."""
    TAKE_OVER = "take_over"
    """Its owner is gone: make it mine as another attempt."""
    KEEP = "keep"
    """I run it already: go on, and answer to the newer delivery."""
    LEAVE = "leave"
    """Its owner is alive and holds it: let the message lie, the owner's progress extends it."""
    ACK = "ack"
    """It has ended: this is a late duplicate."""
    CANCEL = "cancel"
    """Somebody asked to cancel it before it was claimed: record that, and ack."""
    WAIT = "wait"
    """It can't be told yet: give it back and look again after `delay_s`."""


@dataclass(frozen=True, slots=True)
class ClaimDecision:
    """The verdict, in how many seconds to look again (for `WAIT`), and why."""

    verdict: Verdict
    why: str
    delay_s: float = 0.0


def decide_claim(
    record: JobRecord | None,
    *,
    me: str,
    running_here: bool,
    owner: AgentPresence | None,
    connected_for_s: float,
    lease_s: float,
    unchanged_for_s: float,
) -> ClaimDecision:
    """Decide about one delivery.

    `owner` is the presence of `record.agent` (None: absent), `connected_for_s` how long my connection has stood
    without a break, `lease_s` how long a presence outlives its agent, `unchanged_for_s` for how long I have seen the
    record as it is now. The record's own times are another machine's: they decide nothing.
    """
    if record is not None and record.state.terminal:
        return ClaimDecision(Verdict.ACK, f"it is {record.state} already")
    if record is None or record.state is State.QUEUED:
        if record is not None and record.cancel is not None:
            return ClaimDecision(Verdict.CANCEL, "it was cancelled while queued")
        return ClaimDecision(Verdict.CLAIM, "it is queued")
    if record.agent == me:
        if running_here:
            return ClaimDecision(Verdict.KEEP, "I run it")
        return _gone(record, "I was restarted and no longer have it")
    if owner is not None:
        if str(record.id) in owner.holds:
            return ClaimDecision(Verdict.LEAVE, f"{record.agent} holds it")
        if unchanged_for_s < lease_s:
            # A claim is written before the presence lists it: a fresh one may only look abandoned.
            return ClaimDecision(Verdict.WAIT, f"{record.agent} may be about to list it", lease_s - unchanged_for_s)
        return _gone(record, f"{record.agent} is present but does not hold it")
    if connected_for_s < lease_s:
        # After a broker restart everyone looks absent for a moment.
        return ClaimDecision(Verdict.WAIT, f"{record.agent} may only have blinked", lease_s - connected_for_s)
    return _gone(record, f"{record.agent} is gone")


def _gone(record: JobRecord, why: str) -> ClaimDecision:
    if record.cancel is not None:
        return ClaimDecision(Verdict.CANCEL, f"{why}, and it was cancelled")
    return ClaimDecision(Verdict.TAKE_OVER, why)


class Leftover(StrEnum):
    """What to do with a container that an earlier process of this agent left."""

    ADOPT = "adopt"
    """Its attempt is still mine: see it through, whether it runs or has exited."""
    FINISH = "finish"
    """Its outcome is recorded already: ack the message and remove it."""
    DISCARD = "discard"
    """Its attempt is over or somebody else's, or the job is unknown: end and remove it, say nothing of it."""


def decide_leftover(record: JobRecord | None, *, me: str, attempt: int, submitted: str) -> Leftover:
    """Decide about a container that carries my label, an attempt, and the time of its job's submission.

    The time tells a job from one of the same id in a queue that was deleted and made again.
    """
    if record is None or record.submitted_at.isoformat() != submitted:
        return Leftover.DISCARD
    if record.agent != me or record.attempt != attempt or record.state is State.QUEUED:
        return Leftover.DISCARD
    return Leftover.FINISH if record.state.terminal else Leftover.ADOPT
