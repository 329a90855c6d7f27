"""What can go wrong with EC2, when, and what happened: the settings and the memory of `tests.support.aws_proxy`.

Everything by chance is drawn from the seed, the kind of fault, the call's name and how many of those there were: the
same calls in the same order meet the same faults.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong. Chances are from 0 to 1 and drawn for each call; times are in seconds."""

    seed: int = 0
    throttled: float = 0.0
    """Of any EC2 call: `RequestLimitExceeded`."""
    no_capacity: float = 0.0
    """Of a launch: `InsufficientInstanceCapacity`."""
    partial: float = 0.0
    """Of a launch of several: fewer come, at least `MinCount`."""
    unauthorized: float = 0.0
    """Of a launch: `UnauthorizedOperation`."""
    quota: float = 0.0
    """Of a launch: `VcpuLimitExceeded`."""
    lost_request: float = 0.0
    """Of a launch or termination: the connection ends, nothing has happened."""
    lost_reply: float = 0.0
    """Of a launch or termination: the connection ends, and it has happened."""
    invisible_s: float = 0.0
    """New instances are unknown to all other calls for up to this long."""
    pending_s: float = 0.0
    """New instances are `pending` for up to this long."""
    shutting_s: float = 0.0
    """Ended instances are `shutting-down` for up to this long."""
    delay_s: float = 0.0
    """Every EC2 call takes up to this much longer."""

    def chosen(self, kind: str, share: float, key: str) -> bool:
        """Whether this kind of fault, of this chance, strikes the call named by `key`."""
        return share > 0 and self.draw(kind, key) < share

    def draw(self, kind: str, key: str) -> float:
        """A number from 0 to 1, the same for the same arguments and seed."""
        return random.Random(f"{self.seed}/{kind}/{key}").random()  # noqa: S311 - repeats, hides nothing


@dataclass(frozen=True, slots=True)
class Pool:
    """Instances that can be had or not together; None stands for any."""

    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None

    def holds(self, other: Pool) -> bool:
        """Whether `other`, of which everything is known, is one of these."""
        pairs = (
            (self.instance_type, other.instance_type),
            (self.zone, other.zone),
            (self.market, other.market),
        )
        return all(mine is None or mine == theirs for mine, theirs in pairs)


@dataclass(slots=True)
class Spell:
    """A pool in which only `left` more can be had."""

    pool: Pool
    left: int = 0


@dataclass(slots=True)
class Refusal:
    """An error that calls of one name get, until it has been given `times` times (None: for ever)."""

    action: str
    status: int
    code: str
    message: str
    times: int | None


@dataclass(slots=True, eq=False)
class Ec2Instance:
    """One instance as AWS itself knows it: what truth the tests compare with. Times as of `time.time`."""

    id: str
    pool: Pool
    tags: dict[str, str]
    user_data: str
    token: str | None
    launched_at: float
    visible_at: float
    running_at: float
    region: str = ""
    ended_at: float | None = None
    """When it was asked to end, or was taken away."""
    gone_at: float | None = None
    """When it is `terminated`."""
    reason: tuple[str, str] = ("", "")
    """Code and message of why it ended."""

    @property
    def live(self) -> bool:
        """Neither ended nor on the way there."""
        return self.ended_at is None

    def state(self, now: float) -> tuple[int, str]:
        """AWS's code and name for what it is now."""
        if self.ended_at is not None:
            return (48, "terminated") if self.gone_at is not None and now >= self.gone_at else (32, "shutting-down")
        return (16, "running") if now >= self.running_at else (0, "pending")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, or one event, of the log."""

    at: float
    """As of `time.time`: when it came in."""
    action: str
    """AWS's name for it; `spot loss` and `shutdown` for what AWS, or the instance itself, did."""
    outcome: str
    """`ok`, an error's code, `lost request`, `lost reply`."""
    token: str | None = None
    instances: tuple[str, ...] = ()
    asked: int = 0
    """Of a launch: the most that it asked for."""
    tags: dict[str, str] = field(default_factory=dict)
    """Of a launch: those of its instances."""
    started: bool = False
    """A launch that started instances, rather than telling of those of an earlier call."""
