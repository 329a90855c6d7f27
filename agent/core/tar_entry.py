"""The one file of a tar that comes in pieces: what the engine answers when asked for a file.

Pure. Knows as much of the format as that needs: headers of 512 bytes, contents filled up to that, and the entries of
other kinds (long names, times in fractions) that may come before the file.
"""

from __future__ import annotations

from typing import Final

_BLOCK: Final = 512
_FILE: Final = b"0\x007"  # a regular file, by its three spellings
_SIZE = slice(124, 136)
_KIND: Final = 156


class FirstFile:
    """Hands on the content of the first regular file, piece by piece."""

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0
        self._left: int | None = None

    @property
    def ended(self) -> bool:
        """Nothing more is to come."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        """What of the content is in this piece. Raises `ValueError` for what is no tar."""
        while self._left is None and data:
            if self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
                continue
            taken = data[: _BLOCK - len(self._head)]
            self._head += taken
            data = data[len(taken) :]
            if len(self._head) == _BLOCK:
                self._read_head()
        if self._left is None:
            return b""
        content = data[: self._left]
        self._left -= len(content)
        return content

    def _read_head(self) -> None:
        head, self._head = self._head, b""
        if head == bytes(_BLOCK):
            self._left = 0  # the end of the archive
            return
        size = _number(head[_SIZE])
        if head[_KIND] in _FILE:
            self._left = size
        else:
            self._skip = -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int:
    """Octal text, or, where that is too short, binary behind a set bit."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b"\x00 ") or b"0", 8)
