"""The vendor's client, but whatever a publisher sends as headers, and whoever stops waiting, the connection goes on.

nats-py stops reading for good at a header block that it can't take apart, and at a pong for which nobody waits any
more; and it takes a header `Status` that a publisher wrote for the server's own word, which stands in the block's first
line.
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


class TolerantClient(Client):
    """A client that neither a stranger's header nor a cancelled flush can stop."""

    async def _process_headers(self, headers: bytes | bytearray | None) -> dict[str, str] | None:
        if not headers:
            return None
        line = bytes(headers).partition(b"\r\n")[0]
        if not line.startswith(_BEGIN) or (line == headers):
            return None
        try:
            found: dict[Any, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError):  # UnicodeDecodeError is a ValueError
            return None
        if found and line == _BEGIN:
            for name in _OWN_WORDS:
                found.pop(name, None)
        return found

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
