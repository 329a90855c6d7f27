"""A fleet on one virtual clock: machines with an engine and an agent each, the broker between them, and a client.

An agent here is the real `Agent` with all its loops. Its two ports are the fakes of `tests/fakes/` with what a run
needs besides: every request and every call of the engine takes time, is a step at which a fault may come (just before
it takes effect, or just after), and is heard or not heard. A process that is killed says nothing more, to anybody, from
that moment on; what its engine was already doing for it is done all the same, as with a real one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from agent.core.registry_login import Credential
from agent.main import Agent
from agent.ports import (
    Container,
    DiskSpace,
    EngineInfo,
    EngineUnavailable,
    ImageInfo,
    LogFrame,
    PathInfo,
    PullProgress,
    Usage,
)
from agent.settings import AgentSettings, OnLostContact
from launch.client import Client
from launch.core.states import TERMINAL_STATES
from launch.errors import BrokerUnavailable, LaunchError
from launch.queue import QueueSpec
from launch.subjects import HEADER_MSG_ID, LABEL_AGENT, LABEL_ATTEMPT, LABEL_SEQ, JobId, WorkConsumer
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.broker_bucket import Entry
from tests.fakes.broker_link import Link
from tests.fakes.broker_stream import Durable, StreamConfig, WorkStream
from tests.fakes.engine import FakeContainer, FakeEngine, Script
from tests.sim.facts import Facts, Run, Spans, Write
from tests.sim.plan import ACK_WAIT_S, CPUS, LEASE_S, JobPlan, Plan

T = TypeVar("T")

QUEUE = "q"
IMAGE = "busybox:1"
FAR_IMAGE = "far:1"
EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
RESTART_S = 2.0
"""Who starts an agent that has ended unasked waits this long."""
DEATH_S = 10.0
"""What is left of a killed process must be gone by then."""


class MachineClock:
    """A machine's own idea of the time, which may be wrong and may jump."""

    def __init__(self, skew_s: float) -> None:
        self.skew = timedelta(seconds=skew_s)

    def now(self) -> datetime:
        """The current time; needs a running loop."""
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.skew

    def jump(self, seconds: float) -> None:
        """Somebody sets it."""
        self.skew += timedelta(seconds=seconds)


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan, note: Callable[[str], None] | None) -> None:
        self.plan = plan
        self.rng = Random(plan.seed + 1)  # noqa: S311  (repeats are the point)
        self.facts = Facts()
        self.over = False
        self._note = note
        self.spec = QueueSpec.model_validate({"queue_name": QUEUE, "provider": {"type": "static"}})
        self.server = FakeServer(clock=MachineClock(0.0), ack_wait_s=ACK_WAIT_S)
        self.server.apply(self.spec)
        self.stream = _WatchedStream(self)
        self.server.streams[QUEUE] = self.stream
        self.server.records._watchers[self._written] = None
        self.server_up = True
        self.jobs: dict[int, JobId] = {}
        """Planned jobs that have been published."""
        self.engines: list[SimEngine] = []
        self.machines: list[Machine] = []
        self.ended: set[str] = set()
        """Keys of the records that say that their job has ended."""
        self.background: set[asyncio.Future[Any]] = set()
        self.client = Client(FakeBroker(self.server, SimLink(self, None)), clock=MachineClock(0.0))
        for number in range(plan.machines):
            clock = MachineClock(plan.skews_s[number])
            if not (plan.shared_engine and self.engines):
                self.engines.append(SimEngine(self, f"engine{number}", clock))
            self.add_machine(f"agent{number}", self.engines[-1], self.engines[-1].clock)

    def add_machine(self, agent_id: str, engine: SimEngine, clock: MachineClock) -> Machine:
        """One more machine; `machine.power_on` starts its agent."""
        machine = Machine(self, agent_id, engine, clock)
        self.machines.append(machine)
        return machine

    def now_s(self) -> float:
        """Seconds since the run began."""
        return asyncio.get_running_loop().time() - START_S

    def note(self, what: str) -> None:
        """Add a line to the trace, if there is one."""
        if self._note is not None:
            self._note(f"{self.now_s():10.4f}  {what}")

    @property
    def traced(self) -> bool:
        """Whether anybody reads what is noted."""
        return self._note is not None

    def defect(self, what: str) -> None:
        """Our own code did something that it should never do."""
        self.note(f"DEFECT {what}")
        self.facts.defects.append(f"{self.now_s():.3f}: {what}")

    def start(self, work: Awaitable[T]) -> asyncio.Future[T]:
        """Do something in the background of the run; a failure is a defect."""
        task = asyncio.ensure_future(work)
        self.background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[Any]) -> None:
        self.background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.defect(f"the run itself: {task.exception()!r}")

    def latency_s(self) -> float:
        """How long one way between an agent and the broker takes."""
        return 0.0002 + 0.002 * self.rng.random()

    def set_server_up(self, up: bool) -> None:
        """The broker goes away, or is back, for everybody."""
        self.server_up = up
        for machine in self.machines:
            machine.connect()

    # -- jobs ---------------------------------------------------------------------------------------------------

    def publish(self, number: int) -> None:
        """Publish one of the planned jobs, as any NATS client does."""
        job = self.plan.jobs[number]
        command = ["job", str(number)]
        body: dict[str, Any] = {
            "image": FAR_IMAGE if job.pulls else IMAGE,
            "command": command,
            "resources": {"cpu": job.cpu},
            "retries": job.retries,
            "stop_grace": job.grace_s,
        }
        if job.timeout_s is not None:
            body["timeout"] = job.timeout_s
        headers = {HEADER_MSG_ID: f"id{number}"}
        consumer = WorkConsumer(job.job_type, job.priority)
        for _ in range(2 if job.twice else 1):
            raw = b"{not json" if job.broken else json.dumps(body).encode()
            published = self.server.publish(QUEUE, consumer, raw, headers)
            self.jobs[number] = published.job
            self.facts.published[published.job.seq] = number
            if self.traced:
                self.note(f"published {published.job} (job {number}): {job}")

    async def cancel(self, number: int) -> None:
        """Ask to cancel a job, as the command line does."""
        if number not in self.jobs:
            return
        try:
            record = await self.client.cancel(self.jobs[number])
        except LaunchError as error:
            self.note(f"cancel of {self.jobs[number]}: {error}")
        else:
            self.note(f"cancel of {self.jobs[number]} asked for: it is {record.state}")

    # -- what is seen ---------------------------------------------------------------------------------------------

    def _written(self, entry: Entry) -> None:
        if entry.value is None:
            self.defect(f"the record {entry.key} was deleted")
            return
        self.facts.writes.append(Write(self.now_s(), entry.key, entry.value))
        if any(end in entry.value for end in _ENDS):
            self.ended.add(entry.key)
        if self.traced:
            record = json.loads(entry.value)
            shown = ("state", "reason", "agent", "attempt", "failures", "interruptions", "message")
            words = " ".join(f"{key}={record[key]}" for key in shown if record.get(key) is not None)
            self.note(f"record {entry.key} {words}{' CANCEL REQUESTED' if record.get('cancel') else ''}")

    def settled(self) -> bool:
        """Whether the run is over."""
        return (
            len(self.ended) == len(self.jobs) == len(self.plan.jobs)
            and not self.stream.messages
            and not any(engine.containers for engine in self.engines)
            and not self.left()
        )

    def left(self) -> list[str]:
        """What keeps the run from being over."""
        left = []
        if len(self.jobs) < len(self.plan.jobs):
            left.append("not all jobs are published")
        for number, job in self.jobs.items():
            if job.key not in self.ended:
                entry = self.server.records.get(job.key)
                left.append(f"job {number} ({job}) has not ended: {entry.value if entry else None!r}")
        left += [f"message {seq} is still in the queue" for seq in self.stream.messages]
        for engine in self.engines:
            left += [f"container {found.name} is left on {engine.name}" for found in engine.containers.values()]
        for machine in self.machines:
            left += machine.unsettled()
        return left


