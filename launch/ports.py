"""What the rest may ask of the world: the broker, in this project's words, and the clock.

Every method that talks to the broker raises `BrokerUnavailable` when no answer comes and `BrokerError` when the answer
is an error without a class of its own; those are not repeated below. Lists, histories and watches leave out an entry
that some other program has spoilt; a `get` of it raises `Unreadable`. Bodies are bytes as published. A watch is an
async generator: close it (`contextlib.aclosing`) when done. It survives reconnects; it first yields what exists, then
`SYNCED` once, then every change in order. One suite in `tests/contract/` holds every implementation to this text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from launch.files import Files
from launch.points import Metrics
from launch.presence import AgentPresence
from launch.queue import QueueSpec
from launch.record import JobRecord
from launch.scaling import Scaling
from launch.subjects import JobId, Priority, WorkConsumer

T = TypeVar("T")


class Clock(Protocol):
    """The only source of time for loops; `core/` gets its `now` as an argument."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A stored value and the revision that a compare-and-set of it must name."""

    value: T
    revision: int


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """A watched key has a new value; `value` is None when it was deleted or has expired."""

    key: str
    value: T | None
    revision: int


class Synced:
    """Marks that a watch has yielded everything that existed when it began."""

    def __repr__(self) -> str:
        return "SYNCED"


SYNCED: Final = Synced()


@dataclass(frozen=True, slots=True)
class Message:
    """A job as it lies in its queue, whether or not somebody holds it."""

    job: JobId
    consumer: WorkConsumer
    body: bytes
    published_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job handed to this agent to deal with.

    `reply` is the token for ack, nak, progress and term: plain text that may be stored and used later, from another
    connection too. `delivered` counts deliveries of this message, 1 for the first.
    """

    message: Message
    reply: str
    delivered: int


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has stored a job. `duplicate`: it had it already, by its message id."""

    job: JobId
    duplicate: bool


class NewJob(NamedTuple):
    """A job that is to be stored."""

    job_type: str
    priority: Priority
    body: bytes


@dataclass(frozen=True, slots=True)
class Depth:
    """How much lies in a queue's stream: every job that has no terminal record yet, running ones included.

    `subjects` counts them by job type and priority; `first_seq` and `last_seq` bound the sequences.
    """

    messages: int
    first_seq: int
    last_seq: int
    subjects: Mapping[WorkConsumer, int]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How a queue's stream and consumers stand, for people and for `--json`."""

    depth: Depth
    consumers: Sequence[ConsumerStatus]
    paused: bool


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """One durable: `pending` never delivered, `unacked` held or waiting for a delayed retry, `waiting` pulls."""

    consumer: WorkConsumer
    pending: int
    unacked: int
    waiting: int


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a job's output: one or more whole lines of one source, as raw bytes.

    `data` keeps the line ends as written; only the last line of an output may lack one. `time` is the engine's
    timestamp (RFC 3339, nanoseconds) of the chunk's first line. `seq` orders chunks; 0 before it is stored.
    """

    source: str
    attempt: int
    time: str
    data: bytes
    seq: int = 0


class Queues(Protocol):
    """Queue specs (KV `queues`) and the streams behind them."""

    async def apply(self, spec: QueueSpec) -> list[str]:
        """Store the spec and make its stream as it should be. Idempotent.

        Returns one line for each thing that was created or repaired; raises `BrokerError` naming drift that can't be
        repaired without loss (another retention or storage).
        """
        ...

    async def get(self, queue: str) -> QueueSpec:
        """Raises `NotFound`, and `Unreadable` if what is stored is no spec."""
        ...

    async def list(self) -> list[QueueSpec]:
        """All queues by name."""
        ...

    async def delete(self, queue: str) -> int:
        """Delete spec (a spoilt one, too) and stream; returns how many jobs were still in it. Raises `NotFound`."""
        ...

    async def status(self, queue: str) -> QueueStatus:
        """Raises `NotFound`."""
        ...

    async def set_paused(self, queue: str, paused: bool) -> None:
        """Stop, or resume, handing out this queue's jobs; running jobs go on.

        Watchers of the specs see the queue's spec again. Raises `NotFound`.
        """
        ...

    def watch(self) -> AsyncGenerator[Changed[QueueSpec] | Synced]:
        """Every queue's spec, by queue name."""
        ...


