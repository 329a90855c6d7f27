"""An object store in the layout that NATS clients share (ADR-20): `nats object get` reads what this wrote.

A file is chunks on a subject of its own and, published last, one message that names that subject: until it is there,
the file is not. What a failed put has left is taken away at once where the broker can still be told, else by a later
put of the same name: the chunks' subject carries a hash of the name, so that they are found again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import builtins
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg

from launch import subjects
from launch.adapters.chunking import chunked
from launch.adapters.nats.connection import Connection, header_of, parse_time
from launch.adapters.nats.failures import (
    MESSAGE_NOT_FOUND,
    STREAM_FULL,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    ApiError,
)
from launch.adapters.nats.reader import read_stream
from launch.adapters.nats.upload import Upload
from launch.errors import BrokerError, BrokerUnavailable, NotFound, StoreClosed, StoreError, StoreUnavailable
from launch.files import IN_NATS, StoredFile
from launch.ports import Synced

CHUNK_BYTES = 512 * 1024
"""Measured: 128 KiB reads a third slower, and 1 MiB is the most that many servers take at all."""

READ_AHEAD_BYTES = 8 * 1024**2
HEADER_ROOM = 1024
NAME_LIMIT = 1024
"""Bytes. A longer name would not fit the server's line once it is encoded; it is S3's limit, too."""

LEFT_OVER_AFTER = timedelta(minutes=10)
"""Chunks without a file that are older belong to a put that was killed, not to one that goes on."""
TWIN_PAUSES_S = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Between the tries to say what a name stands for, while others do so, too."""

_DIGEST = "SHA-256="


@dataclass(frozen=True, slots=True)
class _Meta:
    """What the last message of a file says: where its chunks are, and what they make."""

    name: str
    nuid: str
    size: int
    digest: str
    chunk_bytes: int
    deleted: bool

    def stored(self) -> StoredFile:
        """As the port has it; a digest that can't be read is none."""
        try:
            sha256 = base64.urlsafe_b64decode(self.digest.partition("=")[2]).hex()
        except (binascii.Error, ValueError):
            sha256 = ""
        return StoredFile(self.name, self.size, sha256)