START_S = 1000.0
"""Where the loop's time begins."""


_ENDS = tuple(f'"state":"{state}"'.encode() for state in sorted(TERMINAL_STATES))


def _script(job: JobPlan) -> Script:
    return Script(hold=True, ignores=frozenset({"SIGTERM"} if job.deaf else ()), on_term=job.on_term)


class _WatchedStream(WorkStream):
    """Tells the world when an ack wait runs out."""

    def __init__(self, world: World) -> None:
        super().__init__(QUEUE, StreamConfig(), ack_wait_s=ACK_WAIT_S, clock=world.server.clock)
        self._world = world

    def durable(self, consumer: WorkConsumer) -> Durable:
        if consumer.name not in self.durables:
            fresh = [seq for seq, message in self.messages.items() if message.consumer == consumer]
            self.durables[consumer.name] = _WatchedDurable(self._world, self, consumer, fresh)
        return self.durables[consumer.name]


class _WatchedDurable(Durable):
    def __init__(self, world: World, stream: WorkStream, consumer: WorkConsumer, fresh: list[int]) -> None:
        super().__init__(stream, consumer, fresh)
        self._world = world

    def _hold(self, seq: int, wait_s: float) -> None:
        timer = self.held.get(seq)
        if timer is not None:
            timer.cancel()
        wake = self._ran_out if wait_s == ACK_WAIT_S else self.send_again
        self.held[seq] = asyncio.get_running_loop().call_later(wait_s, wake, seq)

    def _ran_out(self, seq: int) -> None:
        self._world.facts.ran_out.append((self._world.now_s(), seq))
        self._world.note(f"the ack wait of message {seq} ran out")
        self.send_again(seq)


