"""Every error that this project raises on purpose.

Owns one hierarchy under `LaunchError`. An error carries data: what happened, on which job or queue, and what to do
next (`hint`). Adapters translate vendor errors into these once, at the edge, so nothing above an adapter ever catches
a vendor's exception, and the CLI can print any of them as one clear line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LaunchError(Exception):
    """Base of all deliberate errors: `message` says what happened, `hint` what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a spec.

    `where` is the dotted key (`resources.memory`), `found` what stood there, `allowed` what may stand there,
    `nearest` the known key that an unknown one resembles most, if any.
    """

    where: str
    found: str
    allowed: str
    nearest: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}; {self.allowed}" if self.where else f"{self.found}; {self.allowed}"
        return f"{text}; did you mean '{self.nearest}'?" if self.nearest else text


class SpecError(LaunchError):
    """A job or queue spec that can't be accepted; `source` is the file (or subject) it came from."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [f"{source}: {problem}" for problem in self.problems]
        super().__init__("\n".join(lines))


class NotFound(LaunchError):
    """The named job, queue, agent or stream does not exist."""


class Conflict(LaunchError):
    """A compare-and-set lost: somebody else changed the record first. Read again and decide anew."""


class Unreadable(LaunchError):
    """A stored entry is not what it should be: some other program wrote it. To try again does not help."""


class QueueFull(LaunchError):
    """The queue's stream is at its size limit and refused the job; nothing was stored."""


class OtherBatch(LaunchError):
    """Under this message id another batch was stored before: other jobs, or more or fewer. Nothing was stored now."""


class ForgottenBatch(LaunchError):
    """Under this message id a batch was stored, and the broker forgot which while asked. Nothing was stored now."""


class BrokerError(LaunchError):
    """NATS answered with an error that no more specific class describes."""


class BrokerUnavailable(BrokerError):
    """NATS can't be reached, or did not answer in time. The operation may or may not have taken effect."""


class LoginRefused(BrokerUnavailable):
    """NATS does not let us in with this login, or hung up while we logged in."""


class BrokerUnsuitable(BrokerError):
    """The server is too old, or JetStream is off: nothing here can work with it."""


class NotPermitted(BrokerError):
    """The user that this connection logged in as may not do this. To try again does not help."""


class StoreError(LaunchError):
    """A file store refused, or what it holds is damaged. To try again does not help."""


class StoreUnavailable(StoreError):
    """A file store can't be reached, did not answer in time, or the file was replaced while it was read.

    To try again may help; the operation may or may not have taken effect.
    """


class StoreClosed(StoreError):
    """A file store takes no file at all from us: it is full, access is denied, or it is not there."""


class ServerError(LaunchError):
    """The embedded nats-server could not be started or ended."""
