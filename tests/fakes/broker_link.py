"""One connection to the fake server: up, down or closed, and the faults that a test puts on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Generic, TypeVar

from launch.errors import BrokerUnavailable
from launch.ports import Clock

T = TypeVar("T")


class Link:
    """The state of one connection.

    Every request goes through `request`: it takes `latency_s`, and fails while the connection is down. Tests end and
    restore the connection with `down` and `up`, and let answers go missing with `lose_replies`.
    """

    def __init__(self, name: str, clock: Clock, *, latency_s: float) -> None:
        self.name = name
        self.since: datetime | None = clock.now()
        self.closed = False
        self.lose_replies = 0
        self._clock = clock
        self._latency_s = latency_s
        self._moved = asyncio.Event()  # Set while there is a connection, and once it is closed for good.
        self._moved.set()
        self._listeners: dict[Callable[[], None], None] = {}  # in the order in which they came, each time

    @property
    def is_up(self) -> bool:
        """Whether requests get through."""
        return self.since is not None

    def down(self) -> None:
        """Lose the connection: waiting pulls are forgotten, plain subscriptions miss what follows."""
        if self.is_up:
            self.since = None
            self._moved.clear()
            self._tell()

    def up(self) -> None:
        """Have it again."""
        if not self.is_up and not self.closed:
            self.since = self._clock.now()
            self._moved.set()
            self._tell()

    def close(self) -> None:
        """Leave for good."""
        self.closed = True
        self.since = None
        self._moved.set()
        self._tell()

    def check(self) -> None:
        """Raises `BrokerUnavailable` while there is no connection."""
        if not self.is_up:
            raise BrokerUnavailable(f"'{self.name}' has no connection to NATS")

    async def until_up(self) -> None:
        """Wait for the connection. Raises `BrokerUnavailable` once it is closed for good."""
        await self._moved.wait()
        self.check()

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """One round trip: the body is what the server does."""
        self.check()
        await asyncio.sleep(self._latency_s)
        self.check()
        yield
        if self.lose_replies > 0:
            self.lose_replies -= 1
            raise BrokerUnavailable(f"'{self.name}' got no answer in time")

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` whenever the connection comes, goes or is closed."""
        self._listeners[listener] = None
        try:
            yield
        finally:
            self._listeners.pop(listener, None)

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()


class Inbox(Generic[T]):
    """What a subscription has received and nobody has read yet, for one reader.

    Reading stands still while the connection is down.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._items: deque[T] = deque()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Receive something."""
        self._items.append(item)
        self._changed.set()

    def link_moved(self) -> None:
        """The connection came, went or was closed."""
        self._changed.set()

    async def get(self) -> T:
        """The next item; waits for it. Raises `BrokerUnavailable` once the connection is closed for good."""
        while not self._items or not self._link.is_up:
            if self._link.closed:
                self._link.check()
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()


class LossyInbox(Inbox[T | None]):
    """A plain NATS subscription: misses what is sent while the connection is down.

    Reads None first of all and after every reconnect.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._was_up = link.is_up
        super().put(None)

    def put(self, item: T | None) -> None:
        """Receive something, if there is a connection."""
        if self._link.is_up:
            super().put(item)

    def link_moved(self) -> None:
        """Mark the gap after a reconnect."""
        if self._link.is_up and not self._was_up:
            super().put(None)
        self._was_up = self._link.is_up
        super().link_moved()
