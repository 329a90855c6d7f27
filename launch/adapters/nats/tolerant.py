"""The vendor's client, but for headers: whatever bytes a publisher sends as headers, the connection goes on.

nats-py stops reading for good at a header block that it can't take apart, and takes a header `Status` that a publisher
wrote for the server's own word, which stands in the block's first line.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client

_BEGIN = b"NATS/1.0"
_OWN_WORDS = ("Status", "Description")


class TolerantClient(Client):
    """A client that no stranger's header can stop."""

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
