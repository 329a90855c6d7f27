"""One whole agent on the fake broker and the fake engine, in time that costs nothing.

`@simulated` runs a test on a loop whose clock jumps to the next timer as soon as nothing else is to be done: hours of
ack waits and backoffs take milliseconds, the same way each time. `World` has the server, the engine and a client's
connection; `World.agent()` is an agent at work. What agents write, answer and ask of the engine is in `World.journal`,
in order, and `journal.until` waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import _AsyncGeneratorContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ParamSpec

from agent.main import Agent
from agent.secrets import Secrets
from agent.settings import AgentSettings
from launch.core.states import State
from launch.ports import Synced, Versioned
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.record import CancelRequest, JobRecord
from launch.subjects import JobId, Priority
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.broker_link import Link
from tests.fakes.broker_stores import FakeRecords
from tests.fakes.broker_work import FakeWork
from tests.fakes.clock import LoopClock
from tests.fakes.engine import FakeContainer, FakeEngine, Script

P = ParamSpec("P")

QUEUE = "q"
IMAGE = "busybox:1"
LATENCY_S = 0.001
ACK_WAIT_S = 30.0
LIMIT_S = 4 * 3600.0
"""A test that has not come to its end after so much virtual time hangs."""

HOLD = ("hold",)
"""A command that runs until it is told to stop."""


# -- time -----------------------------------------------------------------------------------------------------------


class JumpingSelector(selectors.DefaultSelector):
    """Does not wait: where the loop would, its time moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self, selector: JumpingSelector | None = None) -> None:
        self._jumping = selector or JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds, from wherever the selector has jumped to."""
        return self._jumping.now_s


def simulated(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LIMIT_S):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(bounded())

    return run


# -- what happened --------------------------------------------------------------------------------------------------


class Journal(list[tuple[str, str]]):
    """Effects in order: `("record", state)`, `("ack", job)`, and the engine's calls. Tells who waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def append(self, entry: tuple[str, str]) -> None:
        super().append(entry)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, what: str, count: int = 1) -> None:
        """Wait until there are `count` entries of this kind."""
        while self.count_of(what) < count:
            await self._changed.wait()

    def count_of(self, what: str) -> int:
        """How many entries of this kind there are."""
        return sum(1 for step, _ in self if step == what)

    def steps(self, *wanted: str) -> list[str]:
        """The wanted kinds in order; records as `record:state`."""
        return [f"{step}:{about}" if step == "record" else step for step, about in self if step in wanted]


class JournalRecords(FakeRecords):
    """Notes every write that the broker has taken.

    A test may come in between, where `instead_of_get`, `before_write` and `on_stored` are.
    """

    def __init__(self, server: FakeServer, link: Link, journal: Journal) -> None:
        super().__init__(server, link)
        self._journal = journal
        self.instead_of_get: Callable[[JobId], Awaitable[Versioned[JobRecord] | None]] = super().get
        self.before_write: Callable[[JobRecord], Awaitable[None]] = _pass_by
        self.on_stored: Callable[[JobRecord], Awaitable[None]] = _pass_by

    async def get(self, job: JobId) -> Versioned[JobRecord] | None:
        return await self.instead_of_get(job)

    async def create(self, record: JobRecord) -> int:
        await self.before_write(record)
        revision = await super().create(record)
        self._journal.append(("record", str(record.state)))
        await self.on_stored(record)
        return revision

    async def update(self, record: JobRecord, revision: int) -> int:
        await self.before_write(record)
        revision = await super().update(record, revision)
        self._journal.append(("record", str(record.state)))
        await self.on_stored(record)
        return revision


async def _pass_by(_: object) -> None:
    """Where no test comes in between."""


class JournalWork(FakeWork):
    """Notes every answer that the broker has taken."""

    def __init__(self, server: FakeServer, link: Link, journal: Journal) -> None:
        super().__init__(server, link)
        self._journal = journal

    async def ack(self, reply: str) -> None:
        await super().ack(reply)
        self._journal.append(("ack", reply))

    async def nak(self, reply: str, *, delay_s: float = 0.0) -> None:
        await super().nak(reply, delay_s=delay_s)
        self._journal.append(("nak", f"{delay_s:.3f}"))

    async def term(self, reply: str, *, why: str) -> None:
        await FakeWork.ack(self, reply)
        self._journal.append(("term", why))


class SlowEngine(FakeEngine):
    """Takes its time for every call, and for some of them until a test lets go: `engine.gates["remove"]`."""

    gates: dict[str, asyncio.Event]

    async def _call(self, step: str, what: str) -> None:
        await asyncio.sleep(LATENCY_S)
        await super()._call(step, what)
        if step in self.gates:
            await self.gates[step].wait()


class FaultyLink(Link):
    """A connection that loses the answer to its `lose_at`th request, or breaks for a while just before it."""

    def __init__(self, name: str, server: FakeServer) -> None:
        super().__init__(name, server.clock, latency_s=server.latency_s)
        self.requests = 0
        self.lose_at: int | None = None
        self.break_at: int | None = None
        self.broken_for_s = 0.0

    def request(self) -> _AsyncGeneratorContextManager[None]:
        self.requests += 1
        if self.requests == self.lose_at:
            self.lose_replies += 1
        if self.requests == self.break_at:
            self.down()
            asyncio.get_running_loop().call_later(self.broken_for_s, self.up)
        return super().request()


