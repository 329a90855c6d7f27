"""What a soak works with, and what it sees: agents, each with its own way to the server, and every record's changes."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from launch.adapters.nats import NatsBroker
from launch.core.states import State
from launch.errors import LaunchError
from launch.ports import Synced
from launch.record import JobRecord
from launch.subjects import JobId
from tests.integration.chaos.agents import AgentProcess
from tests.integration.chaos.events import Runs
from tests.support import engine
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

LEASE_S = 4
ACK_WAIT_S = 3
SHORT = ("--presence-ttl", f"{LEASE_S}s", "--ack-wait", f"{ACK_WAIT_S}s")
SETTLE_S = 180.0
"""How long after the last job was submitted, and the last fault, everything may take to end."""
FAILS_ONCE = 0.1
"""The share of jobs whose first attempt fails by itself."""
NS = 1_000_000_000

SCRIPT = (
    "echo start $LAUNCH_ATTEMPT; i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; sleep 0.1; done;"
    " echo end; [ $LAUNCH_ATTEMPT -gt {fails} ]"
)


class Away(NamedTuple):
    """A time in which an agent could not be reached; `dead`: its process had ended, and so its connection."""

    since: int
    until: int
    dead: bool


@dataclass
class Worker:
    """One agent, its own way to the server, and when it could not be reached (nanoseconds since the epoch)."""

    agent: AgentProcess
    way: Proxy
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    away: list[Away] = field(default_factory=list)


@dataclass
class Scene:
    """One run: what is there, what was done to it, and what was seen."""

    chance: random.Random
    server: NatsServer
    broker: NatsBroker
    runs: Runs
    workers: list[Worker]
    queue: str
    image: str
    jobs: dict[JobId, int] = field(default_factory=dict)
    """Every job that was submitted, and how many lines it writes."""
    cancelled: set[JobId] = field(default_factory=set)
    records: dict[JobId, JobRecord] = field(default_factory=dict)
    taken_over: list[tuple[int, str, JobRecord]] = field(default_factory=list)
    """When, from whom, and the record that says so."""
    claims: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    server_up: list[int] = field(default_factory=list)
    adopted_s: list[float] = field(default_factory=list)
    server_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # -- what is seen -------------------------------------------------------------------------------------------

    async def follow_records(self) -> None:
        """Keep the newest record of every job, and note take-overs and claims."""
        async with aclosing(self.broker.records.watch(queue=self.queue)) as changes:
            async for change in changes:
                if isinstance(change, Synced) or change.value is None:
                    continue
                record, before = change.value, self.records.get(change.value.id)
                self.records[record.id] = record
                if record.state is not State.PREPARING or (before and before.attempt == record.attempt):
                    continue
                at_ns = int(record.updated_at.timestamp() * NS)
                self.claims.append(at_ns)
                if before and before.state in (State.PREPARING, State.RUNNING) and before.agent != record.agent:
                    self.taken_over.append((at_ns, str(before.agent), record))

    def held_by(self, worker: Worker) -> list[JobRecord]:
        """What an agent runs now, by the records."""
        mine = [record for record in self.records.values() if record.agent == worker.agent.agent_id]
        return [record for record in mine if record.state is State.RUNNING]

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def submit(self, count: int, seconds: float) -> None:
        """Publish jobs, spread evenly over the time; again until the server has taken each."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + seconds * number / count - loop.time()))
            lines, fails = self.chance.randint(3, 120), int(self.chance.random() < FAILS_ONCE)
            spec = {"image": self.image, "command": ["sh", "-c", SCRIPT.format(lines=lines, fails=fails)]}
            # A job that fails on its first attempt may have lost that one to a fault: then it does not fail at all.
            body = json.dumps({**spec, "retries": 1, "stop_grace": "1s"}).encode()
            while True:
                with suppress(LaunchError):
                    done = await self.broker.jobs.publish(self.queue, "train", body, msg_id=f"soak-{number}")
                    break
                await asyncio.sleep(0.2)
            self.jobs[done.job] = lines

    async def settle(self) -> None:
        """Wait until every job is over and nobody holds anything, at most `SETTLE_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while True:
                    over = all(job in self.records and self.records[job].state.terminal for job in self.jobs)
                    if over and not engine.containers(f"launch.queue={self.queue}"):
                        return
                    await asyncio.sleep(0.5)
