"""The jobs that lie in the queues, and the two lossy hints: "submitted" and "cancelled"."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.nats.connection import REQUEST_TIMEOUT_S, Connection, header_of, parse_time, status_of
from launch.adapters.nats.failures import (
    BATCH_HEADER_REFUSED,
    BATCH_LOST,
    BATCH_REPEATED,
    MESSAGE_DELETE_FAILED,
    MESSAGE_NOT_FOUND,
    SEQUENCE_NOT_FOUND,
    STREAM_FULL,
    STREAM_NOT_FOUND,
    WRONG_LAST_MSG_ID,
    ApiError,
    translated,
)
from launch.adapters.nats.hints import hints
from launch.adapters.nats.queues import consumer_of, list_consumers, read_depth, stream_info, unknown_queue
from launch.errors import (
    BrokerUnavailable,
    BrokerUnsuitable,
    ForgottenBatch,
    LaunchError,
    OtherBatch,
    QueueFull,
)
from launch.ports import Depth, Message, NewJob, Published
from launch.subjects import JobId, Priority

PEEK_PAGE = 500
_BATCH_ID, _BATCH_SEQUENCE, _BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
_EXPECT_LAST_ID = "Nats-Expected-Last-Msg-Id"
_OF_THE_ANSWER = frozenset(
    f"Nats-{name}"
    for name in ("Stream", "Subject", "Sequence", "Time-Stamp", "Num-Pending", "Last-Sequence", "UpTo-Sequence")
)
"""Headers that a direct get adds to those of the stored message."""


class NatsJobs:
    """`launch.ports.Jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def publish(
        self, queue: str, job_type: str, body: bytes, *, priority: Priority = Priority.MEDIUM, msg_id: str | None = None
    ) -> Published:
        subject = subjects.job_subject(queue, job_type, priority)
        ack = await self._publish(queue, subject, body, {subjects.HEADER_MSG_ID: msg_id} if msg_id else {})
        return Published(JobId(queue, ack["seq"]), bool(ack.get("duplicate")))

    async def _publish(self, queue: str, subject: str, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        if not subjects.is_name(queue):
            raise unknown_queue(queue)
        publish = partial(self._connection.publish_stored, subject, body, headers=headers)
        try:
            return await self._connection.of_stream(subjects.work_stream(queue), publish)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                raise unknown_queue(queue) from error
            if error.err_code in STREAM_FULL:
                raise QueueFull(
                    f"queue {queue} is full: {error.description}", hint="wait until it has worked some off"
                ) from error
            raise

    async def publish_batch(self, queue: str, jobs: Sequence[NewJob], *, msg_id: str) -> Published:
        reconnected = False

        def give_up() -> None:
            """A batch does not outlive its connection, nor does its answer."""
            nonlocal reconnected
            if not reconnected:
                waiting.reschedule(0)
            reconnected = True

        try:
            async with asyncio.timeout(None) as waiting:
                with self._connection.on_reconnect(give_up):
                    return await self._publish_batch(queue, jobs, msg_id)
        except TimeoutError:
            raise BrokerUnavailable(f"publish to {queue}: the connection was interrupted") from None

    async def _publish_batch(self, queue: str, jobs: Sequence[NewJob], msg_id: str) -> Published:
        *before, last = jobs
        batch = secrets.token_hex(8)
        named = {(job.job_type, job.priority): _subject(queue, job) for job in jobs}
        begin = f"NATS/1.0\r\n{_BATCH_ID}: {batch}\r\n{_BATCH_SEQUENCE}: ".encode()
        known_as = f"\r\n{subjects.HEADER_MSG_ID}: {msg_id}".encode()
        await self._connection.publish_all(
            (
                named[job.job_type, job.priority].encode(),
                b"%b%d%b\r\n\r\n" % (begin, number, b"" if number > 1 else known_as),
                job.body,
            )
            for number, job in enumerate(before, 1)
        )
        subject = _subject(queue, last)
        whole = _whole_id(msg_id, [named[job.job_type, job.priority] for job in jobs], jobs) if before else msg_id
        commit = {_BATCH_ID: batch, _BATCH_SEQUENCE: str(len(jobs)), _BATCH_COMMIT: "1", subjects.HEADER_MSG_ID: whole}
        try:
            ack = await self._publish(queue, subject, last.body, commit)
        except ApiError as error:
            if error.err_code in BATCH_LOST or error.passing:
                raise BrokerUnavailable(f"publish to {queue}: {error.description}") from error
            if error.err_code == BATCH_HEADER_REFUSED and subjects.HEADER_MSG_ID in error.description:
                raise BrokerUnsuitable(
                    f"publish to {queue}: nats-server 2.12.0 takes no message ids in batches",
                    hint="allowed: 2.12.1 or later; or submit the jobs one by one",
                ) from error
            if error.err_code != BATCH_REPEATED:
                raise
            ack = await self._repeated(queue, subject, msg_id, whole)
        return Published(JobId(queue, ack["seq"] - len(before)), bool(ack.get("duplicate")))

    async def _repeated(self, queue: str, subject: str, msg_id: str, whole: str) -> dict[str, Any]:
        """The ack of the batch that was stored before, if that was this one: a refused batch does not say which it is.

        Raises `OtherBatch` if another one has this `msg_id`.
        """
        if ack := await self._known(queue, subject, whole):
            return ack
        if whole != msg_id and (other := await self._known(queue, subject, msg_id)):
            raise OtherBatch(
                f"publish to {queue}: the batch {msg_id} was stored before, from {queue}/{other['seq']} on, with other "
                "jobs, or with more or fewer",
                hint="give what is not stored yet another message id",
            )
        raise ForgottenBatch(
            f"publish to {queue}: the batch {msg_id} was stored before, but its window ended just now",
            hint=f"see whether it was these jobs (launch jobs -q {queue}) before they are given another message id",
        )

    async def _known(self, queue: str, subject: str, msg_id: str) -> dict[str, Any] | None:
        """The ack of the message that has this id, which may have been worked off.

        Told by a publish that is refused if there is none: no last message has the id that it expects.
        """
        headers = {subjects.HEADER_MSG_ID: msg_id, _EXPECT_LAST_ID: f"not-{secrets.token_hex(8)}"}
        try:
            return await self._publish(queue, subject, b"", headers)
        except ApiError as error:
            if error.err_code != WRONG_LAST_MSG_ID:
                raise
            return None

    async def get(self, job: JobId) -> Message | None:
        try:
            msg = await self._connection.direct_get(subjects.work_stream(job.queue), {"seq": job.seq})
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise
        return None if msg is None else _stored(job.queue, msg)

    async def depth(self, queue: str, *, by_subject: bool = True) -> Depth:
        return await read_depth(self._connection, queue, subjects_wanted=by_subject)

    async def peek(self, queue: str, limit: int, *, after_seq: int = 0) -> builtins.list[Message]:
        state = (await stream_info(self._connection, queue))["state"]
        found: list[Message] = []
        seq = max(state["first_seq"], after_seq + 1)
        while len(found) < limit and seq <= state["last_seq"]:
            page = await self._page(queue, seq, min(PEEK_PAGE, limit - len(found)))
            if not page:
                break
            found += page
            seq = page[-1].job.seq + 1
        return found

    async def upcoming(self, queue: str, job_types: Sequence[str] | None, limit: int) -> builtins.list[Message]:
        await stream_info(self._connection, queue)  # says if there is none
        found: list[Message] = []
        waiting = [
            (consumer_of(item), int(item["delivered"]["stream_seq"]))
            for item in await list_consumers(self._connection, queue)
            if item["num_pending"]
        ]
        for consumer, given in sorted(waiting, key=lambda one: (one[0].priority.rank, one[0].job_type)):
            if len(found) >= limit:
                break
            if job_types is None or consumer.job_type in job_types:
                found += await self._page(queue, given + 1, limit - len(found), consumer.subject(queue))
        return found

    async def _page(
        self, queue: str, seq: int, count: int, subject_wanted: str | None = None
    ) -> builtins.list[Message]:
        inbox = self._connection.client.new_inbox()
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        found: list[Message] = []
        request = json.dumps(
            {"seq": seq, "batch": count, "next_by_subj": subject_wanted or f"queue.{queue}.>"}
        ).encode()
        subject = f"$JS.API.DIRECT.GET.{subjects.work_stream(queue)}"
        async with self._connection.subscription(inbox, answers.put_nowait):
            await self._connection.publish(subject, request, reply=inbox)
            with translated(f"read queue {queue}"):
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    while not status_of(msg := await answers.get()):
                        found.append(_stored(queue, msg))
        return found

    async def discard(self, job: JobId) -> bool:
        stream = subjects.work_stream(job.queue)
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": job.seq, "no_erase": True})
        except ApiError as error:
            if error.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND):
                return False
            # At the ends of the stream the server answers for a missing message as for a broken store.
            if error.err_code == MESSAGE_DELETE_FAILED and await self.get(job) is None:
                return False
            raise
        return True

    def notices(self, queue: str) -> AsyncGenerator[JobId | None]:
        def job_of(msg: Msg) -> JobId:
            return JobId(queue, int(header_of(msg, "Nats-Sequence")))

        return hints(self._connection, subjects.submitted_subject(queue), job_of)


class NatsCancels:
    """`launch.ports.Cancels`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def announce(self, job: JobId) -> None:
        await self._connection.publish(subjects.cancel_subject(job.queue, job.seq))

    def heard(self, queue: str) -> AsyncGenerator[JobId | None]:
        def job_of(msg: Msg) -> JobId:
            return JobId.parse(f"{queue}/{msg.subject.rpartition('.')[2]}")

        return hints(self._connection, subjects.cancel_subject(queue), job_of)


def _whole_id(msg_id: str, named: Sequence[str], jobs: Sequence[NewJob]) -> str:
    """The id of a batch's last message: known only where a batch of the same jobs was stored, every one of them."""
    digest = hashlib.blake2b(" ".join(named).encode(), digest_size=12)
    digest.update(str([len(job.body) for job in jobs]).encode())
    digest.update(b"".join(job.body for job in jobs))
    return f"{msg_id}/{len(jobs)}/{digest.hexdigest()}"


def _subject(queue: str, job: NewJob) -> str:
    """Checked here, since a batch is written to the wire as it is. Raises `LaunchError`."""
    if not (subjects.is_name(queue) and subjects.is_name(job.job_type)):
        raise LaunchError(f"{queue[:80]!r} or {job.job_type[:80]!r} is no name")
    return subjects.job_subject(queue, job.job_type, job.priority)


def _stored(queue: str, msg: Msg) -> Message:
    _, consumer = subjects.parse_job_subject(header_of(msg, "Nats-Subject"))
    return Message(
        JobId(queue, int(header_of(msg, "Nats-Sequence"))),
        consumer,
        msg.data,
        parse_time(header_of(msg, "Nats-Time-Stamp")),
        {key: value for key, value in (msg.headers or {}).items() if key not in _OF_THE_ANSWER},
    )
