"""What a plan may ask for, and how its parts speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scaler.core.instance import StopMode


@dataclass(frozen=True, slots=True)
class Launch:
    """Start so many instances; a `canary` is one that has to come up before more are started."""

    count: int
    why: str = ""
    canary: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End this instance, provided that its agent is still out of sight (`absent`), or still holds nothing.

    DRAIN asks the agent, which takes no more work and says when it holds nothing; a later plan then ends the instance.
    KILL ends one whose agent is drained, lost or never came (`never_came`: its launch has failed).
    """

    instance_id: str
    agent_id: str
    mode: StopMode
    why: str
    absent: bool = False
    never_came: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """End this pending job as unschedulable: nothing that is there or could be started would ever hold it."""

    job_id: str
    why: str


Action = Launch | Stop | Refuse


@dataclass(frozen=True, slots=True)
class Part:
    """One rule's share of the plan."""

    actions: tuple[Action, ...] = ()
    look_at: tuple[datetime, ...] = ()
    reasons: tuple[str, ...] = ()


def show_count(count: int, noun: str = "job") -> str:
    """`1 job`, `2 jobs`."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
