"""One connection to NATS, and the translation of what can go wrong on it.

Owns the vendor's client. Everything above it sees `BrokerUnavailable`, `BrokerUnsuitable`, `ApiError`, and a listener
call after every reconnect; no vendor exception leaves this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import nats.errors
from nats.aio.msg import Msg

from launch.adapters.nats.denials import Denials
from launch.adapters.nats.dial import Dial, reachable
from launch.adapters.nats.failures import ApiError, Complaints, NobodyAnswered, shown, translated
from launch.adapters.nats.identity import DEFAULT_INBOX, client_options
from launch.adapters.nats.tolerant import TolerantClient
from launch.errors import BrokerUnavailable, BrokerUnsuitable, NotPermitted
from launch.login import Credentials

MIN_VERSION = (2, 12)
T = TypeVar("T")

REQUEST_TIMEOUT_S = 5.0
RECONNECT_WAIT_S = 0.25
CLOSE_LIMIT_S = 2.0
UNHEARD_S = 2.0
"""How long a stream that is there is asked again while nobody answers for it."""
UNHEARD_PAUSE_S = 0.05
"""Before the first repeat; twice as long before each further one."""


class Connection:
    """A NATS client that reconnects for ever and tells its listeners when it has."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = TolerantClient()
        self._connected_at: float | None = None
        self._listeners: set[Callable[[], None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._dial: Dial | None = None
        self._complaints = Complaints()
        self._inbox = DEFAULT_INBOX
        self.denials = Denials()

    # -- coming and going ---------------------------------------------------------------------------------------

    async def open(
        self, *, name: str, credentials: Credentials | None, timeout_s: float, any_server: bool = False
    ) -> None:
        """Connect, and check the server unless `any_server` will do.

        Raises `BrokerUnavailable` or `BrokerUnsuitable`, each in one line.
        """
        options = client_options(credentials, self.url)
        self._inbox = options.get("inbox_prefix", DEFAULT_INBOX)
        servers = await reachable(self.url, timeout_s)
        self._dial = Dial(self.url, len(servers))
        connecting = self.client.connect(
            servers,
            name=name,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_disconnect,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # annotated int, used as seconds
            connect_timeout=max(1, round(timeout_s / len(servers))),
            ping_interval=10,
            max_outstanding_pings=2,
            **options,
        )
        try:
            await self._dial.done(connecting, timeout_s)
        except BaseException:
            await self._abandon()
            raise
        finally:
            self._dial = None
        self._connected_at = time.monotonic()
        if not any_server:
            await self._check_server()

    async def _abandon(self) -> None:
        """Close a client that never was connected: it thinks that it has nothing to close."""
        with contextlib.suppress(AssertionError):  # it was not even begun
            await self.close()
        transport = self.client._transport  # noqa: SLF001  (a websocket's session is left open otherwise)
        if transport:
            with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
                transport.close()  # type: ignore[no-untyped-call]  # untyped in nats-py
                # As a task: after a failed TLS handshake the wait ends as if it was us who are cancelled.
                closing = asyncio.ensure_future(transport.wait_closed())  # type: ignore[no-untyped-call]
                await asyncio.wait({closing}, timeout=CLOSE_LIMIT_S)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)

    async def close(self) -> None:
        """Flush and leave. Idempotent."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if not self.client.is_closed:
            # RuntimeError: uvloop's, for a transport whose server was killed.
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError, RuntimeError):
                if self.client.is_connected:
                    await self.client.flush(2)
            with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
                await self.client.close()
        self._connected_at = None

    @property
    def connected_since(self) -> datetime | None:
        """Since when the connection stands without a break; right after the clock was set, too: it is timed apart."""
        if self._connected_at is None:
            return None
        return datetime.now(UTC) - timedelta(seconds=time.monotonic() - self._connected_at)

    async def _check_server(self) -> None:
        version = self.client.connected_server_version
        if (version.major, version.minor) < MIN_VERSION:
            found = f"{version.major}.{version.minor}.{version.patch}"
            await self.close()
            raise BrokerUnsuitable(
                f"the nats-server at {shown(self.url)} is {found}; 2.12 or newer is needed",
                hint="upgrade it, or let `launch up` start the one that comes with nats-launch",
            )
        try:
            await self.api("INFO")
        except (BrokerUnavailable, ApiError) as error:
            await self.close()
            raise BrokerUnsuitable(
                f"JetStream does not answer at {shown(self.url)}: {error.message}",
                hint="start nats-server with -js, or with this project's nats.conf",
            ) from error
        except NotPermitted:
            await self.close()
            raise

    # -- events -------------------------------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        if self._dial is not None:
            self._dial.failed(error)
        elif not self.denials.note(error, self._inbox):
            self._complaints.note(error)

    async def _on_disconnect(self) -> None:
        self._connected_at = None

    async def _on_reconnect(self) -> None:
        self._connected_at = time.monotonic()
        for listener in tuple(self._listeners):
            listener()

    @contextlib.contextmanager
    def on_reconnect(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after every reconnect, within this block."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def in_background(self, task: asyncio.Task[None]) -> None:
        """Own a short task that cleans up after a cancelled call; it ends at the latest with the connection."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- talking ------------------------------------------------------------------------------------------------

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, headers included, in bytes."""
        return int(self.client.max_payload)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        what: str | None = None,
    ) -> Msg:
        """One request, one answer. Raises `NotPermitted` at once if this user may not ask that."""
        task = asyncio.current_task()
        asked = task.cancelling() if task else 0
        denied: list[NotPermitted] = []

        def told(denial: NotPermitted) -> None:
            if not denied:
                waiting.reschedule(0)
            denied.append(denial)

        try:
            async with asyncio.timeout(None) as waiting:
                with translated(what or subject), self.denials.publishing(subject, told):
                    answer: Msg = await self.client.request(
                        subject, payload, timeout=timeout_s, headers=dict(headers) if headers else None
                    )
        except TimeoutError:
            said = denied[0].message.replace(subject.lower(), subject)
            said = said if subject in (what or subject) else f"{what}: {said}"
            raise NotPermitted(said, hint=denied[0].hint) from None
        # Before Python 3.12 the `wait_for` in there loses a cancellation that comes together with the answer.
        if task and task.cancelling() > asked:
            raise asyncio.CancelledError
        return answer

    async def of_stream(self, stream: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` is told by a stream; asked again for a while if nobody heard it although the stream is there.

        The servers of a cluster hear of a new stream, or a new leader, one after the other. What nobody heard was not
        stored either, so that a publish may be repeated. Raises `ApiError` if there is no such stream.
        """
        loop = asyncio.get_running_loop()
        until_s, pause_s = loop.time() + UNHEARD_S, UNHEARD_PAUSE_S
        while True:
            try:
                return await ask()
            except NobodyAnswered:
                await self.api(f"STREAM.INFO.{stream}")
                if loop.time() >= until_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def api(self, subject: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the JetStream API (`$JS.API.<subject>`); raises `ApiError` if it is refused."""
        body = json.dumps(payload).encode() if payload is not None else b""
        answer = await self.request(
            f"$JS.API.{subject}", body, what=f"JetStream {subject.split('.', maxsplit=1)[0].lower()}"
        )
        return _checked(answer.data)

    async def publish_stored(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Publish into a stream; returns the publish ack once it is stored."""
        answer = await self.request(subject, payload, headers=headers, what=f"publish to {subject}")
        return _checked(answer.data)

    async def publish_all(self, messages: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Publish many messages without waiting for an answer: subject, headers and body as they are on the wire."""
        with translated("publish"):
            await self.client.publish_all(messages)

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Publish without waiting for an answer."""
        with translated(f"publish to {subject}"):
            await self.client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)

    async def settled(self) -> None:
        """Return once the server has taken in everything said before, subscriptions included."""
        with translated("flush"):
            # The client's ping overtakes what it still buffers: that is out by the time of the second.
            await self.client.flush(round(REQUEST_TIMEOUT_S))
            await self.client.flush(round(REQUEST_TIMEOUT_S))

    async def direct_get(self, stream: str, wanted: str | Mapping[str, Any], *, what: str | None = None) -> Msg | None:
        """One stored message, the last on a subject or as a query asks, or None.

        Raises `ApiError` if there is no such stream.
        """
        subject, query = f"$JS.API.DIRECT.GET.{stream}", b""
        if isinstance(wanted, str):
            subject = f"{subject}.{wanted}"
        else:
            query = json.dumps(wanted).encode()
        what = what or f"read {stream}"
        answer = await self.of_stream(stream, lambda: self.request(subject, query, what=what))
        return None if status_of(answer) else answer

    @contextlib.asynccontextmanager
    async def subscription(self, subject: str, put: Callable[[Msg], None], *, group: str = "") -> AsyncIterator[None]:
        """Hand each message on `subject` to `put` (which must not block) within this block."""

        async def deliver(msg: Msg) -> None:
            put(msg)

        self.denials.subscribing(subject)
        with translated(f"subscribe to {subject}"):
            sub = await self.client.subscribe(subject, queue=group, cb=deliver)
        try:
            yield
        finally:
            with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
                await sub.unsubscribe()


_ACK = "$JS.ACK."
_STATUS_DIGITS = 3
_UNKNOWN_STATUS = 500
"""Of a control message that makes no sense: a failure."""


def status_of(msg: Msg) -> int:
    """The status code of a control message (404 no messages, 408 expired, 100 heartbeat, …), 0 for a real one.

    Whoever published a stored message may have given it a header `Status`, too; but what a consumer delivers has an
    ack subject, and what a direct get answers has a sequence and a stream, and the server's own words have neither.
    """
    text = header_of(msg, "Status").strip()
    if not text or msg.reply.startswith(_ACK) or (header_of(msg, "Nats-Sequence") and header_of(msg, "Nats-Stream")):
        return 0
    return int(text) if text.isascii() and text.isdecimal() and len(text) == _STATUS_DIGITS else _UNKNOWN_STATUS


def header_of(msg: Msg, name: str) -> str:
    """One header of a message, empty if it has none."""
    return (msg.headers or {}).get(name, "")


_FRACTION = re.compile(r"\.(\d+)")


def parse_time(text: str) -> datetime:
    """A server's RFC 3339 time; nanoseconds are cut to microseconds."""
    return datetime.fromisoformat(_FRACTION.sub(lambda m: "." + m[1][:6].ljust(6, "0"), text)).astimezone(UTC)


def _checked(data: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(data)
    error = answer.get("error")
    if error:
        raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", "unknown error"))
    return answer