# -- the world ------------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """One agent at work, its connection, and the two ways to stop it."""

    agent: Agent
    broker: FakeBroker
    records: JournalRecords
    link: FaultyLink
    task: asyncio.Task[None]
    stop: asyncio.Event
    abort: asyncio.Event

    async def drained(self) -> None:
        """Ask it to drain and wait until it has ended."""
        self.stop.set()
        await self.task

    async def leave(self) -> None:
        """Make it leave at once."""
        self.abort.set()
        await self.task


@dataclass
class World:
    """A server, an engine, and a client's connection."""

    spec: QueueSpec
    server: FakeServer = field(init=False)
    engine: SlowEngine = field(init=False)
    client: FakeBroker = field(init=False)
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        clock = LoopClock(datetime(2026, 3, 1, tzinfo=UTC))
        self.server = FakeServer(clock=clock, ack_wait_s=ACK_WAIT_S, latency_s=LATENCY_S)
        self.engine = SlowEngine(images=[IMAGE], clock=clock)
        self.engine.gates = {}
        self.engine.scripts[HOLD] = Script(hold=True)
        self.journal = Journal()
        self.engine.calls = self.journal
        self.client = self.server.connect("client")
        self.server.apply(self.spec)

    @asynccontextmanager
    async def agent(
        self,
        *,
        agent_id: str = "a",
        gpus: tuple[str, ...] = (),
        link: FaultyLink | None = None,
        secrets: Secrets | None = None,
        **settings: Any,
    ) -> AsyncIterator[Worker]:
        """An agent that works until the end of the block (then it leaves at once), or until it is stopped."""
        link = link or FaultyLink(agent_id, self.server)
        broker = FakeBroker(self.server, link)
        self.server._connections.append(broker)
        records = JournalRecords(self.server, link, self.journal)
        broker.records, broker.work = records, JournalWork(self.server, link, self.journal)
        wanted = {"queue": QUEUE, "cpu_milli": 4000, "memory_bytes": 2**33, "max_jobs": 4, **settings}
        info = await self.engine.info()
        given = AgentSettings(**wanted)
        clock = self.server.clock
        agent = Agent(broker, self.engine, clock, given, self.spec, info, agent_id, gpus, secrets=secrets)
        stop, abort = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(agent.run(stop, abort), name=f"agent {agent_id}")
        worker = Worker(agent, broker, records, link, task, stop, abort)
        try:
            yield worker
        finally:
            abort.set()
            await task

    # -- a client's view --------------------------------------------------------------------------------------------

    def submit(self, job_type: str = "train", priority: Priority = Priority.MEDIUM, **spec: Any) -> JobId:
        """Publish a job at once."""
        body = json.dumps({"image": IMAGE, **spec}).encode()
        return self.raw(body, job_type, priority)

    def raw(self, body: bytes, job_type: str = "train", priority: Priority = Priority.MEDIUM) -> JobId:
        """Publish any bytes at once."""
        subject = f"queue.{QUEUE}.{job_type}" + ("" if priority is Priority.MEDIUM else f".{priority}")
        return self.server.publish_raw(subject, body).job

    async def until(self, job: JobId, wanted: State | Callable[[JobRecord], bool]) -> JobRecord:
        """Wait until the job's record is in this state (or as wanted)."""
        async with aclosing(self.client.records.watch(job=job)) as changes:
            async for change in changes:
                if isinstance(change, Synced) or change.value is None:
                    continue
                if wanted(change.value) if callable(wanted) else change.value.state is wanted:
                    return change.value
        raise AssertionError("the watch ended")

    async def ended(self, job: JobId) -> JobRecord:
        """Wait until the job has a terminal record."""
        return await self.until(job, lambda record: record.state.terminal)

    async def record(self, job: JobId) -> JobRecord:
        """The job's record as it is now."""
        known = await self.client.records.get(job)
        assert known is not None
        return known.value

    async def states(self, job: JobId) -> list[str]:
        """The job's states in time, repeats left out."""
        found: list[str] = []
        for record in await self.client.records.history(job):
            if not found or found[-1] != record.state:
                found.append(str(record.state))
        return found

    async def cancel(self, job: JobId, *, announce: bool = True) -> None:
        """Ask to cancel a claimed job, as the client does."""
        known = await self.client.records.get(job)
        assert known is not None
        request = CancelRequest(requested_at=self.server.clock.now(), by="somebody@test")
        await self.client.records.update(known.value.model_copy(update={"cancel": request}), known.revision)
        if announce:
            await self.client.cancels.announce(job)

    async def presence(
        self, wanted: Callable[[AgentPresence | None], bool], agent_id: str = "a"
    ) -> AgentPresence | None:
        """Wait until the agent's entry is as wanted."""
        async with aclosing(self.client.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    if wanted(await self.client.agents.get(agent_id)):
                        return await self.client.agents.get(agent_id)
                elif change.key == agent_id and wanted(change.value):
                    return change.value
        raise AssertionError("the watch ended")

    def waiting(self) -> int:
        """How many messages lie in the queue."""
        return len(self.server.stream(QUEUE).messages)

    def container(self, job: JobId, attempt: int = 1) -> FakeContainer:
        """The container of an attempt."""
        name = f"launch-{job.queue}-{job.seq}-{attempt}"
        return next(found for found in self.engine.containers.values() if found.name == name)

    def output(self, job: JobId) -> bytes:
        """What of the job's output the broker has."""
        return b"".join(chunk.data for chunk in self.server.logs.get(job, []))


def make_world(changes: Mapping[str, Any] | None = None) -> World:
    """A world with one queue, with these changes of its spec; needs a running loop."""
    return World(QueueSpec.model_validate({"queue_name": QUEUE, "provider": {"type": "static"}, **(changes or {})}))
