"""Whether a failed attempt is tried again, and when: decided by cause, in this file only.

The job's own faults spend its `retries`; configuration faults fail at once, since the next attempt would meet the same
configuration; infrastructure faults are retried with backoff without spending `retries`, up to `MAX_INTERRUPTIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.core.states import CAUSES, Cause, Reason

MAX_INTERRUPTIONS = 10
"""After so many infrastructure faults a job fails: something about it, or about the fleet, needs a person."""

MAX_CRASHES = 3
"""A job at which the agent's own code has failed so often is set aside: it would fail there for ever."""

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 300.0


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What becomes of a job after an attempt that failed.

    `failures` and `interruptions` are the counts to write to the record; `delay_s` says how long to wait if `retry`.
    """

    retry: bool
    delay_s: float
    failures: int
    interruptions: int
    why: str


def decide_retry(
    *, reason: Reason, retries: int, failures: int, interruptions: int, jitter: float, crashes: int = 0
) -> RetryDecision:
    """Decide after one failed attempt.

    `retries` is what the spec allows, `failures` and `interruptions` what earlier attempts have used, `jitter` a
    random number in [0, 1) that the caller draws, `crashes` how often the agent's own code has failed at this job.
    """
    if reason is Reason.CANCELLED:
        return RetryDecision(False, 0.0, failures, interruptions, "it was cancelled")
    cause = CAUSES[reason]
    if cause is Cause.CONFIGURATION:
        return RetryDecision(False, 0.0, failures, interruptions, "the configuration would fail again")
    if cause is Cause.INFRASTRUCTURE:
        interruptions += 1
        if crashes >= MAX_CRASHES:
            return RetryDecision(False, 0.0, failures, interruptions, f"set aside after {crashes} such failures")
        if interruptions > MAX_INTERRUPTIONS:
            why = f"interrupted {interruptions} times by the infrastructure, the limit is {MAX_INTERRUPTIONS}"
            return RetryDecision(False, 0.0, failures, interruptions, why)
        delay_s = 0.0 if reason is Reason.PREEMPTED else _backoff(interruptions, jitter)
        return RetryDecision(True, delay_s, failures, interruptions, "not the job's fault: tried again")
    failures += 1
    if failures > retries:
        why = f"failed {failures} times, retries: {retries}" if retries else "it has no retries"
        return RetryDecision(False, 0.0, failures, interruptions, why)
    return RetryDecision(True, _backoff(failures, jitter), failures, interruptions, f"retry {failures} of {retries}")


def _backoff(count: int, jitter: float) -> float:
    """Doubling from `FIRST_DELAY_S` to `MAX_DELAY_S`, then spread over the upper half of that."""
    delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count - 1, 30))
    return delay_s * (0.5 + jitter / 2)
