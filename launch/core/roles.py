"""What each NATS role may publish and subscribe to: a role and its queues -> the exact subjects.

The unit of separation is a queue: whoever has a role for a queue sees all of that queue. Two rules keep others out of
it. A consumer on a shared stream is made under its filter's subject (`CONSUMER.CREATE.<stream>.<name>.<filter>`), so
that the server can tell whose keys it reads; and each user has inboxes of its own, since who hears another's inbox
reads the answers meant for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from launch import subjects
from launch.errors import LaunchError

_API = "$JS.API"


class Role(StrEnum):
    """Who connects."""

    PUBLISHER = "publisher"
    """Submits to its queues and follows what becomes of it."""
    OPERATOR = "operator"
    """A publisher that also cancels and retries. A cancel request lies in the job's record: who may write one may write
    any in its queues, and so this is not part of `publisher`."""
    AGENT = "agent"
    SCALER = "scaler"
    VIEWER = "viewer"
    """Sees everything, changes nothing."""
    ADMIN = "admin"
    """Everything: makes queues, streams and buckets."""

    @property
    def per_queue(self) -> bool:
        """Whether it is given for certain queues; the others are for all."""
        return self in (Role.PUBLISHER, Role.OPERATOR, Role.AGENT, Role.SCALER)


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects that a user may publish to and subscribe to; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


_BUCKETS = tuple(
    subjects.bucket_stream(bucket)
    for bucket in (
        subjects.QUEUES_BUCKET,
        subjects.JOBS_BUCKET,
        subjects.AGENTS_BUCKET,
        subjects.LEASES_BUCKET,
        subjects.SCALER_BUCKET,
    )
)
_STORES = tuple(subjects.object_stream(store) for store in (subjects.CODE_STORE, subjects.ARTIFACTS_STORE))
_SHARED = (
    *_BUCKETS,
    *_STORES,
    subjects.LOG_STREAM,
    subjects.METRICS_STREAM,
    subjects.SCALING_STREAM,
    subjects.DECISIONS_STREAM,
)
"""The streams that exist once, whatever the queues."""


def permissions(role: Role, queues: Sequence[str], *, inbox: str, agent_id: str = "*") -> Permissions:
    """The least that works for a role, for `queues` where it is given for certain ones.

    `inbox` is the prefix of this user's inboxes (`_INBOX.<user>`). With an `agent_id` the role `agent` may write only
    this agent's presence. Raises `LaunchError` for a role that needs queues without one.
    """
    if role is Role.ADMIN:
        return Permissions((">",), (">",))
    if role.per_queue and not queues:
        raise LaunchError(f"the role {role} is given for certain queues", hint="name at least one")
    parts: dict[Role, Callable[[Sequence[str]], Permissions]] = {
        Role.PUBLISHER: _publisher,
        Role.OPERATOR: _operator,
        Role.AGENT: lambda names: _agent(names, agent_id),
        Role.SCALER: _scaler,
        Role.VIEWER: lambda _: _viewer(),
    }
    found = parts[role](queues)
    return Permissions(_unique((*_connecting(), *found.publish)), _unique((f"{inbox}.>", *found.subscribe)))


# -- roles ------------------------------------------------------------------------------------------------------------


def _publisher(queues: Sequence[str]) -> Permissions:
    publish = [*_reads_shared(), *_writes_store(subjects.CODE_STORE)]
    for queue in queues:
        publish += subjects.work_stream_subjects(queue)
        publish += [*_reads_queue(queue), *_reads_results(queue)]
    return Permissions(tuple(publish), tuple(map(subjects.submitted_subject, queues)))


def _operator(queues: Sequence[str]) -> Permissions:
    base = _publisher(queues)
    publish = [*base.publish]
    for queue in queues:
        publish += [
            subjects.bucket_subject(subjects.JOBS_BUCKET, f"{queue}.*"),
            f"{_API}.STREAM.MSG.DELETE.{subjects.work_stream(queue)}",
            subjects.cancel_subject(queue),
        ]
    return Permissions(tuple(publish), base.subscribe)


def _agent(queues: Sequence[str], agent_id: str) -> Permissions:
    publish = [
        *_reads_shared(),
        *_writes_store(subjects.ARTIFACTS_STORE),
        subjects.bucket_subject(subjects.AGENTS_BUCKET, agent_id),
    ]
    subscribe = [subjects.drain_subject(agent_id)]
    for queue in queues:
        stream = subjects.work_stream(queue)
        publish += [
            *_reads_queue(queue),
            *_reads_results(queue),
            f"{_API}.CONSUMER.CREATE.{stream}.*.queue.{queue}.>",
            f"{_API}.CONSUMER.PAUSE.{stream}.*",
            f"{_API}.CONSUMER.MSG.NEXT.{stream}.*",
            f"{_API}.STREAM.MSG.GET.{stream}",
            f"{_API}.STREAM.MSG.DELETE.{stream}",
            f"$JS.ACK.{stream}.>",
            subjects.bucket_subject(subjects.JOBS_BUCKET, f"{queue}.*"),
            f"logs.{queue}.*",
            f"metrics.{queue}.*",
        ]
        created = f"$JS.EVENT.ADVISORY.CONSUMER.CREATED.{stream}.>"
        subscribe += [subjects.submitted_subject(queue), subjects.cancel_subject(queue), created]
    return Permissions(tuple(publish), tuple(subscribe))


def _scaler(queues: Sequence[str]) -> Permissions:
    publish = [
        *_reads_shared(),
        *_reads_bucket(subjects.LEASES_BUCKET),
        *_reads_bucket(subjects.SCALER_BUCKET),
        subjects.bucket_subject(subjects.LEASES_BUCKET, ">"),
        subjects.bucket_subject(subjects.SCALER_BUCKET, ">"),
        subjects.drain_subject("*"),
        # Since a moment: a direct get that names its subject in the body, in a stream of machines' lives alone.
        f"{_API}.DIRECT.GET.{subjects.SCALING_STREAM}",
    ]
    for queue in queues:
        publish += [
            *_reads_queue(queue),
            *_reads(subjects.bucket_stream(subjects.JOBS_BUCKET), f"$KV.{subjects.JOBS_BUCKET}.{queue}.>"),
            # The outcome of a job that nobody can run any more.
            subjects.bucket_subject(subjects.JOBS_BUCKET, f"{queue}.*"),
            f"{_API}.STREAM.MSG.DELETE.{subjects.work_stream(queue)}",
            subjects.decision_subject(queue),
            subjects.instance_subject(queue),
        ]
    subscribe = [subjects.submitted_subject(queue) for queue in queues]
    return Permissions(tuple(publish), tuple(subscribe))


def _viewer() -> Permissions:
    publish = [
        f"{_API}.STREAM.INFO.*",
        f"{_API}.STREAM.LIST",
        f"{_API}.STREAM.NAMES",
        f"{_API}.CONSUMER.LIST.*",
        f"{_API}.DIRECT.GET.>",
    ]
    for stream in _SHARED:
        publish += _reads(stream, ">")
    return Permissions(tuple(publish), ("submitted.>",))


# -- what roles are made of -------------------------------------------------------------------------------------------


def _connecting() -> Iterator[str]:
    """What every connection asks at its start."""
    yield f"{_API}.INFO"
    for stream in _SHARED:
        yield f"{_API}.STREAM.INFO.{stream}"


def _reads(stream: str, subject: str) -> Iterator[str]:
    """Reading `subject` of a stream, by key and in order; no other subject of that stream."""
    yield f"{_API}.CONSUMER.CREATE.{stream}.*.{subject}"
    yield f"{_API}.CONSUMER.MSG.NEXT.{stream}.*"
    yield f"{_API}.CONSUMER.DELETE.{stream}.*"
    yield f"{_API}.DIRECT.GET.{stream}.{subject}"


def _reads_bucket(bucket: str) -> Iterator[str]:
    return _reads(subjects.bucket_stream(bucket), subjects.bucket_subject(bucket, ">"))


def _reads_shared() -> Iterator[str]:
    """What whoever works with queues reads, whatever the queue: their specs, who is present, and the files."""
    for bucket in (subjects.QUEUES_BUCKET, subjects.AGENTS_BUCKET):
        yield from _reads_bucket(bucket)
    for store in (subjects.CODE_STORE, subjects.ARTIFACTS_STORE):
        yield from _reads(subjects.object_stream(store), f"$O.{store}.>")


def _reads_queue(queue: str) -> Iterator[str]:
    """A queue's depth, its consumers, the jobs that lie in it, and what its scaler tells."""
    stream = subjects.work_stream(queue)
    yield f"{_API}.STREAM.INFO.{stream}"
    yield f"{_API}.CONSUMER.LIST.{stream}"
    yield f"{_API}.DIRECT.GET.{stream}"
    report = subjects.bucket_subject(subjects.SCALER_BUCKET, subjects.scaler_report_key(queue))
    yield from _reads(subjects.bucket_stream(subjects.SCALER_BUCKET), report)
    yield from _reads(subjects.DECISIONS_STREAM, subjects.decision_subject(queue))
    yield from _reads(subjects.SCALING_STREAM, subjects.instance_subject(queue))


def _reads_results(queue: str) -> Iterator[str]:
    """What became of a queue's jobs."""
    yield from _reads(subjects.bucket_stream(subjects.JOBS_BUCKET), f"$KV.{subjects.JOBS_BUCKET}.{queue}.>")
    yield from _reads(subjects.LOG_STREAM, f"logs.{queue}.*")
    yield from _reads(subjects.METRICS_STREAM, f"metrics.{queue}.*")


def _writes_store(store: str) -> Iterator[str]:
    """Putting files into an object store. A purge names its files in the body: this is all of the store's files."""
    stream = subjects.object_stream(store)
    yield f"$O.{store}.>"
    yield f"{_API}.STREAM.PURGE.{stream}"
    yield f"{_API}.STREAM.MSG.GET.{stream}"
    yield f"{_API}.STREAM.MSG.DELETE.{stream}"


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
