"""A stream of bytes, cut anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable


async def chunked(data: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes]:
    """The same bytes, in pieces of `size`; only the last one may be shorter, and none is empty."""
    rest = bytearray()
    async for piece in data:
        start = 0
        if rest:
            start = size - len(rest)
            rest += piece[:start]
            if len(rest) < size:
                continue
            yield bytes(rest)
            rest.clear()
        view = memoryview(piece)
        while len(piece) - start >= size:
            yield bytes(view[start : start + size])
            start += size
        rest += view[start:]
    if rest:
        yield bytes(rest)