class Jobs(Protocol):
    """The jobs that lie in the queues."""

    async def publish(
        self, queue: str, job_type: str, body: bytes, *, priority: Priority = Priority.MEDIUM, msg_id: str | None = None
    ) -> Published:
        """Store one job. With `msg_id`, a repeat within the queue's window is recognised and not stored again.

        Raises `NotFound` if there is no such queue, `QueueFull` if it is at its limit.
        """
        ...

    async def publish_batch(self, queue: str, jobs: Sequence[NewJob], *, msg_id: str) -> Published:
        """Store up to 1,000 jobs, all of them or none; returns the first, and the others' ids follow it without a gap.

        A repeat of the same jobs with the same `msg_id` within the queue's window is recognised and not stored again.
        Raises as `publish` does, and `OtherBatch` if the `msg_id` is known for other jobs, or more, or fewer (one alone
        is only known by its place); after `BrokerUnavailable` a repeat tells whether they are stored.
        """
        ...

    async def get(self, job: JobId) -> Message | None:
        """The message as published, or None once it has been acked (or never was)."""
        ...

    async def depth(self, queue: str, *, by_subject: bool = True) -> Depth:
        """How much lies there; without `by_subject` the counts by subject are left out. Raises `NotFound`."""
        ...

    async def peek(self, queue: str, limit: int, *, after_seq: int = 0) -> list[Message]:
        """The first `limit` messages after `after_seq` that lie in the queue, by sequence, held ones included.

        Raises `NotFound`.
        """
        ...

    async def upcoming(self, queue: str, job_types: Sequence[str] | None, limit: int) -> list[Message]:
        """The first `limit` jobs of these types (None: any) that no agent has been given yet, most urgent first.

        Takes nothing: whoever pulls next gets them. What was given and came back is left out. Raises `NotFound`.
        """
        ...

    async def discard(self, job: JobId) -> bool:
        """Take one message out of the queue for good; False if it was not there."""
        ...

    def notices(self, queue: str) -> AsyncGenerator[JobId | None]:
        """Yields a job's id as it is published, in under a millisecond.

        Lossy: no history, and None after every reconnect (and first of all) to say "look again, you may have missed
        some".
        """
        ...


class Records(Protocol):
    """Job records (KV `jobs`)."""

    async def get(self, job: JobId) -> Versioned[JobRecord] | None:
        """None if the job has no record (yet, or any more). Raises `Unreadable` if it has one that is none."""
        ...

    async def create(self, record: JobRecord) -> int:
        """Write the first record of a job; returns its revision. Raises `Conflict` if there is one."""
        ...

    async def update(self, record: JobRecord, revision: int) -> int:
        """Write the record if its revision is still `revision`; returns the new one. Raises `Conflict`."""
        ...

    async def history(self, job: JobId) -> list[JobRecord]:
        """The record's past values, oldest first, the present one last: the job's timeline. Empty if none."""
        ...

    async def recent(self, count: int, *, queue: str | None = None) -> tuple[list[JobRecord], bool]:
        """The `count` records (of one queue) that changed last, in the order of that change; whether there are more."""
        ...

    async def list(self, queue: str | None = None) -> list[JobRecord]:
        """All records (of one queue), by queue and sequence."""
        ...

    def watch(
        self, *, queue: str | None = None, job: JobId | None = None
    ) -> AsyncGenerator[Changed[JobRecord] | Synced]:
        """Records of one job, of one queue, or all; keyed by `str(JobId)`."""
        ...


class Cancels(Protocol):
    """The hint that a cancel request stands in a record; the record is the truth."""

    async def announce(self, job: JobId) -> None:
        """Tell whoever owns the job to look at its record now."""
        ...

    def heard(self, queue: str) -> AsyncGenerator[JobId | None]:
        """Ids of jobs to look at; None (first, and after every reconnect) means: look at all that you hold."""
        ...


class Agents(Protocol):
    """Presence (KV `agents`): entries that expire unless renewed."""

    async def put(self, presence: AgentPresence, *, ttl_s: float) -> None:
        """Write or renew the entry; it expires `ttl_s` (whole seconds, at least 1) after this."""
        ...

    async def remove(self, agent_id: str) -> None:
        """Leave at once; no error if absent."""
        ...

    async def get(self, agent_id: str) -> AgentPresence | None:
        """None if the agent is absent. Raises `Unreadable` if its entry is no presence."""
        ...

    async def list(self, queue: str | None = None) -> list[AgentPresence]:
        """The present agents (of one queue), by id."""
        ...

    async def ask_to_drain(self, agent_id: str) -> None:
        """Tell an agent to take no more work and to leave when it holds nothing.

        Lossy like any hint: its presence says when it has heard.
        """
        ...

    def drain_asked(self, agent_id: str) -> AsyncGenerator[str | None]:
        """The agent's id each time it is asked to drain; None first and after every reconnect."""
        ...

    def watch(self) -> AsyncGenerator[Changed[AgentPresence] | Synced]:
        """All agents, by id; an expiry comes as a change to None at once."""
        ...


