"""Machines behind the fault proxy: each launched instance boots, runs its user data, and with it a real agent.

    async with Fleet(proxy, tmp_path, boot_s=0.5) as fleet:
        ...                          # what is launched through the proxy lives, what is terminated dies
        fleet.bad_images.add("wandb/agent:typo")

User data runs under bash, with commands of our own first on PATH (`docker`, `curl` for the metadata service, `aws`,
`shutdown`, and those that would change this machine) and with the absolute paths that it writes to moved below the
machine's folder. `docker run AGENT_IMAGE agent …` starts `python -m launch agent …`; its jobs run on the real engine.
Invariant: nothing of a machine outlives it: processes are killed and containers removed as it ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support import fleet_agent, metadata
from tests.support.aws_proxy import AwsProxy
from tests.support.ec2_faults import Ec2Instance
from tests.support.fleet_agent import StartAgent
from tests.support.fleet_machine import Machine
from tests.support.machine_commands import Commands

LIMIT_S = 60.0


class Fleet:
    """All machines of one proxy."""

    def __init__(
        self,
        proxy: AwsProxy,
        folder: Path,
        *,
        boot_s: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        agent_options: Sequence[str] = (),
        agent_env: dict[str, str] | None = None,
        start_agent: StartAgent = fleet_agent.as_process,
    ) -> None:
        self.proxy = proxy
        self.folder = folder
        self.machines: dict[str, Machine] = {}
        self.bad_images: set[str] = set()
        """Images that can't be pulled."""
        self.agent_options = tuple(agent_options)
        """Added to what the user data tells each agent."""
        self.agent_env = agent_env or {}
        self.start_agent = start_agent
        self.boot_s = boot_s
        """From the launch to the first line of user data, at least and at most."""
        self.commands = Commands()
        self.metadata = metadata.Server(self._notice, self._facts)
        self._random = random.Random(seed)  # noqa: S311 - repeats, hides nothing
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        await self.commands.__aenter__()
        await self.metadata.__aenter__()
        self.proxy.on_launch = self._launched
        self.proxy.on_terminate = self._terminated
        return self

    async def __aexit__(self, *_: object) -> None:
        self.proxy.on_launch = lambda _instance, _user_data: None
        for machine in list(self.machines.values()):
            machine.kill()
        await asyncio.gather(*(machine.end() for machine in self.machines.values()))
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.commands.__aexit__()
        await self.metadata.__aexit__()

    @property
    def running(self) -> list[Machine]:
        """The machines that are on."""
        return [machine for machine in self.machines.values() if machine.on]

    def notice(self, instance_id: str, in_s: float = 120.0) -> None:
        """The metadata service tells this machine that it will be taken away."""
        self.machines[instance_id].taken_at = time.time() + in_s

    async def kill_agent(self, instance_id: str) -> None:
        """The agent dies without a word; the machine goes on."""
        await self.machines[instance_id].kill_agent()

    async def lose(self, instance_id: str) -> None:
        """AWS takes the machine away."""
        await self.proxy.lose(instance_id)

    def _launched(self, instance: Ec2Instance, user_data: str) -> None:
        machine = Machine(instance, user_data, self.folder / instance.id[-8:], self)
        self.machines[instance.id] = machine
        self._spawn(machine.live(self._random.uniform(*self.boot_s)), f"machine {instance.id}")

    def _terminated(self, instance: Ec2Instance) -> None:
        machine = self.machines.get(instance.id)
        if machine is not None:
            machine.kill()
            self._spawn(machine.end(), f"end of {instance.id}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _notice(self, instance_id: str) -> float | None:
        machine = self.machines.get(instance_id)
        return machine.taken_at if machine is not None else None

    def _facts(self, instance_id: str) -> Ec2Instance | None:
        return self.proxy.instances.get(instance_id)
