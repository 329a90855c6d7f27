"""Files that outlive their container: what a store of them can do, and the list of what an attempt left.

A store is a flat space of names with slashes in them, of up to 1,024 bytes (in S3 the prefix included). Two kinds
exist: the object stores in NATS (the default), and S3. One suite in `tests/contract/` holds every implementation to
this text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from launch.fields import Count

IN_NATS = "nats"
"""What a record says of files that are kept in NATS; anything else is an `s3://` URL."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is there, whole: its name, its size in bytes, its SHA-256 in hex.

    The checksum is empty where it is not known: of what another program put into S3.
    """

    name: str
    size: int
    sha256: str


class Files(Protocol):
    """A store. Memory stays flat whatever a file's size.

    Every method raises `StoreUnavailable` when no answer comes, `StoreClosed` when the store would refuse any file (it
    is full, access is denied), and another `StoreError` when it refuses this one.
    """

    @property
    def where(self) -> str:
        """For records and people: `IN_NATS`, or `s3://bucket/prefix`."""
        ...

    async def put(self, name: str, data: AsyncIterable[bytes], *, size: int | None = None) -> StoredFile:
        """Store a file, replacing one of the same name; it appears whole, or not at all.

        `size` helps where it is known beforehand. A put that failed half-way is taken up by the next put of the same
        name where the store can do that. What `data` raises is raised here, and nothing is stored.
        """
        ...

    async def info(self, name: str) -> StoredFile | None:
        """What is there under this name, or None."""
        ...

    def read(self, name: str) -> AsyncGenerator[bytes]:
        """The file's bytes, in pieces. Raises `NotFound`, and `StoreError` at the end if its checksum is wrong."""
        ...

    async def list(self, prefix: str) -> list[StoredFile]:
        """All files whose names begin so, by name. `sha256` may be empty where only a look at each would tell."""
        ...

    async def delete(self, name: str) -> None:
        """Remove it; no error if it is not there."""
        ...

    async def close(self) -> None:
        """Release connections of its own. Idempotent."""
        ...


class ArtifactFile(BaseModel):
    """One file that an attempt left: `path` is relative, with slashes, and never climbs out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    size: Count
    sha256: str
    mode: int = 0o644
    """Permission bits."""
    name: str
    """In the store."""


class Manifest(BaseModel):
    """What one attempt left; a JSON file beside the files."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    attempt: int
    stored_at: datetime
    files: tuple[ArtifactFile, ...] = ()
    left_out: tuple[str, ...] = ()
    """Paths that are neither file nor folder (links, sockets, devices), or that the store refused, up to 100."""


class StoredArtifacts(BaseModel):
    """What a record says of an attempt's artifacts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    where: str
    """The store: `nats`, or an `s3://` URL."""
    manifest: str | None = None
    """The name of the `Manifest` in the store; None if nothing was stored."""
    files: Count = 0
    size: Count = 0
    """Bytes."""
    error: str | None = None
    """Why some, or all, could not be stored."""
