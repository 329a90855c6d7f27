"""The fake broker's metrics: messages as the real stream has them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager

from launch.core.points import PointMessage, Seen, from_message, to_messages
from launch.points import Point
from launch.subjects import HEADER_POINT_ATTEMPT, HEADER_POINT_SOURCE, METRICS_SUBJECTS, JobId
from tests.fakes.broker_link import Inbox, Link


class StoredPoints:
    """What the server keeps of all jobs."""

    def __init__(self) -> None:
        self.messages: dict[str, list[PointMessage]] = {}
        self._readers: dict[str, dict[Callable[[PointMessage], None], None]] = {}

    def append(self, key: str, message: PointMessage) -> None:
        """Store one message, whatever it is, and tell who follows."""
        self.messages.setdefault(key, []).append(message)
        for reader in list(self._readers.get(key, ())):
            reader(message)

    def publish_raw(self, subject: str, body: bytes, headers: dict[str, str]) -> bool:
        """What any NATS client may do; whether the stream listens there."""
        prefix = METRICS_SUBJECTS.removesuffix(">")
        if subject.startswith(prefix):
            self.append(subject.removeprefix(prefix), PointMessage(headers, body))
        return subject.startswith(prefix)

    def forget(self, queue: str) -> None:
        """The queue is deleted."""
        for key in [key for key in self.messages if key.startswith(f"{queue}.")]:
            del self.messages[key]

    @contextmanager
    def reader(self, key: str, reader: Callable[[PointMessage], None]) -> Iterator[None]:
        """Hear every message of a job from now on."""
        self._readers.setdefault(key, {})[reader] = None
        try:
            yield
        finally:
            self._readers[key].pop(reader, None)


class FakeMetrics:
    """`launch.points.Metrics`."""

    def __init__(self, stored: StoredPoints, link: Link) -> None:
        self._stored = stored
        self._link = link

    async def append(self, job: JobId, points: Sequence[Point]) -> None:
        async with self._link.request():
            for message in to_messages(points):
                self._stored.append(job.key, message)

    async def read(self, job: JobId, *, follow: bool = False) -> AsyncGenerator[Point]:
        inbox: Inbox[PointMessage] = Inbox(self._link)
        async with self._link.request():
            for message in self._stored.messages.get(job.key, []):
                inbox.put(message)
        left = len(inbox)
        seen = Seen()
        with self._stored.reader(job.key, inbox.put), self._link.listening(inbox.link_moved):
            while follow or left > 0:
                left -= 1
                headers, body = await inbox.get()
                source, attempt = headers.get(HEADER_POINT_SOURCE, ""), headers.get(HEADER_POINT_ATTEMPT, "")
                for point in from_message(source, attempt, body) or []:
                    if seen.is_new(point):
                        yield point
