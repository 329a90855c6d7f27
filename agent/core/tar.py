"""Tar archives as the engine writes and reads them: taken apart from pieces of any size, and made piece by piece.

Pure, and flat in memory: a file's content passes through as it comes, only headers are kept, and these are bounded.
Pax and GNU long names are understood; sparse formats are not (the engine writes the holes out).
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)
MAX_EXTRA_BYTES: Final = 1024**2
"""A name, or what else a header may need besides its block."""

_LONG: Final = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SPARSE: Final = "the archive has a sparse entry, which is not understood"


class BadTar(ValueError):
    """These bytes are no archive, or one that is not understood."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    FOLDER = "folder"
    HARD_LINK = "hard link"
    OTHER = "other"
    """A symbolic link, a device, a pipe, a socket."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its path as written, without slashes at its ends; for a hard link also the path that it repeats."""

    path: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    link: str = ""


class TarParser:
    """Takes an archive apart. After the last piece, `complete` says whether it had come to its end."""

    def __init__(self) -> None:
        self.complete = False
        self._head = bytearray()
        self._want = BLOCK
        self._left = 0
        self._padding = 0
        self._special: bytes | None = None
        self._special_size = 0
        self._extra: dict[str, str] = {}
        self._globals: dict[str, str] = {}

    def feed(self, data: bytes) -> list[Entry | bytes]:
        """Entries, each followed by the pieces of its content, as far as they are here. Raises `BadTar`."""
        found: list[Entry | bytes] = []
        position, end = 0, len(data)
        while position < end and not self.complete:
            if self._left:
                piece = data if not position and end <= self._left else data[position : position + self._left]
                found.append(piece)
                position += len(piece)
                self._left -= len(piece)
            elif self._padding:
                skipped = min(self._padding, end - position)
                position += skipped
                self._padding -= skipped
            else:
                piece = data[position : position + self._want - len(self._head)]
                self._head += piece
                position += len(piece)
                if len(self._head) == self._want:
                    entry = self._header(bytes(self._head))
                    self._head.clear()
                    if entry is not None:
                        found.append(entry)
        return found

    def _header(self, block: bytes) -> Entry | None:
        """Take in a block, or the whole of what a special entry holds."""
        if self._special is not None:
            self._take_extra(self._special, block)
            self._special, self._want = None, BLOCK
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if not any(block):
                self.complete = True
                return None
            raise BadTar(f"the archive is damaged: {error}") from None
        if info.type in _LONG or info.type in _PAX or info.type == tarfile.XGLTYPE:
            if not 0 < info.size <= MAX_EXTRA_BYTES:
                raise BadTar(f"the archive has a header of {info.size} bytes; allowed: 1 to {MAX_EXTRA_BYTES}")
            self._special, self._special_size = info.type, info.size
            # What is behind the header's content, up to the next block, is skipped as part of it.
            self._want = info.size + -info.size % BLOCK
            return None
        return self._entry(info)

    def _take_extra(self, kind: bytes, content: bytes) -> None:
        content = content[: self._special_size]
        if kind in _LONG:
            self._extra[_LONG[kind]] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return
        into = self._globals if kind == tarfile.XGLTYPE else self._extra
        while content:
            length, space, _ = content.partition(b" ")
            if not space or not length.isdigit() or not len(length) < int(length) <= len(content):
                raise BadTar("the archive has an extended header that makes no sense")
            key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
            into[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            content = content[int(length) :]

    def _entry(self, info: tarfile.TarInfo) -> Entry:
        extra, self._extra = {**self._globals, **self._extra}, {}
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extra):
            raise BadTar(_SPARSE)
        size = info.size
        if "size" in extra:
            if not extra["size"].isdecimal():
                raise BadTar("the archive has a size that is no number")
            size = int(extra["size"])
        if size < 0:
            raise BadTar("the archive has a negative size")
        path = extra.get("path", info.name)
        link = extra.get("linkpath", info.linkname)
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            self._left, self._padding = size, -size % BLOCK
        else:
            size = 0
        if info.isreg():
            kind = Kind.FILE
        elif info.isdir():
            kind = Kind.FOLDER
        else:
            kind = Kind.HARD_LINK if info.islnk() else Kind.OTHER
        return Entry(path.strip("/"), kind, size, info.mode & 0o7777, link.strip("/"))


def file_header(path: str, size: int, mode: int = 0o644) -> bytes:
    """What comes before a file's content; `padding` comes after it."""
    return _header_of(path, tarfile.REGTYPE, size, mode)


def folder_header(path: str, mode: int) -> bytes:
    """A folder, the whole of it."""
    return _header_of(path, tarfile.DIRTYPE, 0, mode)


def padding(size: int) -> bytes:
    """What fills a file's last block."""
    return bytes(-size % BLOCK)


def _header_of(path: str, kind: bytes, size: int, mode: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.size, info.mode = kind, size, mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def clean_path(path: str) -> str | None:
    r"""A relative path as text that can be written anywhere; None for one that climbs out, or names nothing.

    Bytes that are no UTF-8 become `\xNN`, and so do control characters, which not every store takes in a name.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        return None
    text = "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
