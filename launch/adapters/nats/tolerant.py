"""The vendor's client, but whatever a publisher sends as headers, and whoever stops waiting, the connection goes on.

nats-py stops reading for good at a header block that it can't take apart, and at a pong for which nobody waits any
more; and it takes a header `Status` that a publisher wrote for the server's own word, which stands in the block's first
line. What the server says of a stored message stands in the block's last lines, behind whatever the publisher sent: it
is heard even if the rest makes no sense.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import nats.errors
from nats.aio.client import Client

_SENT_AT_ONCE = 256 * 1024
_BEGIN = b"NATS/1.0"
_OWN_WORDS = ("Status", "Description")
_OWN_PREFIX = b"Nats-"
_LAST_LINES = 12
"""More than the server adds to a message that it reads back or republishes."""


class TolerantClient(Client):
    """A client that neither a stranger's header nor a cancelled flush can stop."""

    async def _process_headers(self, headers: bytes | bytearray | None) -> dict[str, str] | None:
        if not headers:
            return None
        line = bytes(headers).partition(b"\r\n")[0]
        found: dict[Any, str] | None = None
        if line.startswith(_BEGIN) and line != headers:
            try:
                found = await super()._process_headers(headers)
            except (ValueError, IndexError):  # UnicodeDecodeError is a ValueError
                found = None
        if found and not line.startswith(_BEGIN + b" "):
            for name in _OWN_WORDS:
                found.pop(name, None)
        return {**(found or {}), **_last_lines(bytes(headers))} or None

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():  # its flush was cancelled, or took too long
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def publish_all(self, messages: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Publish many messages without answers: subject, headers, and body, as they are on the wire.

        The caller answers for subjects and headers. One by one through `publish` they cost four times as much.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        block = bytearray()
        for subject, headers, body in messages:
            if len(headers) + len(body) > self.max_payload:
                raise nats.errors.MaxPayloadError
            block += b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(headers), len(headers) + len(body), headers, body)
            if len(block) >= _SENT_AT_ONCE:
                await self._send(block)
                block = bytearray()
        await self._send(block)

    async def _send(self, block: bytearray) -> None:
        """Hand on to the connection, which waits for the socket where too much waits already."""
        if not self.is_connected:
            raise nats.errors.OutboundBufferLimitError
        await self._send_command(bytes(block))
        await self._flush_pending()


def _last_lines(headers: bytes) -> dict[str, str]:
    """What the last lines of a block say that begin as the server's do; of two of a name the last."""
    found: dict[str, str] = {}
    for line in reversed(headers.rstrip(b"\r\n").rsplit(b"\r\n", _LAST_LINES)[1:]):
        name, colon, value = line.partition(b": ")
        if not (colon and name.startswith(_OWN_PREFIX) and line.isascii()):
            break
        found.setdefault(name.decode(), value.decode())
    return found
