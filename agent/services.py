"""What every attempt on one agent is done with: made once, in `main.py`, and handed to who runs jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.claims import Claims
from agent.core.container import ContainerPolicy
from agent.holds import Holds
from agent.images import Images
from agent.metrics import Reporting
from agent.netns import NetworkPool
from agent.next_container import NextContainer
from agent.ports import Engine
from agent.secrets import Secrets
from agent.settings import AgentSettings
from launch.ports import Broker, Clock
from launch.queue import QueueSpec
from launch.stores import Stores


@dataclass(frozen=True, slots=True)
class Services:
    """The agent's parts, as a job's run needs them."""

    engine: Engine
    broker: Broker
    claims: Claims
    holds: Holds
    clock: Clock
    agent_id: str
    settings: AgentSettings
    policy: ContainerPolicy
    stores: Stores
    secrets: Secrets
    images: Images
    reporting: Reporting
    networks: NetworkPool
    next: NextContainer
    queue: Callable[[], QueueSpec]
    """The queue's spec as it is now."""
