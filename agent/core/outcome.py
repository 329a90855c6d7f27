"""What an attempt came to: from the engine's words to an event, a reason, and a sentence for people.

Pure. The reason decides the retry (`launch.core.retry`), so the one question answered here is whose doing it was:
the job's, its configuration's, or the infrastructure's. When that can't be told, it is the infrastructure's: a job is
better run once more than failed for what it did not do.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from agent.core.refusals import REFUSALS, Refusal
from agent.ports import Container, EngineError
from launch.core.quantity import show_duration, show_memory
from launch.core.states import Event, Reason
from launch.errors import LaunchError
from launch.files import StoredArtifacts
from launch.job import JobSpec

NOT_EXECUTABLE, NOT_FOUND, KILLED, TERMINATED = 126, 127, 137, 143
SIGNALLED = 128
"""An exit code above this one is a signal's number plus this."""

SHOWN_OUTPUT = 200
"""How much of the last line of output a message quotes."""

_INIT_FAILED = re.compile(rb"\[FATAL tini \(\d+\)\] (exec .* failed: [^\r\n]*)")


class StopCause(StrEnum):
    """Why the agent asked a container to stop."""

    TIMED_OUT = "timed_out"
    """The attempt ran as long as its spec allows."""
    CANCELLED = "cancelled"
    """Somebody asked for that."""
    PREEMPTED = "preempted"
    """The machine is being taken away."""
    DRAINED = "drained"
    """The agent is stopping, and the time it grants running jobs is over."""
    OUT_OF_CONTACT = "out_of_contact"
    """The broker has been out of reach for so long that another agent may take the job over."""
    FENCED = "fenced"
    """A later attempt owns the job; what this one came to is discarded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    `event` is `SUCCEED`, `CANCEL`, or `FAIL`; whether a `FAIL` is final or followed by another attempt is for
    `decide_retry` to say, from `reason`, which is None for a success only. `crashed`: it was the agent's own code.
    """

    event: Event
    reason: Reason | None
    message: str
    exit_code: int | None
    crashed: bool = False
    artifacts: StoredArtifacts | None = None
    """What the attempt left behind, if it left something."""


