"""The Python API: submit jobs, follow them, cancel them; look at queues and agents.

A `Client` is one connection; what concerns one job is in its handle, `launch.handle.Job`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from launch.bulk import JobIds, submit_all
from launch.core.states import State
from launch.errors import LaunchError, NotFound, Problem, SpecError
from launch.handle import Job
from launch.job import JobSpec
from launch.ports import Broker, Clock, NewJob, QueueStatus, Synced
from launch.presence import AgentPresence, AgentState
from launch.queue import QueueSpec
from launch.record import JobRecord
from launch.settings import Endpoint
from launch.subjects import MAX_SPEC_BYTES, NAME_RULE, JobId, Priority, is_name

if TYPE_CHECKING:
    from launch.code import Progress, Shipped
    from launch.listing import Listing

DEFAULT_JOB_TYPE = "default"
"""The type of a job that names none, in a queue that takes any."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

SPEC_KEPT_S = 1.0
"""A change of a queue's job types takes effect on who submits within so long."""
SPECS_KEPT = 100

DRAIN_HEARD_S = 10.0
"""An agent that is there hears of a drain at once; one that does not within this long has trouble."""


@asynccontextmanager
async def connect(
    server: str | None = None, *, name: str = "launch-client", credentials: Path | None = None
) -> AsyncGenerator[Client]:
    """A connected `Client`, closed at the end of the block.

    Without `server`, NATS is found as `launch.settings` says: `NATS_URL`, a `nats` CLI context, the embedded server of
    this user, or the default address. Raises `BrokerUnavailable` if nobody answers there, `BrokerUnsuitable` if the
    server is too old.
    """
    from launch import server as embedded
    from launch import settings
    from launch.adapters import nats

    running = embedded.find_running(settings.data_dir(os.environ))
    found = usable(
        settings.find_server(server, os.environ, embedded_url=running.url if running else None, credentials=credentials)
    )
    broker = await nats.connect(found.url, name=name, credentials=found.credentials)
    try:
        yield Client(broker)
    finally:
        await broker.close()


def usable(found: Endpoint) -> Endpoint:
    """`found`, if it names a server at all. Raises `LaunchError`."""
    if not found.url:
        raise LaunchError(
            f"{found.source} names no server", hint="allowed: HOST, HOST:PORT or nats://HOST:PORT, several with commas"
        )
    return found


