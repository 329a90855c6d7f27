"""A queue's stream as JetStream keeps it: WorkQueue retention, durables, ack waits, redelivery, waiting pulls.

Owns no asyncio task: timers are the loop's, so a loop with virtual time drives them. The invariant: a message is in
`messages` until it is acked, terminated or discarded, and each durable knows it as fresh, held or to be sent again.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from launch.errors import QueueFull
from launch.ports import Clock, ConsumerStatus, Delivery, Depth, Message
from launch.subjects import HEADER_MSG_ID, JobId, WorkConsumer, work_stream


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The settings of a stream that `apply` looks after."""

    retention: str = "workqueue"
    storage: str = "file"
    dedupe_s: float = 120.0
    max_bytes: int = 2**40


_arrivals = itertools.count()


@dataclass(eq=False, slots=True)
class Pull:
    """One waiting request for one job from each of several durables."""

    rank: int
    arrived: int = field(default_factory=lambda: next(_arrivals))
    deliveries: list[Delivery] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    refused: bool = False

    def give(self, delivery: Delivery) -> None:
        """Hand over a job and wake whoever waits."""
        self.deliveries.append(delivery)
        self.answered.set()

    def refuse(self) -> None:
        """The durable is gone; there will be no answer."""
        self.refused = True
        self.answered.set()


class WorkStream:
    """The messages of one queue and the durables over them."""

    def __init__(
        self, queue: str, config: StreamConfig, *, ack_wait_s: float, clock: Clock, after_seq: int = 0
    ) -> None:
        self.queue = queue
        self.config = config
        self.ack_wait_s = ack_wait_s
        self.paused = False
        self.last_seq = after_seq
        self.messages: dict[int, Message] = {}
        self.durables: dict[str, Durable] = {}
        self._clock = clock
        self._bytes = 0
        self._msg_ids: dict[str, tuple[int, float]] = {}

    def publish(self, consumer: WorkConsumer, body: bytes, headers: Mapping[str, str]) -> tuple[int, bool]:
        """Store a message; returns its sequence, and whether it was a duplicate. Raises `QueueFull`."""
        msg_id = headers.get(HEADER_MSG_ID)
        known = self.known(msg_id) if msg_id is not None else None
        if known is not None:
            return known, True
        size = len(body) + sum(len(k) + len(v) for k, v in headers.items())
        self.check_room(size)
        self.last_seq += 1
        seq = self.last_seq
        if msg_id is not None:
            self._msg_ids[msg_id] = (seq, asyncio.get_running_loop().time() + self.config.dedupe_s)
        message = Message(JobId(self.queue, seq), consumer, body, self._clock.now(), dict(headers))
        self.messages[seq] = message
        self._bytes += size
        durable = self.durables.get(consumer.name)
        if durable is not None:
            durable.fresh.append(seq)
            durable.dispatch()
        return seq, False

    def known(self, msg_id: str) -> int | None:
        """The sequence of the message that had this id, if that was within the window."""
        seq, until_s = self._msg_ids.get(msg_id, (0, 0.0))
        return seq if seq and asyncio.get_running_loop().time() < until_s else None

    def check_room(self, size: int) -> None:
        """Raises `QueueFull` if there is no room for so many bytes more."""
        if self._bytes + size > self.config.max_bytes:
            raise QueueFull(f"queue '{self.queue}' is full: {len(self.messages)} jobs, {self._bytes} bytes")

    def durable(self, consumer: WorkConsumer) -> Durable:
        """The durable for these jobs, made if there is none."""
        found = self.durables.get(consumer.name)
        if found is None:
            found = Durable(self, consumer, [s for s, m in self.messages.items() if m.consumer == consumer])
            self.durables[consumer.name] = found
        return found

    def remove(self, seq: int) -> bool:
        """Take a message out for good, whoever holds it; whether it was there."""
        message = self.messages.pop(seq, None)
        if message is None:
            return False
        self._bytes -= len(message.body) + sum(len(k) + len(v) for k, v in message.headers.items())
        durable = self.durables.get(message.consumer.name)
        if durable is not None:
            durable.forget(seq)
        return True

    def set_paused(self, paused: bool) -> None:
        """Stop or resume deliveries."""
        self.paused = paused
        for durable in self.durables.values():
            durable.dispatch()

    def close(self) -> None:
        """End every timer and every waiting pull: the stream is deleted."""
        for durable in self.durables.values():
            for seq in list(durable.held):
                durable.forget(seq)
            for pull in durable.waiting:
                pull.refuse()
        self.messages.clear()
        self.durables.clear()

    def depth(self) -> Depth:
        """Counts, as stream info gives them."""
        subjects: dict[WorkConsumer, int] = {}
        for message in self.messages.values():
            subjects[message.consumer] = subjects.get(message.consumer, 0) + 1
        first = next(iter(self.messages), self.last_seq + 1)
        return Depth(len(self.messages), first, self.last_seq, subjects)