class Unready(LaunchError):
    """An attempt can't be started: what it needs is not there, or not to be had now; `reason` says whose fault."""

    def __init__(self, reason: Reason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class Fault(NamedTuple):
    """Why the engine would not do something, and what to do about it."""

    reason: Reason
    message: str
    network: bool = False
    """Whether the network is to blame, so that it may go better in a moment."""
    full: bool = False
    """Whether there was no room on the disk, so that it may go better once there is."""


def outcome_of_exit(
    container: Container,
    *,
    stop: StopCause | None,
    spec: JobSpec,
    tail: bytes,
    stop_sent_at: datetime | None = None,
) -> Outcome:
    """What a container that no longer runs came to.

    `stop` is why it was sent a signal, None if it was not. A stop wins over the exit code, 0 included: a training
    that saves a checkpoint on SIGTERM and exits with 0 has not done its work. A container that had already finished
    when the signal was sent (`stop_sent_at`, by this machine's clock) counts as if it had not been sent.

    `tail` is the end of its output: it tells a command that the container's init could not execute (exit code
    127 or 126, like a shell's own failure) from a job that ran.
    """
    code = container.exit_code
    if stop is not None and not _finished_before(container, stop_sent_at):
        return outcome_of_stop(stop, code, spec)
    if container.state == "created":
        return _never_started(container)
    if container.state != "exited":
        message = f"the engine says that the container is {container.state}{_account(container)}"
        return Outcome(Event.FAIL, Reason.ENGINE_ERROR, message, None)
    if code == 0:
        return Outcome(Event.SUCCEED, None, "exited with code 0", 0)
    if container.oom_killed and code == KILLED:
        return Outcome(Event.FAIL, Reason.OOM_KILLED, f"out of memory: {_limit(spec)}; raise resources.memory", code)
    if code in (KILLED, TERMINATED):
        name = signal.Signals(code - SIGNALLED).name
        message = (
            f"ended by {name} (exit code {code}), which the agent did not send: "
            f"the engine or the machine was stopped, or ran out of memory{_account(container)}"
        )
        return Outcome(Event.FAIL, Reason.ENGINE_ERROR, message, code)
    failed = _INIT_FAILED.search(tail) if code in (NOT_FOUND, NOT_EXECUTABLE) or b"xec format error" in tail else None
    if failed is not None:
        said = failed[1].decode(errors="replace")
        return Outcome(Event.FAIL, Reason.COMMAND_NOT_FOUND, f"{said}; check command, entrypoint and image", code)
    return Outcome(Event.FAIL, Reason.EXIT_NONZERO, _exited(container, spec, tail), code)


def reason_of_engine_error(error: EngineError) -> Fault:
    """Why a pull, create, start or another call failed, for people, with the engine's own words at the end."""
    refusal = next((row for row in REFUSALS if _matches(row, error)), None)
    if refusal is None:
        return Fault(Reason.ENGINE_ERROR, f"the engine could not {error.step}: {error.reply}")
    return Fault(refusal.reason, f"{refusal.advice}: {error.reply}", refusal.network, refusal.full)


def _matches(row: Refusal, error: EngineError) -> bool:
    said = error.reply.lower()
    return (
        (not row.steps or error.step in row.steps)
        and (not row.statuses or error.status in row.statuses)
        and (not row.phrases or any(phrase in said for phrase in row.phrases))
    )


def _finished_before(container: Container, moment: datetime | None) -> bool:
    """Whether it had ended by itself before `moment`; False when that can't be told."""
    if moment is None or container.finished_at is None or container.state != "exited":
        return False
    return datetime.fromisoformat(container.finished_at) < moment


def outcome_of_stop(stop: StopCause, code: int | None, spec: JobSpec) -> Outcome:
    """The outcome of an attempt that was told to stop; `code` is None if its container never ran."""
    match stop:
        case StopCause.CANCELLED:
            return Outcome(Event.CANCEL, Reason.CANCELLED, "cancelled while it ran", code)
        case StopCause.TIMED_OUT:
            limit = f" of {show_duration(spec.timeout)}" if spec.timeout is not None else ""
            return Outcome(Event.FAIL, Reason.TIMED_OUT, f"stopped at its timeout{limit}", code)
        case StopCause.PREEMPTED:
            return Outcome(Event.FAIL, Reason.PREEMPTED, "its machine was taken away", code)
        case StopCause.DRAINED:
            return Outcome(Event.FAIL, Reason.PREEMPTED, "its agent stopped before the job had ended", code)
        case StopCause.OUT_OF_CONTACT:
            message = "stopped because its agent was out of contact with the broker (on_lost_contact: stop)"
            return Outcome(Event.FAIL, Reason.AGENT_LOST, message, code)
        case StopCause.FENCED:
            return Outcome(Event.FAIL, Reason.AGENT_LOST, "a later attempt had taken over", code)


def _never_started(container: Container) -> Outcome:
    """The outcome of a container that the engine could not start."""
    account = container.error or "the engine gave no account"
    if container.exit_code in (NOT_FOUND, NOT_EXECUTABLE):
        message = f"the command could not be executed; check command, entrypoint and image: {account}"
        return Outcome(Event.FAIL, Reason.COMMAND_NOT_FOUND, message, container.exit_code)
    if container.error:
        fault = reason_of_engine_error(EngineError("start", 500, container.error))
        return Outcome(Event.FAIL, fault.reason, fault.message, None)
    return Outcome(Event.FAIL, Reason.ENGINE_ERROR, f"the container was never started: {account}", None)


def _exited(container: Container, spec: JobSpec, tail: bytes) -> str:
    """The sentence for a job that failed by itself."""
    code = container.exit_code
    message = f"exited with code {code}"
    if code - SIGNALLED in set(signal.Signals):
        message += f" ({signal.Signals(code - SIGNALLED).name})"
    elif code == NOT_FOUND:
        message += ", which a shell gives for a command that it can't find"
    elif code == NOT_EXECUTABLE:
        message += ", which a shell gives for a file that it can't execute"
    if container.oom_killed:
        message += f"; one of its processes was killed for memory ({_limit(spec)})"
    last = _last_line(tail)
    return f"{message}; last output: {last}" if last else message


def _last_line(tail: bytes) -> str:
    """The last line that says something, cut to a length that fits a table."""
    for line in reversed(tail.decode(errors="replace").splitlines()):
        text = "".join(c if c.isprintable() else " " for c in line).strip()
        if text:
            return text if len(text) <= SHOWN_OUTPUT else text[: SHOWN_OUTPUT - 3] + "..."
    return ""


def _limit(spec: JobSpec) -> str:
    memory = spec.resources.memory
    return (
        f"its limit is {show_memory(memory)}"
        if memory is not None
        else "it has no limit, so the machine itself was full"
    )


def _account(container: Container) -> str:
    return f": {container.error}" if container.error else ""