class Client:
    """Everything that a submitter asks of a broker. Usually made by `connect`."""

    def __init__(self, broker: Broker, *, clock: Clock | None = None) -> None:
        if clock is None:
            from launch.adapters.clock import SystemClock

            clock = SystemClock()
        self.broker = broker
        self.clock = clock
        self._known: dict[str, tuple[float, QueueSpec]] = {}

    # -- jobs ---------------------------------------------------------------------------------------------------

    async def submit(
        self,
        queue: str,
        spec: JobSpec,
        *,
        job_type: str | None = None,
        priority: Priority = Priority.MEDIUM,
        msg_id: str | None = None,
        code: Path | None = None,
    ) -> Job:
        """Publish one job; returns once the broker has stored it.

        `code` is a folder that is unpacked in the job's working directory: `ship` it yourself to set a limit, to see
        how far it is, or to hear its warnings.

        The type is `job_type`, or the spec's own; if neither says, the queue's only one, or `default`. With `msg_id`,
        a repeat of the same submit is recognised and gives the same job (`Job.duplicate` says so). Raises `NotFound`
        (no such queue), `QueueFull`, `SpecError` (the types disagree, the queue takes no such type, too large),
        `LaunchError` (a `msg_id` that fits in no header, a folder that can't be packed), `StoreError`.
        """
        check_msg_id(msg_id)
        job_type = _one_type(job_type, spec)
        job_type = _type_in(await self._spec_of(queue), job_type)
        if code is not None:
            spec = spec.model_copy(update={"code": (await self.ship(code)).ref})
        body = _body(spec, job_type)
        published = await self.broker.jobs.publish(queue, job_type, body, priority=priority, msg_id=msg_id)
        return Job(self.broker, self.clock, published.job, duplicate=published.duplicate)

    async def submit_many(
        self,
        queue: str,
        specs: Iterable[JobSpec],
        *,
        job_type: str | None = None,
        priority: Priority = Priority.MEDIUM,
        msg_id: str | None = None,
        skip: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> JobIds:
        """Publish many jobs, in the order given; returns their ids once the broker has stored them all.

        They are stored in batches of 1,000, each whole or not at all; `specs` may be a generator, and is never held in
        memory as a whole. `progress` hears how many of `specs` are stored. With `msg_id` a repeat of the same specs
        within the queue's window of two minutes is recognised, batch by batch (`JobIds.repeated` says how many); other
        specs, or more or fewer in a batch that is known, are refused: they want another id. `skip` leaves out the
        first so many specs, which are stored; batches are counted from there, so only what an error has told as `done`
        goes on with the same `msg_id`.

        Raises `NotFound`, and `BulkInterrupted` for whatever ends it early, a spec that `submit` would refuse too: that
        says what is stored, and how to go on without a double.
        """
        check_msg_id(msg_id)
        if skip < 0:
            raise LaunchError(f"can't skip {skip} jobs", hint="allowed: 0 or more")
        found = await self.broker.queues.get(queue)

        async def jobs() -> AsyncGenerator[NewJob]:
            # Those that are stored are not even looked at: a repeat has to begin while the broker knows it for one.
            for number, spec in enumerate(itertools.islice(specs, skip, None), skip):
                yield new_job(found, spec, job_type, priority, source=f"job {number + 1}")

        msg_id = msg_id or secrets.token_hex(8)
        return await submit_all(self.broker, JobIds(queue), jobs(), msg_id=msg_id, skip=skip, progress=progress)

    async def ship(self, folder: Path, *, limit_bytes: int | None = None, progress: Progress | None = None) -> Shipped:
        """Put a folder where jobs find it, unless it is there; the result's `ref` goes into a `JobSpec` as its `code`.

        Its `.gitignore` and `.dockerignore` are honoured. Packed it may take `limit_bytes` (256 MiB). `progress` hears
        of bytes sent and of all bytes. Raises `LaunchError` (can't be packed, too large), `StoreError`.
        """
        from launch.code import DEFAULT_LIMIT_BYTES, ship

        limit_bytes = DEFAULT_LIMIT_BYTES if limit_bytes is None else limit_bytes
        return await ship(self.broker.code, folder, limit_bytes=limit_bytes, progress=progress)

    def job(self, job: str | JobId) -> Job:
        """A handle on a job; does not look whether it exists. Raises `LaunchError` if `job` is no id."""
        return Job(self.broker, self.clock, JobId.parse(job) if isinstance(job, str) else job)

    async def jobs(
        self, queue: str | None = None, state: State | None = None, *, limit: int | None = None
    ) -> list[JobRecord]:
        """The jobs of one queue or of all, oldest first: records, and queued jobs that have no record yet.

        With `limit`, at most so many that have a record (those that changed last), and in each queue so many that have
        none (the next in line): however many records there are, few are read. Raises `NotFound` if a queue is named
        that does not exist and has left no records, and `NotPermitted`, as of all queues for who has a role for some.
        """
        return (await self.listing(queue, state, limit=limit)).jobs

    async def listing(
        self, queue: str | None = None, state: State | None = None, *, limit: int | None = None
    ) -> Listing:
        """The same, and whether older ones are left out."""
        from launch.listing import list_jobs

        return await list_jobs(self.broker, queue, state, limit)

    async def cancel(self, job: str | JobId) -> JobRecord:
        """`Job.cancel` of the job with this id."""
        return await self.job(job).cancel()

    async def retry(self, job: str | JobId) -> Job:
        """Submit a job that is over once more, as a new job; the old one's record stays.

        It gets the spec that the old one ran with, its queue's defaults of that time included. Raises `NotFound`, and
        `LaunchError` if the job is not over, or never was a valid spec.
        """
        old = await self.job(job).record()
        if not old.state.terminal:
            raise LaunchError(f"{old.id} is {old.state}, not over", hint=f"stop it first with: launch cancel {old.id}")
        if old.spec is None:
            raise LaunchError(f"{old.id} was no valid job: {old.message}", hint="submit a corrected one")
        return await self.submit(old.queue, old.spec, job_type=old.job_type, priority=old.priority)

    # -- queues and agents ----------------------------------------------------------------------------------------

    async def _spec_of(self, queue: str) -> QueueSpec:
        """The queue's spec as it was a second ago at most: who submits one job after the other asks for it once."""
        read_at, spec = self._known.get(queue, (0.0, None))
        now_s = time.monotonic()
        if spec is None or now_s - read_at > SPEC_KEPT_S:
            if len(self._known) >= SPECS_KEPT:
                self._known.clear()
            spec = await self.broker.queues.get(queue)
            self._known[queue] = now_s, spec
        return spec

    async def apply_queue(self, spec: QueueSpec) -> list[str]:
        """Make the queue as the spec says; returns a line for each thing that was created or changed."""
        self._known.pop(spec.queue_name, None)
        return await self.broker.queues.apply(spec)

    async def queues(self) -> list[QueueSpec]:
        """All queues by name."""
        return await self.broker.queues.list()

    async def queue(self, name: str) -> QueueSpec:
        """One queue's spec. Raises `NotFound`."""
        return await self.broker.queues.get(name)

    async def queue_status(self, name: str) -> QueueStatus:
        """How the queue stands. Raises `NotFound`."""
        return await self.broker.queues.status(name)

    async def pause_queue(self, name: str, *, paused: bool = True) -> None:
        """Stop, or resume, handing out the queue's jobs; running jobs go on. Raises `NotFound`."""
        await self.broker.queues.set_paused(name, paused)

    async def delete_queue(self, name: str) -> int:
        """Delete the queue and what lies in it; returns how many jobs that were. Raises `NotFound`."""
        self._known.pop(name, None)
        return await self.broker.queues.delete(name)

    async def agents(self, queue: str | None = None) -> list[AgentPresence]:
        """The agents that are present, by id."""
        return await self.broker.agents.list(queue)

    async def drain_agent(self, agent_id: str, *, timeout: float = DRAIN_HEARD_S) -> AgentPresence | None:
        """Tell an agent to take no more work and to leave once it holds nothing.

        Returns its presence as soon as it says that it drains, None if it has left already. Raises `NotFound` if there
        is no such agent, `TimeoutError` if it does not react.
        """
        if await self.broker.agents.get(agent_id) is None:
            present = [agent.agent_id for agent in await self.broker.agents.list()]
            raise NotFound(f"there is no agent '{agent_id}'", hint=f"present: {', '.join(present) or 'none'}")
        there = False
        async with asyncio.timeout(timeout), aclosing(self.broker.agents.watch()) as changes:
            async for change in changes:
                if isinstance(change, Synced):
                    # Asked only now: one that holds nothing may be gone before a watch has begun.
                    if not there:
                        return None
                    await self.broker.agents.ask_to_drain(agent_id)
                    continue
                if change.key != agent_id:
                    continue
                there = True
                if change.value is None or change.value.state is not AgentState.READY:
                    return change.value
        raise LaunchError("the watch of agents ended early")  # a broker that breaks its contract


def new_job(queue: QueueSpec, spec: JobSpec, job_type: str | None, priority: Priority, *, source: str) -> NewJob:
    """One of many, as it is published. Raises `SpecError`, which says that it is about `source`."""
    try:
        named = _type_in(queue, _one_type(job_type, spec))
        return NewJob(named, priority, _body(spec, named))
    except SpecError as error:
        raise SpecError(f"{source}: {error.source}", error.problems) from error


def check_msg_id(msg_id: str | None) -> None:
    """Raises `LaunchError` for one that fits in no header."""
    if msg_id is not None and (not msg_id.strip() or _CONTROL.search(msg_id)):
        raise LaunchError(f"{msg_id[:80]!r} can't be a message id", hint="allowed: text without control characters")


def _body(spec: JobSpec, job_type: str) -> bytes:
    """The spec as it is published, with its type. Raises `SpecError` if it is too large."""
    if spec.job_type != job_type:
        spec = spec.model_copy(update={"job_type": job_type})
    body = spec.model_dump_json(exclude_unset=True).encode()
    if len(body) > MAX_SPEC_BYTES:
        problem = Problem("", f"found {len(body)} bytes as JSON", f"allowed: at most {MAX_SPEC_BYTES}")
        raise SpecError("the job spec", [problem])
    return body


def _one_type(job_type: str | None, spec: JobSpec) -> str | None:
    if job_type and spec.job_type and job_type != spec.job_type:
        problem = Problem("job_type", f"found '{spec.job_type}' in the spec and '{job_type}' beside it", "allowed: one")
        raise SpecError("the job", [problem])
    if job_type and not is_name(job_type):  # a dot in it would be another subject's: another type, or a priority
        raise SpecError("the job", [Problem("job_type", f"found '{job_type[:80]}'", f"allowed: {NAME_RULE}")])
    return job_type or spec.job_type


def _type_in(queue: QueueSpec, job_type: str | None) -> str:
    types = queue.job_types
    if job_type is None:
        if types is not None and len(types) != 1:
            allowed = f"allowed: one of {', '.join(types)}"
            raise SpecError(f"the queue {queue.queue_name}", [Problem("job_type", "found no job type", allowed)])
        return types[0] if types else DEFAULT_JOB_TYPE
    if types is not None and job_type not in types:
        allowed = f"allowed: {', '.join(types)}"
        raise SpecError(f"the queue {queue.queue_name}", [Problem("job_type", f"found '{job_type}'", allowed)])
    return job_type
