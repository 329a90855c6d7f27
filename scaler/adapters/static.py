"""No instances: the workers of a queue with `provider: static` are started by somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from launch.core.capacity import Amount
from launch.queue import QueueSpec
from scaler.core.instance import Instance, StopMode
from scaler.core.intent import Intent
from scaler.ports import Launched, Proposal, ProviderUnsuitable


class StaticProvider:
    """`scaler.ports.Provider` that has nothing and starts nothing."""

    async def list(self) -> Sequence[Instance]:
        """Always empty."""
        return []

    async def capacity(self, spec: QueueSpec) -> Amount:  # noqa: ARG002 - the port's signature
        """Nothing: there are no instances."""
        return Amount()

    async def propose(self, spec: QueueSpec, count: int) -> Proposal:  # noqa: ARG002 - as above
        """Refused with `ProviderUnsuitable`; no plan for a static queue asks for it."""
        raise ProviderUnsuitable(f"the workers of queue {spec.queue_name} are not started by the scaler")

    async def launch(self, intent: Intent) -> Launched:
        """Refused with `ProviderUnsuitable`."""
        raise ProviderUnsuitable(f"the workers of queue {intent.queue} are not started by the scaler")

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        """Nothing to stop."""

    def agent_left(self, instance_id: str) -> None:
        """Nothing to look at."""

    async def explain(self, instance_id: str) -> str:  # noqa: ARG002 - as above
        """Nothing is known."""
        return ""

    async def changes(self) -> AsyncGenerator[None]:
        """Nothing ever changes after the first look."""
        yield
        await asyncio.Event().wait()

    async def drain(self, timeout_s: float) -> Sequence[str]:  # noqa: ARG002 - as above
        """Nothing to end."""
        return []

    async def force(self, timeout_s: float) -> Sequence[str]:  # noqa: ARG002 - as above
        """Nothing to end."""
        return []

    async def close(self) -> None:
        """Nothing to let go."""
