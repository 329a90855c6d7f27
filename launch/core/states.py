"""The life of a job: its states, the reasons for not succeeding, and which event leads where.

Owns the one transition table; `docs/state-machine.md` draws it, and a test holds the two together. A record changes its
state through `next_state` only, so an illegal move is an error at the place that tries it.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job is. A job that has no record yet is `queued`."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in TERMINAL_STATES


TERMINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Event(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    """An agent took it from the queue."""
    TAKE_OVER = "take_over"
    """Another agent took it because its owner is gone."""
    START = "start"
    """Its container runs."""
    SUCCEED = "succeed"
    """Its container exited with code 0."""
    FAIL = "fail"
    """It ended in another way, and there will be no further attempt."""
    REQUEUE = "requeue"
    """This attempt is over, and there will be another."""
    CANCEL = "cancel"
    """It was ended because somebody asked for that."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.CLAIM): State.PREPARING,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.PREPARING, Event.START): State.RUNNING,
    (State.PREPARING, Event.FAIL): State.FAILED,
    (State.PREPARING, Event.REQUEUE): State.QUEUED,
    (State.PREPARING, Event.CANCEL): State.CANCELLED,
    (State.PREPARING, Event.TAKE_OVER): State.PREPARING,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.REQUEUE): State.QUEUED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.TAKE_OVER): State.PREPARING,
}


class IllegalTransition(Exception):
    """A move that the table does not know: a defect in the caller, never a user's mistake."""


def next_state(state: State, event: Event) -> State:
    """Where `event` leads from `state`. Raises `IllegalTransition` if the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a {state} job can't {event}") from None


class Cause(StrEnum):
    """Whose fault it was; this decides whether and how a job is tried again."""

    JOB = "job"
    CONFIGURATION = "configuration"
    INFRASTRUCTURE = "infrastructure"


class Reason(StrEnum):
    """Why a job did not succeed (or is not running yet)."""

    EXIT_NONZERO = "exit_nonzero"
    OOM_KILLED = "oom_killed"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"
    IMAGE_NOT_FOUND = "image_not_found"
    IMAGE_UNAUTHORIZED = "image_unauthorized"
    IMAGE_PULL_FAILED = "image_pull_failed"
    COMMAND_NOT_FOUND = "command_not_found"
    INVALID_SPEC = "invalid_spec"
    POLICY_DENIED = "policy_denied"
    UNSCHEDULABLE = "unschedulable"
    AGENT_LOST = "agent_lost"
    PREEMPTED = "preempted"
    ENGINE_ERROR = "engine_error"
    CANCELLED = "cancelled"


CAUSES: dict[Reason, Cause] = {
    Reason.EXIT_NONZERO: Cause.JOB,
    Reason.OOM_KILLED: Cause.JOB,
    Reason.TIMED_OUT: Cause.JOB,
    Reason.EXPIRED: Cause.CONFIGURATION,
    Reason.IMAGE_NOT_FOUND: Cause.CONFIGURATION,
    Reason.IMAGE_UNAUTHORIZED: Cause.CONFIGURATION,
    Reason.IMAGE_PULL_FAILED: Cause.INFRASTRUCTURE,
    Reason.COMMAND_NOT_FOUND: Cause.CONFIGURATION,
    Reason.INVALID_SPEC: Cause.CONFIGURATION,
    Reason.POLICY_DENIED: Cause.CONFIGURATION,
    Reason.UNSCHEDULABLE: Cause.CONFIGURATION,
    Reason.AGENT_LOST: Cause.INFRASTRUCTURE,
    Reason.PREEMPTED: Cause.INFRASTRUCTURE,
    Reason.ENGINE_ERROR: Cause.INFRASTRUCTURE,
    Reason.CANCELLED: Cause.JOB,
}
