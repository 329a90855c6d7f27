"""Tar archives as the engine writes and reads them: taken apart from pieces of any size, and made piece by piece.

Pure, and flat in memory: a file's content passes through as it comes, only headers are kept, and these are bounded.
Pax and GNU long names are understood; sparse formats are not (the engine writes the holes out). What the engine, which
reads some archives after this, could take for something else is refused: a size in a global header or in odd digits, a
folder with content.
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

MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 3000

_LONG: Final = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_SIZE_FIELD: Final = re.compile(rb"\x80\x00{3}[\x00-\x7f][\x00-\xff]{7}| *[0-7]*[ \x00]*", re.ASCII)
_NUMBER_DIGITS: Final = 19
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NO_SENSE: Final = "the archive has an extended header that makes no sense"
_SPARSE: Final = "the archive has a sparse entry, which is not understood"


class BadTar(ValueError):
    """These bytes are no archive, or one that is not understood."""


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    FOLDER = "folder"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    OTHER = "other"
    """A device, a pipe, a socket."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its path as written, without slashes at its ends; for a link also where it leads."""

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
        self._pax: dict[str, str] = {}
        self._long_names: dict[str, str] = {}

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
        if not _SIZE_FIELD.fullmatch(block[124:136]):
            raise BadTar("the archive has a size that is no number")
        if block[156:157] == tarfile.AREGTYPE and info.isdir() and info.size:
            raise BadTar("the archive has a folder with content")
        if info.type in _LONG or info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
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
            self._long_names[_LONG[kind]] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return
        found: dict[str, str] = {}
        while content:
            length, space, _ = content.partition(b" ")
            if not space or not length.isdigit() or len(length) > _NUMBER_DIGITS:
                raise BadTar(_NO_SENSE)
            if not len(length) < int(length) <= len(content):
                raise BadTar(_NO_SENSE)
            key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
            found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            content = content[int(length) :]
        if kind == tarfile.XHDTYPE:
            self._pax = found  # a second one takes the first one's place
        elif any(key in ("path", "linkpath", "size") or key.startswith("GNU.") for key in found):
            raise BadTar("the archive says of all its files at once what is each one's own")

    def _entry(self, info: tarfile.TarInfo) -> Entry:
        extra = {**self._pax, **self._long_names}
        self._pax, self._long_names = {}, {}
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in extra):
            raise BadTar(_SPARSE)
        size = info.size
        if "size" in extra:
            if not (extra["size"].isascii() and extra["size"].isdecimal() and len(extra["size"]) <= _NUMBER_DIGITS):
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
            kind = Kind.HARD_LINK if info.islnk() else Kind.SYMBOLIC_LINK if info.issym() else Kind.OTHER
        link = link.strip("/") if kind is Kind.HARD_LINK else link
        return Entry(path.strip("/"), kind, size, info.mode & 0o7777, link)


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


def too_long(path: str) -> bool:
    """Whether no usual file system takes it, in a folder of usual depth."""
    data = path.encode("utf-8", "surrogateescape")
    return len(data) > MAX_PATH_BYTES or any(len(part) > MAX_NAME_BYTES for part in data.split(b"/"))


def leads_out(entry: Entry) -> bool:
    """Whether it would lie outside the folder that it is unpacked in, or is a link that climbs out of it.

    A link to an absolute path is none: that is the container's.
    """
    inside = [part for part in entry.path.split("/") if part not in ("", ".")]
    if ".." in inside:
        return True
    if entry.kind is Kind.HARD_LINK:
        return ".." in entry.link.split("/")
    if entry.kind is not Kind.SYMBOLIC_LINK or entry.link.startswith("/"):
        return False
    depth = len(inside) - 1
    for part in entry.link.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return False


def clean_path(path: str) -> str | None:
    r"""A relative path as text that can be written anywhere; None for one that climbs out, or names nothing.

    Bytes that are no UTF-8 become `\xNN`, and so do control characters, which not every store takes in a name.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        return None
    text = "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