# -- the network ----------------------------------------------------------------------------------------------------


class SimLink(Link):
    """A process's connection. A request travels there and back; on either way the connection may break."""

    def __init__(self, world: World, process: Process | None) -> None:
        super().__init__(
            process.machine.agent_id if process else "client",
            process.machine.clock if process else MachineClock(0.0),
            latency_s=0.0,
        )
        self.world = world
        self.process = process

    @property
    def since(self) -> datetime | None:
        """As the real one tells it: timed apart from the clock, which may have been set meanwhile."""
        if self._since_s is None:
            return None
        return self._clock.now() - timedelta(seconds=asyncio.get_running_loop().time() - self._since_s)

    @since.setter
    def since(self, value: datetime | None) -> None:
        self._since_s = None if value is None else asyncio.get_running_loop().time()

    def request(self) -> _Request:  # type: ignore[override]  # a context manager like the other, made by hand for speed
        return _Request(self, _caller())


def _caller() -> str:
    """The port's method that makes a request, such as `records.update`."""
    name = sys._getframe(2).f_code.co_qualname
    step = _STEP_NAMES.get(name)
    if step is None:
        step = _STEP_NAMES[name] = name.removeprefix("Fake").lower()
    return step


_STEP_NAMES: dict[str, str] = {}


class _Request:
    __slots__ = ("_link", "_step")

    def __init__(self, link: SimLink, step: str) -> None:
        self._link = link
        self._step = step

    async def __aenter__(self) -> None:
        link = self._link
        if not link.is_up:
            # As a real client does: what is asked while it reconnects goes out if that is soon enough.
            try:
                async with asyncio.timeout(link.world.plan.patience_s):
                    await link.until_up()
            except TimeoutError:
                raise BrokerUnavailable(f"'{link.name}' has no connection to {self._step}") from None
        await asyncio.sleep(link.world.latency_s())
        if link.process is not None:
            link.process.machine.step(self._step, after=False)
        if not link.is_up:
            await self._no_answer()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            return
        link = self._link
        if link.process is not None:
            link.process.machine.step(self._step, after=True)
            if self._step == "agents.put":
                link.process.announced()
        if link.lose_replies > 0:
            link.lose_replies -= 1
            link.world.note(f"{link.name}: the answer to {self._step} is lost")
            await self._no_answer()
        await asyncio.sleep(link.world.latency_s())
        if not link.is_up:
            await self._no_answer()

    async def _no_answer(self) -> None:
        if not self._link.closed:
            await asyncio.sleep(self._link.world.plan.patience_s)
        raise BrokerUnavailable(f"'{self._link.name}' got no answer to {self._step}")


# -- engines --------------------------------------------------------------------------------------------------------


