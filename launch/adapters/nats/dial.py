"""The first connection, and when to give it up: the vendor's client would go on trying for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from launch.adapters.nats.failures import shown, translated
from launch.errors import BrokerUnavailable, LoginRefused

_START_ONE = "is it running? `launch up` starts one; --server or NATS_URL names another"
_REFUSALS = ("authorization", "authentication", "credentials")
"""Of whoever says one of these, another try won't get another answer."""
_HUNG_UP = "it hung up while we logged in"
"""Over TLS that may be all that is seen of a refusal: the server's word for it comes with the end of the connection."""
_LOG_IN = (
    "log in by NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_CERT and NATS_KEY: see docs/security.md, "
    "NATS roles"
)


async def reachable(url: str, timeout_s: float) -> list[str]:
    """The servers that `url` names (several separated by commas), if anybody listens at one of them at all.

    Raises `BrokerUnavailable` if nobody does, or if one is no address.
    """
    servers = [part.strip() for part in url.split(",") if part.strip()]
    if not servers:
        raise BrokerUnavailable("no NATS server is named", hint=_START_ONE)
    try:
        addresses = [_address(server) for server in servers]
    except ValueError as error:
        hint = "an address looks like nats://host:4222; several are separated by commas"
        raise BrokerUnavailable(f"{shown(url)} is no address of a NATS server: {error}", hint=hint) from error
    last: Exception | None = None
    for host, port in addresses:
        try:
            async with asyncio.timeout(timeout_s / len(servers)):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError, ValueError) as error:
            last = error
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return servers
    text = "no answer in time" if isinstance(last, TimeoutError) else str(last)
    raise BrokerUnavailable(f"can't reach NATS at {shown(url)}: {text}", hint=_START_ONE)


def _address(server: str) -> tuple[str | None, int]:
    parts = urlsplit(server if "://" in server else f"nats://{server}")
    return parts.hostname, parts.port or 4222


def _refused(error: Exception) -> bool:
    return any(word in str(error).lower() for word in _REFUSALS)


def _worth_saying(record: logging.LogRecord) -> bool:
    """All but what asyncio says of each TLS connection that the vendor's client has upgraded and the server ends."""
    return "returning true from eof_received() has no effect" not in str(record.msg)


class Dial:
    """Waits for the client's first connection to one of so many servers."""

    def __init__(self, url: str, servers: int) -> None:
        logging.getLogger("asyncio").addFilter(_worth_saying)  # the same one again counts once
        self._url = url
        self._servers = servers
        self._errors: list[Exception] = []
        self._hopeless = asyncio.Event()

    def failed(self, error: Exception) -> None:
        """The client could not connect to one of them."""
        self._errors.append(error)
        if _refused(error) or len(self._errors) >= self._servers:
            self._hopeless.set()

    async def done(self, connecting: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Raises `LoginRefused` if one has refused us, `BrokerUnavailable` once all have failed or the time is over."""
        dial = asyncio.ensure_future(connecting)
        hopeless = asyncio.ensure_future(self._hopeless.wait())
        try:
            await asyncio.wait({dial, hopeless}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not dial.done():
                cause = self._errors[-1] if self._errors else None
                hung_up = isinstance(cause, BrokenPipeError | ConnectionResetError)
                text = _HUNG_UP if hung_up else cause or "no answer in time"
                message = f"can't connect to NATS at {shown(self._url)}: {text}"
                if hung_up or (cause is not None and _refused(cause)):
                    raise LoginRefused(message, hint=_LOG_IN) from cause
                raise BrokerUnavailable(message) from cause
            with translated(f"connect to {shown(self._url)}"):
                dial.result()
        finally:
            for task in (dial, hopeless):
                task.cancel()
            await asyncio.wait({dial, hopeless})
