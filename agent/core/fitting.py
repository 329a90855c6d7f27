"""A job that was handed to this worker and what it asks for: run it, keep it until there is room, or pass it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from launch.core.capacity import Amount
from launch.presence import AgentPresence, AgentState

PASS_DELAY_S = 1.0
"""After passing a job on to somebody who has room."""
LATER_DELAY_S = 10.0
"""After giving up waiting for room, and while nobody present could ever run it: at least this."""
HOLD_SHARE = 0.25
"""A job that has waited long is kept back for up to this share of its age: it is not starved by smaller ones. Between
two such times the smaller ones get as long as it was kept back, so it does not block a worker for ever either."""


class Fit(StrEnum):
    """What to do with a job, given its size."""

    RUN = "run"
    HOLD = "hold"
    """Keep it, take no other work, and look again when something changes."""
    PASS_ON = "pass_on"  # noqa: S105  (a verdict, not a password)
    """Give it back for somebody else, after `delay_s`."""
    NEVER = "never"
    """Nobody here can ever run it."""


@dataclass(frozen=True, slots=True)
class FitDecision:
    """What to do, with the numbers that led to it."""

    fit: Fit
    why: str
    delay_s: float = 0.0


def decide_fit(
    amount: Amount,
    *,
    free: Amount,
    capacity: Amount,
    others: Sequence[AgentPresence],
    held_for_s: float,
    hold_s: float,
    waited_s: float,
    more_may_come: bool,
) -> FitDecision:
    """Decide about a job of size `amount`.

    `others` are the other agents present in this queue, `held_for_s` for how long it has been kept back already,
    `hold_s` the least bound of that, `waited_s` its age since the submit, `more_may_come` whether a larger machine
    could still appear.
    """
    if amount.fits_in(free):
        return FitDecision(Fit.RUN, "it fits")
    ready = [other for other in others if other.state is AgentState.READY]
    roomy = next((other for other in ready if amount.fits_in(other.free)), None)
    if roomy is not None:
        return FitDecision(Fit.PASS_ON, f"{roomy.agent_id} has room", PASS_DELAY_S)
    if amount.fits_in(capacity):
        if held_for_s < max(hold_s, HOLD_SHARE * waited_s):
            return FitDecision(Fit.HOLD, f"no room now: {amount.shortfall(free)} free")
        return FitDecision(
            Fit.PASS_ON, f"no room came free: {amount.shortfall(free)} free", max(LATER_DELAY_S, held_for_s)
        )
    larger = next((other for other in ready if amount.fits_in(other.capacity)), None)
    if larger is not None:
        return FitDecision(Fit.PASS_ON, f"too large here, {larger.agent_id} could run it", LATER_DELAY_S)
    why = f"it asks for more than any worker has: {amount.shortfall(capacity)}"
    if more_may_come:
        return FitDecision(Fit.PASS_ON, why, LATER_DELAY_S)
    return FitDecision(Fit.NEVER, why)
