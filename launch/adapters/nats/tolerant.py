"""The vendor's client, but for headers: whatever bytes a publisher sends as headers, the connection goes on.

nats-py stops reading for good at a header block that it can't take apart, and takes a header `Status` that a publisher
wrote for the server's own word, which stands in the block's first line. What the server says of a stored message stands
in the block's last lines, behind whatever the publisher sent: it is heard even if the rest makes no sense.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client

_BEGIN = b"NATS/1.0"
_OWN_WORDS = ("Status", "Description")
_OWN_PREFIX = b"Nats-"
_LAST_LINES = 12
"""More than the server adds to a message that it reads back or republishes."""


class TolerantClient(Client):
    """A client that no stranger's header can stop."""

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


def _last_lines(headers: bytes) -> dict[str, str]:
    """What the last lines of a block say that begin as the server's do; of two of a name the last."""
    found: dict[str, str] = {}
    for line in reversed(headers.rstrip(b"\r\n").rsplit(b"\r\n", _LAST_LINES)[1:]):
        name, colon, value = line.partition(b": ")
        if not (colon and name.startswith(_OWN_PREFIX) and line.isascii()):
            break
        found.setdefault(name.decode(), value.decode())
    return found
