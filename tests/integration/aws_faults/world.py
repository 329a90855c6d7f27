"""One seed at work: a broker, EC2 with faults, machines with quick agents, and scalers that are killed and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from launch.adapters.clock import SystemClock
from launch.adapters.nats import NatsBroker, connect
from launch.aws import AwsProvider as AwsSpec
from launch.aws import NatsAccess
from launch.errors import LaunchError
from launch.ports import Synced
from launch.queue import QueueSpec
from launch.record import JobRecord
from scaler import main
from scaler.adapters.aws.provider import AwsProvider
from scaler.adapters.aws.watch import Pace
from scaler.ports import Provider
from scaler.settings import ScalerSettings
from tests.integration.aws_faults import invariants
from tests.integration.aws_faults.scenario import Happening, Kind, Scenario
from tests.support.aws_proxy import AwsProxy, Regions
from tests.support.ec2_faults import Ec2Instance
from tests.support.fleet import Fleet
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy
from tests.support.quick_agents import IMAGE, QuickAgents, command

QUEUE = "q"
AGENT_IMAGE = "example/agent:1"
SETTINGS = ScalerSettings(
    settle_s=0.02,
    resync_s=2.0,
    backoff_first_s=0.2,
    backoff_max_s=1.0,
    boot_deadline_s=6.0,
    lost_deadline_s=6.0,
    lease_ttl_s=4.0,
    lease_renew_s=0.7,
    intent_hold_s=4.0,
    store_every_s=0.5,
)
PACE = Pace(fast_s=0.3, slow_s=1.0, stale_s=10.0, hurry_s=0.05)
DONE_S, GONE_S = 60.0, 45.0


@dataclass
class Verdict:
    """What a run came to."""

    scenario: Scenario
    violations: list[str]
    took_s: float
    launches: int
    instances: int
    peak: int
    outcomes: Counter[str]
    happened: Counter[str]
    told: list[str] = field(default_factory=list)


class Scaler:
    """A scaler in this process; killed, it says no more word to anybody."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._link: Proxy | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Connect and scale."""
        world = self._world
        self._link = await Proxy(world.server.port).start()
        broker = await connect(self._link.url, name="scaler")

        async def open_provider(spec: QueueSpec) -> Provider:
            return await AwsProvider.open(
                spec, cluster="test", server_url=world.server.url, clock=SystemClock(), pace=PACE
            )

        async def run() -> None:
            try:
                await main.run(
                    broker,
                    queues=[QUEUE],
                    data_dir=world.folder,
                    server_url=world.server.url,
                    clock=SystemClock(),
                    stop=asyncio.Event(),
                    drain_timeout_s=5.0,
                    on_event=world.tell,
                    settings=SETTINGS,
                    open_provider=open_provider,
                )
            finally:
                with contextlib.suppress(LaunchError):
                    await broker.close()

        self._task = asyncio.create_task(run(), name="scaler")
        return self

    async def kill(self) -> None:
        """As SIGKILL does. Raises what it died of, if it was dead already."""
        assert self._link is not None
        assert self._task is not None
        await self._link.cut()
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()