class SimEngine(FakeEngine):
    """An engine whose containers run for as long as their job's plan says, and which keeps its own account of them."""

    def __init__(self, world: World, name: str, clock: MachineClock) -> None:
        super().__init__(images=[IMAGE], registry=[FAR_IMAGE], clock=clock)
        self.name = name
        self.clock = clock
        self.world = world
        self.usual_pace_s = self.pace_s = 0.002
        self.away_until_s = 0.0
        self.open: dict[str, Run] = {}
        for number, job in enumerate(world.plan.jobs):
            self.scripts["job", str(number)] = _script(job)

    async def _call(self, step: str, what: str) -> None:
        await asyncio.sleep(self.pace_s * (0.5 + self.world.rng.random()))
        if not self._running:
            raise EngineUnavailable(f"the engine does not {step} {what}: it is away")

    async def start(self, container: str) -> None:
        found = self._find(container)
        before = found.started_at if found else None
        await super().start(container)
        found = self._find(container)
        if found is not None and found.started_at != before:
            self._started(found)

    def exit(self, container: str, code: int = 0, *, oom_killed: bool = False) -> None:
        super().exit(container, code, oom_killed=oom_killed)
        run = self.open.pop(container, None)
        if run is not None:
            run.end_s, run.code = self.world.now_s(), code
            self.world.note(f"{self.name}: {self._show(run)} ended with {code}")

    async def remove(self, container: str) -> None:
        await super().remove(container)
        self.world.note(f"{self.name}: {container[:20]} removed")

    def stop(self, *, kill: bool = True) -> None:
        super().stop(kill=kill)
        self.world.note(f"{self.name}: away{', what ran was killed' if kill else ''}")

    def start_again(self) -> None:
        super().start_again()
        self.world.note(f"{self.name}: back")

    def wipe(self) -> None:
        """The machine is gone, with all that was on it."""
        self.stop()
        self.containers.clear()

    def _new_id(self) -> str:
        return f"{self.world.rng.getrandbits(256):064x}"

    def _started(self, found: FakeContainer) -> None:
        labels = found.config["Labels"]
        job, attempt = int(labels[LABEL_SEQ]), int(labels[LABEL_ATTEMPT])
        run = Run(job, attempt, labels[LABEL_AGENT], self.name, found.id, self.world.now_s())
        self.world.facts.runs.append(run)
        self.open[found.id] = run
        self.world.note(f"{self.name}: {self._show(run)} started")
        runs = self.world.plan.jobs[self.world.facts.published[job]].runs
        duration_s, code = runs[min(attempt, len(runs)) - 1]
        self.write(found.id, "stdout", f"begin {attempt}\n".encode())
        asyncio.get_running_loop().call_later(duration_s, self._finish, run, code)

    def _finish(self, run: Run, code: int) -> None:
        if self.open.get(run.container) is run:
            self.write(run.container, "stdout", f"end {run.attempt}\n".encode())
            run.by_itself = True
            self.exit(run.container, code)

    def _show(self, run: Run) -> str:
        return f"the container of job {run.job} attempt {run.attempt} of {run.agent}"