class Durable:
    """One durable consumer: explicit ack, no limit on deliveries, pulls served by rank."""

    def __init__(self, stream: WorkStream, consumer: WorkConsumer, fresh: list[int]) -> None:
        self.consumer = consumer
        self.fresh = deque(fresh)
        self.again: deque[int] = deque()
        self.held: dict[int, asyncio.TimerHandle] = {}
        self.delivered: dict[int, int] = {}
        self.waiting: list[Pull] = []
        self._stream = stream
        self._sent = 0

    def take(self) -> Delivery | None:
        """The next job that is ready, now held; what must be sent again goes first."""
        if self._stream.paused:
            return None
        source = self.again or self.fresh
        if not source:
            return None
        seq = source.popleft()
        count = self.delivered[seq] = self.delivered.get(seq, 0) + 1
        self._sent += 1
        self._hold(seq, self._stream.ack_wait_s)
        reply = f"$JS.ACK.{work_stream(self._stream.queue)}.{self.consumer.name}.{count}.{seq}.{self._sent}"
        return Delivery(self._stream.messages[seq], reply, count)

    def ask(self, pull: Pull) -> None:
        """Add a waiting request: lowest rank first, among equals the one that came first."""
        bisect.insort(self.waiting, pull, key=lambda p: (p.rank, p.arrived))
        self.dispatch()

    def withdraw(self, pull: Pull) -> None:
        """Take a request back, if it still waits here."""
        if pull in self.waiting:
            self.waiting.remove(pull)

    def dispatch(self) -> None:
        """Serve waiting requests while there are jobs."""
        while self.waiting:
            delivery = self.take()
            if delivery is None:
                return
            self.waiting.pop(0).give(delivery)

    def progress(self, seq: int) -> None:
        """Start the ack wait anew. Too late for a job that already waits to be sent again."""
        if seq in self.held and seq not in self.again:
            self._hold(seq, self._stream.ack_wait_s)

    def nak(self, seq: int, delay_s: float) -> None:
        """Send it again, now or later."""
        if seq not in self.held or seq in self.again:
            return
        if delay_s > 0:
            self._hold(seq, delay_s)
        else:
            self.send_again(seq)

    def send_again(self, seq: int) -> None:
        """Its wait is over: the next pull gets it."""
        if seq in self.held and seq not in self.again:
            self.held[seq].cancel()
            self.again.append(seq)
            self.dispatch()

    def forget(self, seq: int) -> None:
        """The message is gone from the stream."""
        self.delivered.pop(seq, None)
        timer = self.held.pop(seq, None)
        if timer is not None:
            timer.cancel()
        line = self.fresh if timer is None else self.again
        if seq in line:
            line.remove(seq)

    def status(self) -> ConsumerStatus:
        """Counts, as consumer info gives them."""
        return ConsumerStatus(self.consumer, len(self.fresh), len(self.held), len(self.waiting))

    def _hold(self, seq: int, wait_s: float) -> None:
        timer = self.held.get(seq)
        if timer is not None:
            timer.cancel()
        self.held[seq] = asyncio.get_running_loop().call_later(wait_s, self.send_again, seq)