class NatsFiles:
    """`launch.files.Files` on one object store."""

    def __init__(self, connection: Connection, store: str, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._connection = connection
        self._store = store
        self._stream = subjects.object_stream(store)
        self._chunk_bytes = chunk_bytes

    @property
    def where(self) -> str:
        return IN_NATS

    async def put(self, name: str, data: AsyncIterable[bytes], *, size: int | None = None) -> StoredFile:
        del size  # chunks take any
        owner = hashlib.sha256(name.encode()).hexdigest()[:24]
        nuid = f"{owner}.{secrets.token_hex(11)}"
        with self._translated(f"store {name}"):
            before = await self._meta(name)
            await self._sweep(owner, before)
            upload = Upload(self._connection, self._stream, self._chunks(nuid))
            try:
                meta = await self._upload(name, nuid, data, upload)
                if upload.chunks < 2:
                    await self._publish_meta(meta, upload.chunks)
                elif (twin := await self._publish_once(meta, upload.chunks, before)) is not None:
                    await self._undo(name, nuid, upload)
                    return twin.stored()
            except BaseException as error:
                undoing = self._in_background(self._undo(name, nuid, upload), f"take away the chunks of {name}")
                if not isinstance(error, asyncio.CancelledError | GeneratorExit | BrokerUnavailable):
                    await asyncio.shield(undoing)
                raise
            await upload.close()
            if before is not None and not before.deleted:
                with contextlib.suppress(BrokerError):  # swept by the next put
                    await self._purge(before.nuid)
        return meta.stored()

    async def info(self, name: str) -> StoredFile | None:
        with self._translated(f"look up {name}"):
            meta = await self._meta(name)
        return None if meta is None or meta.deleted else meta.stored()

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        with self._translated(f"read {name}"):
            meta = await self._meta(name)
        if meta is None or meta.deleted:
            raise NotFound(f"there is no file '{name}' in the store '{self._store}'")
        digest = hashlib.sha256()
        size = 0
        if meta.size:
            batch = max(2, min(128, READ_AHEAD_BYTES // meta.chunk_bytes))
            chunks = read_stream(
                self._connection, self._stream, self._chunks(meta.nuid), after_seq=0, follow=False, batch=batch
            )
            with self._translated(f"read {name}"):
                async with aclosing(chunks):
                    async for msg in chunks:
                        if not isinstance(msg, Synced):
                            digest.update(msg.data)
                            size += len(msg.data)
                            yield msg.data
        if size == meta.size and digest.hexdigest() == meta.stored().sha256:
            return
        with self._translated(f"read {name}"):
            now = await self._meta(name)
        if now is None or now.nuid != meta.nuid:
            raise StoreUnavailable(f"'{name}' was replaced while it was read", hint="read it again")
        raise StoreError(
            f"'{name}' is damaged in the store '{self._store}': its checksum is wrong ({size} of {meta.size} bytes)"
        )

    async def list(self, prefix: str) -> builtins.list[StoredFile]:
        found = []
        metas = read_stream(self._connection, self._stream, self._meta_subject(None), after_seq=None, follow=False)
        with self._translated("list files"):
            async with aclosing(metas):
                async for msg in metas:
                    meta = None if isinstance(msg, Synced) else _parsed(msg)
                    if meta is not None and not meta.deleted and meta.name.startswith(prefix):
                        found.append(meta.stored())
        return sorted(found, key=lambda file: file.name)

    async def delete(self, name: str) -> None:
        with self._translated(f"delete {name}"):
            meta = await self._meta(name)
            if meta is None or meta.deleted:
                return
            gone = replace(meta, size=0, digest="", deleted=True)
            try:
                await self._publish_meta(gone, 0)
            except ApiError as error:
                if error.err_code not in STREAM_FULL:
                    raise
                # No room even for the mark: make some first. A reader meanwhile finds the file damaged.
                await self._purge(meta.nuid)
                await self._publish_meta(gone, 0)
            await self._purge(meta.nuid)

    async def close(self) -> None:
        """The connection is the broker's."""

    # -- writing ------------------------------------------------------------------------------------------------

    async def _upload(self, name: str, nuid: str, data: AsyncIterable[bytes], upload: Upload) -> _Meta:
        chunk_bytes = min(self._chunk_bytes, self._connection.max_payload - HEADER_ROOM)
        digest = hashlib.sha256()
        size = 0
        await upload.open()
        async for chunk in chunked(data, chunk_bytes):
            digest.update(chunk)
            size += len(chunk)
            await upload.send(chunk)
        await upload.settle()
        encoded = _DIGEST + base64.urlsafe_b64encode(digest.digest()).decode()
        return _Meta(name, nuid, size, encoded, chunk_bytes, deleted=False)

    async def _publish_once(self, meta: _Meta, chunks: int, before: _Meta | None) -> _Meta | None:
        """Publish it, unless somebody else has stored the same content under the same name meanwhile: then that one."""
        for pause_s in TWIN_PAUSES_S:
            msg = await self._last(meta.name)
            now = None if msg is None else _parsed(msg)
            if now is not None and now.nuid == meta.nuid:
                return None  # stored, though that was not heard
            new = now is not None and not now.deleted and (before is None or now.nuid != before.nuid)
            if now is not None and new and (now.size, now.digest) == (meta.size, meta.digest):
                return now
            seq = 0 if msg is None else int(header_of(msg, "Nats-Sequence") or 0)
            try:
                await self._publish_meta(meta, chunks, after_seq=seq)
            except ApiError as error:
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
                await asyncio.sleep(pause_s)
            else:
                return None
        await self._publish_meta(meta, chunks)  # the reader of the last one lags behind: the last that comes counts
        return None

    async def _publish_meta(self, meta: _Meta, chunks: int, *, after_seq: int | None = None) -> None:
        """With `after_seq`, only if that is still the name's last message; 0 is none."""
        body: dict[str, Any] = {
            "name": meta.name,
            "options": {"max_chunk_size": meta.chunk_bytes},
            "bucket": self._store,
            "nuid": meta.nuid,
            "size": meta.size,
            "mtime": datetime.now(UTC).isoformat(),
            "chunks": chunks,
            "digest": meta.digest,
        }
        if meta.deleted:
            body["deleted"] = True
        subject = self._meta_subject(meta.name)
        headers = {"Nats-Rollup": "sub"}
        if after_seq is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(after_seq)
        try:
            await self._connection.publish_stored(subject, json.dumps(body).encode(), headers=headers)
        except BrokerUnavailable:
            # It may be there all the same.
            now = await self._meta(meta.name)
            if now is None or (now.nuid, now.deleted) != (meta.nuid, meta.deleted):
                raise

    async def _undo(self, name: str, nuid: str, upload: Upload) -> None:
        """Take the chunks away, once none is on its way any more; unless the file is there after all."""
        with contextlib.suppress(BrokerError):
            await upload.calm()
            await upload.close()
            meta = await self._meta(name)
            if meta is None or meta.nuid != nuid:
                await self._purge(nuid)

    async def _purge(self, nuid: str) -> None:
        await self._connection.api(f"STREAM.PURGE.{self._stream}", {"filter": self._chunks(nuid)})

    async def _sweep(self, owner: str, present: _Meta | None) -> None:
        """Take away what a killed put of this name has left."""
        prefix = self._chunks("")
        info = await self._connection.api(
            f"STREAM.INFO.{self._stream}", {"subjects_filter": self._chunks(f"{owner}.*")}
        )
        now = parse_time(info["ts"])
        for subject in info["state"].get("subjects") or ():
            nuid = subject.removeprefix(prefix)
            if present is not None and nuid == present.nuid:
                continue
            last = await self._connection.request(f"$JS.API.DIRECT.GET.{self._stream}.{subject}", what="read a chunk")
            stored_at = header_of(last, "Nats-Time-Stamp")
            if stored_at and now - parse_time(stored_at) > LEFT_OVER_AFTER:
                await self._purge(nuid)

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._connection.in_background(task)
        return task

    # -- reading ------------------------------------------------------------------------------------------------

    async def _meta(self, name: str) -> _Meta | None:
        msg = await self._last(name)
        return None if msg is None else _parsed(msg)

    async def _last(self, name: str) -> Msg | None:
        """The name's last message."""
        return await self._connection.direct_get(self._stream, self._meta_subject(name), what=f"look up {name}")

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._store}.C.{nuid}"

    def _meta_subject(self, name: str | None) -> str:
        if name is None:
            return f"$O.{self._store}.M.>"
        raw = name.encode()
        if not 0 < len(raw) <= NAME_LIMIT:
            raise StoreError(f"a file's name has {len(raw)} bytes; allowed: 1 to {NAME_LIMIT} ({name[:80]}…)")
        return f"$O.{self._store}.M.{base64.urlsafe_b64encode(raw).decode()}"

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except BrokerUnavailable as error:
            raise StoreUnavailable(f"{what}: {error.message}", hint=error.hint) from error
        except ApiError as error:
            if error.err_code in STREAM_FULL:
                raise StoreClosed(
                    f"{what}: the store '{self._store}' in NATS is full",
                    hint=f"delete what is no longer needed, raise max_bytes of the stream {self._stream}, "
                    "or keep artifacts in S3 (artifacts: s3://bucket/prefix in the queue's file)",
                ) from error
            if error.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                raise StoreClosed(
                    f"{what}: there is no object store '{self._store}' in NATS",
                    hint="one is made at the next connect, if the server has room: see its max_file_store",
                ) from error
            kind = StoreUnavailable if error.passing else StoreError
            raise kind(f"{what}: {error.message}") from error
        except BrokerError as error:
            raise StoreError(f"{what}: {error.message}", hint=error.hint) from error


def _parsed(msg: Msg) -> _Meta | None:
    """The file that this message describes; None if some other program has put something else there."""
    try:
        body = json.loads(msg.data)
        return _Meta(
            name=str(body["name"]),
            nuid=str(body.get("nuid") or ""),
            size=int(body.get("size") or 0),
            digest=str(body.get("digest") or ""),
            chunk_bytes=int((body.get("options") or {}).get("max_chunk_size") or 128 * 1024),
            deleted=bool(body.get("deleted")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
