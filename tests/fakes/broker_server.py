"""What the fake server keeps, whoever is connected: streams, buckets, logs, plain subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from launch.errors import BrokerError, LaunchError, NotFound, OtherBatch
from launch.ports import Clock, LogChunk, Published
from launch.queue import QueueSpec
from launch.subjects import HEADER_MSG_ID, JobId, WorkConsumer, parse_job_subject, scaler_report_key
from tests.fakes.broker_bucket import Bucket
from tests.fakes.broker_stream import StreamConfig, WorkStream
from tests.fakes.clock import LoopClock
from tests.fakes.files import FileShelf
from tests.fakes.metrics import StoredPoints
from tests.fakes.scaling import StoredScaling

RECORD_HISTORY = 64
"""How many past values a KV bucket keeps at most."""


class ServerState:
    """The one truth behind all connections. Its methods are instant; `Link.request` is what takes time."""

    def __init__(self, *, clock: Clock | None = None, ack_wait_s: float = 30.0, latency_s: float = 0.0) -> None:
        self.clock: Clock = clock or LoopClock()
        self.ack_wait_s = ack_wait_s
        self.latency_s = latency_s
        self.max_chunk_bytes = 1024 * 1024 - 4096
        self.wanted_config = StreamConfig()
        self.streams: dict[str, WorkStream] = {}
        self.specs = Bucket()
        self.records = Bucket(history=RECORD_HISTORY)
        self.agents = Bucket()
        self.leases = Bucket()
        self.documents = Bucket()
        self.code = FileShelf()
        self.artifacts = FileShelf()
        self.logs: dict[JobId, list[LogChunk]] = {}
        self.points = StoredPoints()
        self.told = StoredScaling()
        self._log_seq = 0
        self._last_seqs: dict[str, int] = {}
        self._subscribers: dict[str, dict[Callable[[Any], None], None]] = {}  # in the order in which they came
        self._log_readers: dict[JobId, dict[Callable[[LogChunk], None], None]] = {}

    # -- queues and jobs --------------------------------------------------------------------------------------------

    def stream(self, queue: str) -> WorkStream:
        """The queue's stream. Raises `NotFound`."""
        found = self.streams.get(queue)
        if found is None:
            raise NotFound(f"there is no queue '{queue}'", hint="make it with: launch queue apply FILE")
        return found

    def apply(self, spec: QueueSpec) -> list[str]:
        """Store the spec, make or repair the stream; returns what was done."""
        queue = spec.queue_name
        done = []
        stream = self.streams.get(queue)
        if stream is None:
            self.streams[queue] = WorkStream(
                queue,
                self.wanted_config,
                ack_wait_s=self.ack_wait_s,
                clock=self.clock,
                after_seq=self._last_seqs.get(queue, 0),
            )
            done.append(f"created the stream of queue '{queue}'")
        elif (stream.config.retention, stream.config.storage) != (
            self.wanted_config.retention,
            self.wanted_config.storage,
        ):
            raise BrokerError(f"the stream of queue '{queue}' has another retention or storage: {stream.config}")
        elif stream.config != self.wanted_config:
            stream.config = self.wanted_config
            done.append(f"repaired the stream of queue '{queue}'")
        body = spec.model_dump_json(exclude_unset=True).encode()
        stored = self.specs.get(queue)
        if stored is None or stored.value != body:
            self.specs.put(queue, body)
            done.append(f"stored the spec of queue '{queue}'")
        return done

    def delete_queue(self, queue: str) -> int:
        """Delete spec and stream; returns how many jobs were in it. Its numbers are never given out again."""
        stream = self.stream(queue)
        left = len(stream.messages)
        del self.streams[queue]
        self._last_seqs[queue] = stream.last_seq
        stream.close()
        self.specs.put(queue, None)
        self.records.purge(lambda key: JobId.from_key(key).queue == queue)
        for job in [job for job in self.logs if job.queue == queue]:
            del self.logs[job]
        self.points.forget(queue)
        self.documents.purge(lambda key: key == scaler_report_key(queue))
        self.told.forget(queue)
        return left

    def publish(self, queue: str, consumer: WorkConsumer, body: bytes, headers: Mapping[str, str]) -> Published:
        """Store a job and tell those who listen. Raises `NotFound` or `QueueFull`."""
        seq, duplicate = self.stream(queue).publish(consumer, body, headers)
        job = JobId(queue, seq)
        if not duplicate:
            self.tell(f"submitted.{queue}", job)
        return Published(job, duplicate)

    def publish_batch(self, queue: str, batch: Sequence[tuple[WorkConsumer, bytes]], msg_id: str) -> Published:
        """Store all of these jobs, or none. Raises `NotFound`, `QueueFull` or `OtherBatch`.

        The first has the message id, the last one that tells of the whole batch.
        """
        stream = self.stream(queue)
        ids = [msg_id, *("" for _ in batch[2:]), f"{msg_id}/{len(batch)}/{hash(tuple(batch))}"][: len(batch)]
        known = stream.known(msg_id)
        if known is not None:
            if stream.known(ids[-1]) is None:
                raise OtherBatch(f"publish to {queue}: the batch {msg_id} was stored before, with other jobs")
            return Published(JobId(queue, known), True)
        stream.check_room(sum(len(body) for _, body in batch) + len(msg_id) + len(HEADER_MSG_ID))
        headers = [{HEADER_MSG_ID: one} if one else {} for one in ids]
        stored = [self.publish(queue, *job, header) for job, header in zip(batch, headers, strict=True)]
        return stored[0]

    def publish_raw(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> Published:
        """What any NATS client does: a publish on a subject. Raises `NotFound` if no stream listens there."""
        try:
            queue, consumer = parse_job_subject(subject)
        except LaunchError as error:
            raise NotFound(f"no stream listens on '{subject}'") from error
        return self.publish(queue, consumer, body, headers or {})

    def change_stream(self, queue: str, **changes: Any) -> None:
        """Somebody changes the stream's settings behind everybody's back; see `StreamConfig`."""
        stream = self.stream(queue)
        stream.config = replace(stream.config, **changes)

    def redeliver_all(self, queue: str) -> None:
        """The consumers' leader is gone: every held message is delivered once more, whatever its ack wait."""
        for durable in self.stream(queue).durables.values():
            for seq in sorted(durable.held):
                durable.send_again(seq)

    # -- plain subscriptions ----------------------------------------------------------------------------------------

    def tell(self, subject: str, item: Any) -> None:
        """Send to whoever is subscribed at this moment."""
        for subscriber in list(self._subscribers.get(subject, ())):
            subscriber(item)

    @contextmanager
    def subscribed(self, subject: str, subscriber: Callable[[Any], None]) -> Iterator[None]:
        """Hear what is sent to a subject."""
        self._subscribers.setdefault(subject, {})[subscriber] = None
        try:
            yield
        finally:
            self._subscribers[subject].pop(subscriber, None)

    # -- logs -------------------------------------------------------------------------------------------------------

    def append_log(self, job: JobId, chunk: LogChunk) -> None:
        """Store one chunk; sequences are those of the one stream of all jobs."""
        if len(chunk.data) > self.max_chunk_bytes:
            raise BrokerError(f"a chunk of {len(chunk.data)} bytes; allowed: at most {self.max_chunk_bytes}")
        self._log_seq += 1
        stored = replace(chunk, seq=self._log_seq)
        self.logs.setdefault(job, []).append(stored)
        for reader in list(self._log_readers.get(job, ())):
            reader(stored)

    @contextmanager
    def log_reader(self, job: JobId, reader: Callable[[LogChunk], None]) -> Iterator[None]:
        """Hear every chunk of a job from now on."""
        self._log_readers.setdefault(job, {})[reader] = None
        try:
            yield
        finally:
            self._log_readers[job].pop(reader, None)