class Logs(Protocol):
    """Job output (stream `logs`)."""

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        """Store the chunks in order; returns when all are stored. Chunks must fit `max_chunk_bytes`.

        After an error some of them may be stored, the first ones, and a repeated append stores those again: a job's
        writer checks what is there first.
        """
        ...

    @property
    def max_chunk_bytes(self) -> int:
        """The largest `data` that the server takes in one chunk."""
        ...

    async def last_seq(self, job: JobId) -> int:
        """Sequence of the job's last chunk, 0 if there is none."""
        ...

    def read(self, job: JobId, *, after_seq: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk]:
        """The job's chunks in order from after `after_seq`; what some other program has put among them is left out.

        Ends at the last one that was stored when called, or with `follow` goes on until closed.
        """
        ...

    async def before(self, job: JobId, moment: datetime) -> int:
        """A sequence after which all of the job's chunks come that are stored at `moment` or later; 0 will always do.

        The more of the others come before it, the less is read in vain.
        """
        ...

    async def tail(self, job: JobId, lines: int) -> list[LogChunk]:
        """The last chunks of the job, enough to hold its last `lines` lines (and perhaps some more)."""
        ...


class Work(Protocol):
    """Taking jobs from a queue: the agent's side."""

    def consumers(self, queue: str, job_types: Sequence[str] | None) -> AsyncGenerator[tuple[WorkConsumer, ...]]:
        """The consumers that an agent for these types (None: any) pulls from, most urgent first.

        Yields the new set whenever it changes. Missing durables are created as soon as a job of a new type or priority
        is published. Raises `NotFound` if there is no such queue.
        """
        ...

    async def pull_now(self, queue: str, consumer: WorkConsumer, batch: int) -> list[Delivery]:
        """Up to `batch` jobs that are ready at this moment; does not wait."""
        ...

    async def pull_wait(
        self, queue: str, consumers: Sequence[WorkConsumer], *, rank: int, wait_s: float
    ) -> list[Delivery]:
        """Wait until any of the consumers has a job, at most `wait_s`.

        Of several waiting agents the broker serves the one with the lowest `rank` (0 to 9) first. Usually one delivery;
        more if two consumers answered at the same moment: the caller deals with, or naks, every one. Cancelling it
        loses none for longer than the ack wait.
        """
        ...

    def token(self, message: Message) -> str:
        """A reply token for the delivery of this message that whoever gets it holds, good for every answer below.

        For who must write one down before there is a delivery; the delivery's own is the better one.
        """
        ...

    async def ack(self, reply: str) -> None:
        """Take the job out of the queue for good; returns when the broker has confirmed it.

        Repeats do no harm, and a job, a queue or a consumer that is gone meanwhile is no error.
        """
        ...

    async def nak(self, reply: str, *, delay_s: float = 0.0) -> None:
        """Give the job back, to be delivered again after `delay_s`."""
        ...

    async def term(self, reply: str, *, why: str) -> None:
        """Take the job out of the queue because nobody can ever run it."""
        ...

    async def progress(self, replies: Sequence[str]) -> None:
        """Tell the broker that these are still being worked on: each one's ack wait starts anew."""
        ...


class Leases(Protocol):
    """Leadership (KV `leases`)."""

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        """Take the lease if nobody has it; its revision, or None if somebody has."""
        ...

    async def renew(self, name: str, holder: str, revision: int, *, ttl_s: float) -> int | None:
        """Hold it for another `ttl_s`; the new revision, or None if it was lost."""
        ...

    async def release(self, name: str, revision: int) -> None:
        """Give it up at once, if it is still held at `revision`."""
        ...

    async def holder(self, name: str) -> str | None:
        """Who has it, or None."""
        ...

    async def inherit(self, name: str, holder: str, *, of: str, ttl_s: float) -> int | None:
        """Take the lease from a holder that is known to be dead; None if somebody else has it by now."""
        ...


class Documents(Protocol):
    """Small documents of the scaler's own (KV `scaler`), changed only by compare-and-set."""

    async def get(self, key: str) -> Versioned[bytes] | None:
        """None if there is none."""
        ...

    async def create(self, key: str, value: bytes) -> int:
        """Write it; returns its revision. Raises `Conflict` if there is one."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write it if its revision is still `revision`; returns the new one. Raises `Conflict`."""
        ...

    async def delete(self, key: str) -> None:
        """Remove it; no error if it is not there."""
        ...


class Broker(Protocol):
    """A connection to the broker: one of each of the above."""

    queues: Queues
    jobs: Jobs
    records: Records
    cancels: Cancels
    agents: Agents
    logs: Logs
    work: Work
    leases: Leases
    documents: Documents
    scaling: Scaling
    metrics: Metrics
    code: Files
    """Packed folders, by their SHA-256."""
    artifacts: Files
    """What jobs leave, where their queue names no other store."""

    @property
    def ack_wait_s(self) -> float:
        """How long a delivered job may go without progress before it is delivered again."""
        ...

    @property
    def connected_since(self) -> datetime | None:
        """Since when the connection has stood without a break; None while it is down."""
        ...

    async def close(self) -> None:
        """Flush and leave. Idempotent."""
        ...
