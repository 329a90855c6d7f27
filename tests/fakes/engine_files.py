"""The files of a container in memory, as far as an engine's archives show them: folders, files, links."""

from __future__ import annotations

import copy
import gzip
import io
import tarfile
from dataclasses import dataclass

from agent.ports import PathInfo


@dataclass(slots=True)
class FakeFile:
    """One file or folder; `info` says what it is."""

    info: tarfile.TarInfo
    content: bytes
    modified: str


class FakeTree:
    """Everything in one container that somebody has put there, by path without the leading slash."""

    def __init__(self) -> None:
        self._nodes: dict[str, FakeFile] = {}

    def make_folder(self, path: str, now: str, mode: int = 0o755) -> None:
        """Make a folder with all that are above it; what is there already stays."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            name = "/".join(parts[:count])
            if name and name not in self._nodes:
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, mode
                self._set(name, FakeFile(info, b"", now))

    def write(self, path: str, content: bytes, now: str) -> None:
        """Write a file; folders above it are made."""
        name = path.strip("/")
        self.make_folder(name.rpartition("/")[0], now)
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._set(name, FakeFile(info, content, now))

    def read(self, path: str) -> bytes:
        """A file's content; `KeyError` if it is not there."""
        return self._nodes[path.strip("/")].content

    def paths(self) -> list[str]:
        """All files (no folders), with the leading slash."""
        return sorted(f"/{name}" for name, node in self._nodes.items() if not node.info.isdir())

    def stat(self, path: str) -> PathInfo | None:
        """As the port shows it."""
        name = path.strip("/")
        if not name:
            return PathInfo("/", 4096, is_dir=True, modified="2026-01-01T00:00:00Z")
        node = self._nodes.get(name)
        if node is None:
            return None
        return PathInfo(name.rpartition("/")[2], len(node.content), node.info.isdir(), node.modified)

    def unpack(self, path: str, packed: bytes, now: str) -> None:
        """Take in a tar. Raises `ValueError` if it is none, or ends too early."""
        if packed.startswith(b"\x1f\x8b"):
            try:
                packed = gzip.decompress(packed)
            except (EOFError, OSError) as error:
                raise ValueError(str(error)) from None
        folder = path.strip("/")
        try:
            with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
                for info in tar:
                    name = "/".join(
                        part for part in [*folder.split("/"), *info.name.split("/")] if part not in ("", ".")
                    )
                    if not name:
                        continue
                    self.make_folder(name.rpartition("/")[0], now)
                    read = tar.extractfile(info) if info.isreg() else None
                    content = read.read() if read is not None else b""
                    info.name = name
                    self._set(name, FakeFile(info, content, now))
        except tarfile.TarError as error:
            raise ValueError(str(error)) from None

    def pack(self, path: str) -> bytes:
        """A tar of what is there, its own base name the first entry, written as the Docker Engine does."""
        top = path.strip("/")
        above = len(top.rpartition("/")[0])
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(self._nodes):
                if name == top or name.startswith(f"{top}/"):
                    node = self._nodes[name]
                    info = copy.copy(node.info)
                    info.name = name[above:].lstrip("/") + ("/" if node.info.isdir() else "")
                    tar.addfile(info, io.BytesIO(node.content) if info.isreg() else None)
        return buffer.getvalue()

    def _set(self, name: str, node: FakeFile) -> None:
        """Put it there; the folder that it is new in has changed."""
        parent = self._nodes.get(name.rpartition("/")[0])
        if name not in self._nodes and parent is not None:
            parent.modified = node.modified
        self._nodes[name] = node