class World:
    """Everything of one seed."""

    def __init__(self, scenario: Scenario, folder: Path, regions: Regions, region: str, moto_url: str) -> None:
        self.scenario = scenario
        self.folder = folder
        self.server = NatsServer(folder / "nats")
        self.proxy = AwsProxy(moto_url, faults=scenario.faults)
        self.agents = QuickAgents()
        self.told: list[str] = []
        self.held_at_end: dict[str, list[str]] = {}
        self.happened: Counter[str] = Counter()
        self._regions = regions
        self._region = region
        self._scalers: list[Scaler] = []
        self._records: dict[str, JobRecord] = {}
        self._first_agent_at: float | None = None
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    async def run(self) -> Verdict:
        """Live through it, and judge."""
        self._began = time.monotonic()
        async with AsyncExitStack() as stack:
            self.folder.mkdir(parents=True)
            await asyncio.to_thread(self.server.start)
            stack.push_async_callback(asyncio.to_thread, self.server.stop)
            await stack.enter_async_context(self.proxy)
            self._regions.proxies[self._region] = self.proxy
            fleet = Fleet(
                self.proxy,
                self.folder / "fleet",
                boot_s=self.scenario.boot_s,
                seed=self.scenario.seed,
                start_agent=self.agents.start,
            )
            await stack.enter_async_context(fleet)
            self._watch_ends()
            broker = await connect(self.server.url, name="test")
            stack.push_async_callback(broker.close)
            await broker.queues.apply(self._spec())
            jobs, violations = await self._live(broker, fleet)
            for scaler in self._scalers:
                await scaler.kill()
        violations += self._judge(jobs)
        return Verdict(
            scenario=self.scenario,
            violations=violations,
            took_s=time.monotonic() - self._began,
            launches=len([call for call in self.proxy.calls("RunInstances") if call.started]),
            instances=len(self.proxy.instances),
            peak=invariants.peak(self.proxy.instances.values()),
            outcomes=Counter(call.outcome for call in self.proxy.log if call.outcome != "ok"),
            happened=self.happened,
            told=self.told,
        )

    def tell(self, line: str) -> None:
        """A line of a scaler's, with its time."""
        self.told.append(f"{time.monotonic() - self._began:6.2f} {line}")

    def _spec(self) -> QueueSpec:
        provider = AwsSpec(
            region=self._region,
            instance_type=["m5.large", "m5a.large", "c5.xlarge"],
            market="spot-then-on-demand",
            nats=NatsAccess(url=self.server.url),
        )
        return QueueSpec(
            queue_name=QUEUE,
            provider=provider,
            agent_image=AGENT_IMAGE,
            max_instances=self.scenario.max_instances,
            idle_timeout=0.5,
        )

    async def _tell_calls(self) -> None:
        """What EC2 saw, among what the scalers say."""
        told = 0
        while True:
            for call in self.proxy.log[told:]:
                told += 1
                if (
                    call.action in ("RunInstances", "TerminateInstances", "spot loss", "shutdown")
                    or call.outcome != "ok"
                ):
                    self.tell(f"EC2 {call.action} {call.outcome} {call.asked or ''} {' '.join(call.instances)}")
            self.proxy.changed.clear()
            await self.proxy.changed.wait()

    def _watch_ends(self) -> None:
        """Note what each agent truly holds at the moment that its instance is ended."""
        end = self.proxy.on_terminate

        def ended(instance: Ec2Instance) -> None:
            agent = self.agents.by_id.get(instance.id)
            self.held_at_end[instance.id] = agent.holds if agent is not None else []
            end(instance)

        self.proxy.on_terminate = ended

    async def _live(self, broker: NatsBroker, fleet: Fleet) -> tuple[list[str], list[str]]:
        """The jobs that were published, and what did not come to its end in time."""
        self._scalers.append(await Scaler(self).start())
        watching = [
            asyncio.create_task(self._watch_records(broker), name="records"),
            asyncio.create_task(self._watch_agents(broker), name="agents"),
            asyncio.create_task(self._tell_calls(), name="calls"),
        ]
        jobs: list[str] = []
        late: list[str] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish(broker, jobs), name="publish")
                tasks.create_task(self._happen(fleet), name="happen")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DONE_S):
                    while any(job not in self._records or not self._records[job].state.terminal for job in jobs):
                        self._changed.clear()
                        await self._changed.wait()
            try:
                await self.proxy.until(lambda: not self.proxy.live(), GONE_S)
            except TimeoutError:
                late.append("it did not come back to nothing in time")
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)
        return jobs, late

    async def _publish(self, broker: NatsBroker, jobs: list[str]) -> None:
        began, number = time.monotonic(), 0
        for burst in self.scenario.bursts:
            await asyncio.sleep(max(0.0, burst.at_s - (time.monotonic() - began)))
            body = json.dumps({"image": IMAGE, "command": command(burst.seconds), "resources": {"cpu": 1}}).encode()
            for _ in range(burst.jobs):
                number += 1
                while True:
                    try:
                        made = await broker.jobs.publish(QUEUE, "t", body, msg_id=f"job-{number}")
                    except LaunchError:
                        await asyncio.sleep(0.1)
                    else:
                        jobs.append(str(made.job))
                        break

    async def _happen(self, fleet: Fleet) -> None:
        began = time.monotonic()
        for one in self.scenario.happenings:
            await asyncio.sleep(max(0.0, one.at_s - (time.monotonic() - began)))
            await self._let_happen(one, fleet)

    async def _let_happen(self, one: Happening, fleet: Fleet) -> None:
        live = [machine for machine in fleet.running if machine.instance.live]
        match one.kind:
            case Kind.SCALER_KILLED:
                await self._scalers.pop(0).kill()
                self._scalers.append(await Scaler(self).start())
            case Kind.SECOND_SCALER:
                self._scalers.append(await Scaler(self).start())
            case Kind.BROKER_RESTART:
                await asyncio.to_thread(self.server.restart, kill=True)
            case Kind.AGENT_KILLED if live:
                await fleet.kill_agent(live[0].name)
            case Kind.SPOT_LOSS if live:
                await fleet.lose(live[-1].name)
            case Kind.BAD_IMAGE:
                fleet.bad_images.add(AGENT_IMAGE)
            case Kind.IMAGE_FIXED:
                fleet.bad_images.clear()
            case Kind.RUN_DRY:
                self.proxy.run_dry(market="spot")
            case Kind.REFILL:
                self.proxy.refill()
            case _:
                return
        self.happened[str(one.kind)] += 1
        self.tell(f"*** {one.kind}")

    async def _watch_records(self, broker: NatsBroker) -> None:
        async with aclosing(broker.records.watch(queue=QUEUE)) as changes:
            async for change in changes:
                if not isinstance(change, Synced) and change.value is not None:
                    self._records[str(change.value.id)] = change.value
                    self._changed.set()

    async def _watch_agents(self, broker: NatsBroker) -> None:
        async with aclosing(broker.agents.watch()) as changes:
            async for change in changes:
                if not isinstance(change, Synced) and change.value is not None and self._first_agent_at is None:
                    self._first_agent_at = time.time()

    def _judge(self, jobs: list[str]) -> list[str]:
        instances = list(self.proxy.instances.values())
        return [
            *invariants.above_max(instances, self.scenario.max_instances),
            *invariants.double_launches(self.proxy.log),
            *invariants.busy_ended(instances, self.held_at_end),
            *invariants.left_over(instances),
            *invariants.not_done(jobs, self._records),
            *invariants.bursts_of_unproven(instances, self._first_agent_at),
        ]