class Grip:
    """`agent.ports.Engine` in the hands of one process: its calls are steps, and end with the process.

    A call that changes something is carried out even if nobody waits for it any more.
    """

    def __init__(self, process: Process, engine: SimEngine) -> None:
        self._process = process
        self._engine = engine

    async def info(self) -> EngineInfo:
        return await self._ask("info", self._engine.info)

    async def image(self, reference: str) -> ImageInfo | None:
        return await self._ask("image", lambda: self._engine.image(reference))

    async def pull(
        self, reference: str, *, login: Credential | None = None, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        await self._ask("pull", lambda: self._engine.pull(reference, login=login, progress=progress))

    async def remove_image(self, reference: str) -> bool:
        return await self._tell("remove_image", lambda: self._engine.remove_image(reference))

    async def disk(self) -> DiskSpace | None:
        return await self._ask("disk", self._engine.disk)

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        return await self._tell("create", lambda: self._engine.create(name, config))

    async def rename(self, container: str, name: str) -> None:
        await self._tell("rename", lambda: self._engine.rename(container, name))

    async def start(self, container: str) -> None:
        await self._tell("start", lambda: self._engine.start(container))

    async def wait(self, container: str) -> None:
        await self._ask("wait", lambda: self._engine.wait(container))

    async def inspect(self, container: str) -> Container | None:
        return await self._ask("inspect", lambda: self._engine.inspect(container))

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        return await self._ask("list", lambda: self._engine.list(labels))

    async def signal(self, container: str, name: str) -> None:
        await self._tell("signal", lambda: self._engine.signal(container, name))

    async def remove(self, container: str) -> None:
        await self._tell("remove", lambda: self._engine.remove(container))

    async def logs(
        self, container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        self._check()
        async with aclosing(self._engine.logs(container, since=since, follow=follow, tail=tail)) as frames:
            async for frame in frames:
                self._check()
                yield frame

    async def stat(self, container: str, path: str) -> PathInfo | None:
        return await self._ask("stat", lambda: self._engine.stat(container, path))

    async def put(self, container: str, path: str, tar: AsyncIterable[bytes]) -> None:
        # Not carried on without who asked: what was under way is cut off, as a real engine's upload is.
        await self._ask("put", lambda: self._engine.put(container, path, tar))

    async def get(self, container: str, path: str) -> AsyncGenerator[bytes]:
        self._begin("get")
        async with aclosing(self._engine.get(container, path)) as pieces:
            async for piece in pieces:
                self._check()
                yield piece

    async def usage(self, container: str) -> Usage | None:
        return await self._ask("usage", lambda: self._engine.usage(container))

    async def make_image(self, reference: str, tar: bytes, labels: Mapping[str, str]) -> None:
        await self._tell("make_image", lambda: self._engine.make_image(reference, tar, labels))

    async def talk(self, container: str, said: bytes) -> AsyncGenerator[bytes]:
        self._begin("talk")
        async with aclosing(self._engine.talk(container, said)) as answer:
            async for data in answer:
                self._check()
                yield data

    async def close(self) -> None:
        """Nothing to release."""

    def _check(self) -> None:
        if not self._process.alive:
            raise EngineUnavailable("the process that asks is dead")

    async def _ask(self, step: str, call: Callable[[], Awaitable[T]]) -> T:
        self._begin(step)
        answer = await call()
        self._end(step)
        return answer

    async def _tell(self, step: str, call: Callable[[], Awaitable[T]]) -> T:
        self._begin(step)
        task = asyncio.ensure_future(call())
        task.add_done_callback(_look_at)
        answer = await asyncio.shield(task)
        self._end(step)
        return answer

    def _begin(self, step: str) -> None:
        self._check()
        self._process.machine.step(f"engine.{step}", after=False)
        self._check()

    def _end(self, step: str) -> None:
        self._check()
        self._process.machine.step(f"engine.{step}", after=True)
        self._check()


def _look_at(task: asyncio.Future[Any]) -> None:
    """Its failure is for who asked, who may be gone."""
    if not task.cancelled():
        task.exception()


# -- machines -------------------------------------------------------------------------------------------------------


class Trap:
    """Something that happens at a step of a machine's agent, once."""

    def __init__(self, step: str, count: int, after: bool, spring: Callable[[], None]) -> None:
        self.step = step
        self.count = count
        self.after = after
        self.spring = spring


class Machine:
    """An engine, an agent's processes one after the other, and who starts them."""

    def __init__(self, world: World, agent_id: str, engine: SimEngine, clock: MachineClock) -> None:
        self.world = world
        self.agent_id = agent_id
        self.engine = engine
        self.clock = clock
        self.cuts = 0
        """How many faults keep it from the broker now."""
        self.down_s = 0.0
        """How long it stays down once its process has ended."""
        self.gone = False
        self.process: Process | None = None
        self.traps: list[Trap] = []
        self.in_contact: Spans = world.facts.in_contact[agent_id]
        self.alive: Spans = world.facts.alive[agent_id]
        self.life: asyncio.Future[None] | None = None

    def power_on(self) -> None:
        """Start the agent, and again whenever it has ended."""
        self.life = self.world.start(self._live())

    async def _live(self) -> None:
        world = self.world
        while not (world.over or self.gone):
            self.process = Process(self)
            self.alive.set(world.now_s(), True)
            world.note(f"{self.agent_id}: a process starts")
            await self.process.ended()
            self.process.die()
            self.process = None
            self.alive.set(world.now_s(), False)
            down_s, self.down_s = self.down_s or RESTART_S, 0.0
            await asyncio.sleep(down_s)

    def step(self, step: str, *, after: bool) -> None:
        """The agent is about to do this, or has just done it: who waited for that, now is the time."""
        if self.world.traced and step not in ("agents.put", "work.progress"):
            self.world.note(f"{self.agent_id}: {step}{' done' if after else ''}")
        for trap in tuple(self.traps):
            if trap.step == step and trap.after is after:
                trap.count -= 1
                if trap.count == 0:
                    self.traps.remove(trap)
                    trap.spring()

    def connect(self) -> None:
        """Have a connection, or none, as things are."""
        if self.process is not None:
            if self.cuts or not self.world.server_up:
                self.process.link.down()
            else:
                self.process.link.up()
        self.look()

    def look(self) -> None:
        """Note whether this agent is in contact with the broker."""
        process = self.process
        so = process is not None and process.alive and process.ready and process.link.is_up
        self.in_contact.set(self.world.now_s(), so)

    def unsettled(self) -> list[str]:
        """What keeps this machine from being at rest."""
        if self.gone:
            return []
        process = self.process
        if process is None or process.agent is None or not process.ready or process.stop.is_set():
            return [f"{self.agent_id} does not work"]
        holds = process.agent._holds
        left = [f"{self.agent_id} holds {hold.job}" for hold in holds.all()]
        left += [f"{self.agent_id} keeps {job} back" for job in holds._kept_back]
        if holds.ledger.free != holds.ledger.capacity:
            left.append(f"{self.agent_id} has {holds.ledger.free} free of {holds.ledger.capacity}")
        return left


class Process:
    """One process of an agent."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.alive = True
        self.ready = False
        self.agent: Agent | None = None
        self.stop, self.abort = asyncio.Event(), asyncio.Event()
        self.link = SimLink(machine.world, self)
        if machine.cuts or not machine.world.server_up:
            self.link.down()
        self.task = asyncio.create_task(self._main(), name=machine.agent_id)

    async def _main(self) -> None:
        world, machine = self.machine.world, self.machine
        grip = Grip(self, machine.engine)
        broker = FakeBroker(world.server, self.link)
        settings = AgentSettings(
            queue=QUEUE,
            cpu_milli=CPUS * 1000,
            max_jobs=1 if world.plan.one_at_a_time else 3,
            container_ahead=world.plan.one_at_a_time,
            presence_ttl_s=LEASE_S,
            hold_s=world.plan.hold_s,
            drain_timeout_s=world.plan.drain_timeout_s,
            on_lost_contact=OnLostContact.STOP if world.plan.stop_on_lost_contact else OnLostContact.CONTINUE,
        )
        info = await grip.info()
        self.agent = Agent(broker, grip, machine.clock, settings, world.spec, info, machine.agent_id, ())
        await self.agent.run(self.stop, self.abort)

    def announced(self) -> None:
        """Its entry is there: from now on it counts as being in contact."""
        if not self.ready:
            self.ready = True
            self.machine.look()

    def kill(self) -> None:
        """End it as kill -9 does: nothing more is said, and nothing heard."""
        self.die()
        self.task.cancel()
        asyncio.get_running_loop().call_later(DEATH_S, self._must_be_dead)

    def _must_be_dead(self) -> None:
        if not self.task.done():
            self.machine.world.defect(f"{self.machine.agent_id}: a cancelled agent does not end")

    def die(self) -> None:
        """Nothing it still does has any effect."""
        self.alive = False
        self.link.close()
        self.machine.look()

    async def ended(self) -> None:
        """Wait until it has ended; any way that is not foreseen is a defect."""
        world, name = self.machine.world, self.machine.agent_id
        await asyncio.wait({self.task})
        error = None if self.task.cancelled() else self.task.exception()
        if error is None or not self.alive:
            world.note(f"{name}: the process ended")
        elif isinstance(error, LaunchError):
            world.note(f"{name}: the process gave up: {error.message}")
        else:
            told = "".join(traceback.format_exception(error))
            world.defect(f"{name}: the agent died: {told}")
