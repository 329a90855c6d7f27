"""`launch.files.Files` under one prefix of a bucket.

A file's whole checksum stands in its metadata (`sha256`); on one in parts, whose metadata must be said before it is
read, in a tag of that name. Where neither is allowed, or another program stored the file, its checksum is not known:
empty.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

from botocore.exceptions import ClientError

from launch.adapters.chunking import chunked
from launch.adapters.s3.client import TRANSPORT_ERRORS, S3Client, code_of, is_missing, translated
from launch.adapters.s3.multipart import Multipart, part_bytes_for
from launch.errors import StoreError, StoreUnavailable
from launch.files import StoredFile

NAME_LIMIT = 1024
"""Bytes of a key, the prefix included."""

READ_BYTES = 1024**2
SHA256 = "sha256"


class S3Files:
    """One prefix: `s3://bucket` or `s3://bucket/prefix`; over a client that others use too, or one of its own."""

    def __init__(self, where: str, client: S3Client | None = None) -> None:
        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        if not where.startswith("s3://") or not bucket:
            raise StoreError(f"'{where}' is no store", hint="a store in S3 looks like s3://bucket/prefix")
        self._bucket = bucket
        self._prefix = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        self._client = client or S3Client()
        self._own = client is None

    @property
    def where(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    async def put(self, name: str, data: AsyncIterable[bytes], *, size: int | None = None) -> StoredFile:
        with translated(f"store {name}", self.where):
            upload = Multipart(await self._client.get(), self._bucket, self._key(name))
            try:
                return await self._put(name, _told_apart(data), part_bytes_for(size), upload)
            except _DataError as error:
                await upload.abort()
                raised = error.raised
            except BaseException:
                await upload.stop()
                raise
        raise raised

    async def _put(self, name: str, data: AsyncGenerator[bytes], part_bytes: int, upload: Multipart) -> StoredFile:
        client = await self._client.get()
        digest = hashlib.sha256()
        size = 0
        whole = b""
        async with aclosing(data), aclosing(chunked(data, part_bytes)) as parts:
            async for part in parts:
                await asyncio.to_thread(digest.update, part)
                size += len(part)
                if size < part_bytes:
                    whole = part
                else:
                    await upload.add(part)
        sha256 = digest.hexdigest()
        if size < part_bytes:
            await client.put_object(**self._target(name), Body=whole, Metadata={SHA256: sha256})
        else:
            await upload.complete()
            with contextlib.suppress(ClientError):  # not allowed, or not known there
                await client.put_object_tagging(
                    **self._target(name), Tagging={"TagSet": [{"Key": SHA256, "Value": sha256}]}
                )
        return StoredFile(name, size, sha256)

    async def info(self, name: str) -> StoredFile | None:
        with translated(f"look up {name}", self.where):
            client = await self._client.get()
            try:
                head = await client.head_object(**self._target(name))
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
            return StoredFile(name, int(head["ContentLength"]), await self._sha256(name, head))

    async def read(self, name: str) -> AsyncGenerator[bytes]:
        digest = hashlib.sha256()
        size: int | None = None
        offset = 0
        sha256 = ""
        only: dict[str, str] = {}
        while size is None or offset < size:
            before = offset
            with translated(f"read {name}", self.where):
                try:
                    client = await self._client.get()
                    answer = await client.get_object(**self._target(name), **only)
                    if size is None:
                        size = int(answer["ContentLength"])
                        sha256 = await self._sha256(name, answer)
                        only["IfMatch"] = answer["ETag"]
                    body = answer["Body"]
                    async with body:
                        while piece := await body.read(READ_BYTES):
                            digest.update(piece)
                            offset += len(piece)
                            yield piece
                except ClientError as error:
                    if code_of(error) in ("PreconditionFailed", "412"):
                        raise StoreUnavailable(
                            f"'{name}' was replaced while it was read", hint="read it again"
                        ) from error
                    raise
                except TRANSPORT_ERRORS:
                    if offset == before:
                        raise
            # Cut in the middle, if the loop goes on: from there.
            only["Range"] = f"bytes={offset}-"
        if offset != size or (sha256 and digest.hexdigest() != sha256):
            raise StoreError(f"'{name}' is damaged in {self.where}: its checksum is wrong ({offset} of {size} bytes)")

    async def list(self, prefix: str) -> builtins.list[StoredFile]:
        found = []
        with translated("list files", self.where):
            client = await self._client.get()
            pages = client.get_paginator("list_objects_v2")
            async for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    name = item["Key"].removeprefix(self._prefix)
                    # A console's mark of an empty folder is no file.
                    if name and not (name.endswith("/") and item["Size"] == 0):
                        found.append(StoredFile(name, int(item["Size"]), ""))
        return sorted(found, key=lambda file: file.name)

    async def delete(self, name: str) -> None:
        with translated(f"delete {name}", self.where):
            client = await self._client.get()
            await client.delete_object(**self._target(name))

    async def close(self) -> None:
        if self._own:
            await self._client.close()

    def _key(self, name: str) -> str:
        key = self._prefix + name
        if not name or len(key.encode()) > NAME_LIMIT:
            raise StoreError(f"a file's name has {len(key.encode())} bytes; allowed: 1 to {NAME_LIMIT} ({name[:80]}…)")
        return key

    def _target(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    async def _sha256(self, name: str, answer: Any) -> str:
        """The whole file's checksum, as far as it was kept."""
        kept = answer.get("Metadata", {}).get(SHA256)
        if kept or "-" not in answer.get("ETag", ""):
            return kept or ""
        client = await self._client.get()
        try:
            tags = await client.get_object_tagging(**self._target(name))
        except ClientError:
            return ""
        return next((tag["Value"] for tag in tags.get("TagSet", ()) if tag["Key"] == SHA256), "")


class _DataError(Exception):
    """What the caller's data raised, told apart from what S3 did."""

    def __init__(self, raised: Exception) -> None:
        super().__init__(str(raised))
        self.raised = raised


async def _told_apart(data: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    try:
        async for piece in data:
            yield piece
    except Exception as error:
        raise _DataError(error) from error
