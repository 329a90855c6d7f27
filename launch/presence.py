"""What an agent tells the world about itself: its entry in the `agents` bucket, which expires unless renewed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.core.capacity import Amount
from launch.fields import Moment


class AgentState(StrEnum):
    """Whether an agent takes work."""

    READY = "ready"
    DRAINING = "draining"
    """Takes no new work; what it holds goes on."""
    DRAINED = "drained"
    """Takes no new work and holds nothing: it may be ended."""


class AgentPresence(BaseModel):
    """One present agent. An agent without an entry is absent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent_id: str
    queue: str
    job_types: tuple[str, ...] | None = None
    """The types it takes; None for any."""
    state: AgentState = AgentState.READY
    capacity: Amount
    free: Amount
    holds: tuple[str, ...] = ()
    """Ids of the jobs it holds. A present agent that does not list a job does not have it."""
    version: str
    host: str
    instance: str | None = None
    """What the provider that started it calls it."""
    labels: dict[str, str] = {}
    started_at: Moment
    idle_since: Moment | None = None
    """Since when it holds nothing; None while it holds something."""
    at: Moment | None = None
    """When it said so, by its own clock: beside the time when the server stored it, how far off that is."""
    policy: dict[str, Any] | None = None
    """What of its `agent.yaml` is not the default; None where it does not tell. Not parsed here: an agent of another
    version may have other rules, and is present all the same."""

    def undated(self) -> AgentPresence:
        """The same without when it was said: two that are equal say the same of the agent."""
        return self.model_copy(update={"at": None})
