"""A large file on its way into S3, part by part, a few at a time.

What a failed upload left is found by its key and taken up: a part that is there with the same size and checksum is not
sent again. The invariant: at most `PARTS_IN_FLIGHT` + 1 parts are in memory.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from launch.errors import StoreError, StoreUnavailable

PART_BYTES = 8 * 1024**2
MAX_PARTS = 10_000
PARTS_IN_FLIGHT = 4

_log = structlog.get_logger(__name__)


def part_bytes_for(size: int | None) -> int:
    """How large the parts of a file of this size are: the same at every attempt, and few enough."""
    if size is None:
        return PART_BYTES
    doublings = 0
    while size > PART_BYTES * 2**doublings * MAX_PARTS:
        doublings += 1
    return int(PART_BYTES * 2**doublings)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that is stored; `sha256` as S3 writes it, in base64, empty where a service does not tell it."""

    size: int
    sha256: str
    etag: str

    def holds(self, data: bytes, sha256: str) -> bool:
        """Whether it is these bytes; where no checksum is told, the tag is their MD5, or something else."""
        if self.size != len(data):
            return False
        if self.sha256:
            return self.sha256 == sha256
        return self.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


class Multipart:
    """One upload: `add` each part in order, then `complete` it, or `abort` it, or `stop` and leave it as it is."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._target = {"Bucket": bucket, "Key": key}
        self._upload_id = ""
        self._known: dict[int, _Part] = {}
        self._parts: dict[int, _Part] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._number = 0
        self.resumed = 0
        """How many parts were there already."""

    async def _begin(self) -> None:
        """Take up the newest upload of this key that was left unfinished, or begin one."""
        found = await self._unfinished()
        if found is not None:
            self._upload_id = found
            self._known = await self._stored_parts()
            _log.info("an unfinished upload is taken up", parts=len(self._known), **self._target)
        else:
            answer = await self._client.create_multipart_upload(**self._target, ChecksumAlgorithm="SHA256")
            self._upload_id = answer["UploadId"]

    async def add(self, data: bytes) -> None:
        """Send the next part; waits while enough are on their way."""
        if not self._upload_id:
            await self._begin()
        self._number += 1
        if self._number > MAX_PARTS:
            raise StoreError(
                f"{self._target['Key']} has more than {MAX_PARTS} parts of {PART_BYTES} bytes",
                hint="a file of more than 80 GB must come with its size",
            )
        while len(self._sending) >= PARTS_IN_FLIGHT:
            await self._some_sent(asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._send(self._number, data), name=f"part {self._number} of {self._target['Key']}")
        self._sending.add(task)

    async def complete(self) -> None:
        """Wait for the parts, and make a file of them."""
        while self._sending:
            await self._some_sent(asyncio.FIRST_EXCEPTION)
        parts = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumSHA256": part.sha256}
            for number, part in sorted(self._parts.items())
        ]
        await self._client.complete_multipart_upload(
            **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
        )

    async def stop(self) -> None:
        """Send nothing more; what is stored stays for the next try."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._sending.clear()

    async def abort(self) -> None:
        """Remove what was stored, as far as that can be done now."""
        await self.stop()
        if self._upload_id:
            with contextlib.suppress(ClientError, BotoCoreError, OSError):
                await self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)

    async def _some_sent(self, when: str) -> None:
        done, self._sending = await asyncio.wait(self._sending, return_when=when)
        for task in done:
            task.result()

    async def _send(self, number: int, data: bytes) -> None:
        sha256, known = await asyncio.to_thread(self._looked_up, number, data)
        if known is not None:
            self._parts[number] = known
            self.resumed += 1
            return
        try:
            answer = await self._client.upload_part(
                **self._target, UploadId=self._upload_id, PartNumber=number, Body=data, ChecksumSHA256=sha256
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise
            key = self._target["Key"]
            raise StoreUnavailable(f"store {key}: somebody else has ended its upload", hint="try again") from error
        self._parts[number] = _Part(len(data), sha256, answer["ETag"])

    def _looked_up(self, number: int, data: bytes) -> tuple[str, _Part | None]:
        """The part's checksum, and the part itself if it is stored already."""
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
        known = self._known.get(number)
        if known is None or not known.holds(data, sha256):
            return sha256, None
        return sha256, _Part(known.size, sha256, known.etag)

    async def _unfinished(self) -> str | None:
        """The newest one's id."""
        key = self._target["Key"]
        found: list[dict[str, Any]] = []
        try:
            pages = self._client.get_paginator("list_multipart_uploads")
            async for page in pages.paginate(Bucket=self._target["Bucket"], Prefix=key):
                found += [upload for upload in page.get("Uploads", ()) if upload["Key"] == key]
                if any(upload["Key"] > key for upload in page.get("Uploads", ())):
                    break
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("AccessDenied", "NotImplemented"):
                raise
            return None
        return str(max(found, key=lambda upload: upload["Initiated"])["UploadId"]) if found else None

    async def _stored_parts(self) -> dict[int, _Part]:
        parts: dict[int, _Part] = {}
        pages = self._client.get_paginator("list_parts")
        async for page in pages.paginate(**self._target, UploadId=self._upload_id):
            stored: Sequence[dict[str, Any]] = page.get("Parts", ())
            for part in stored:
                sha256 = part.get("ChecksumSHA256", "")
                parts[int(part["PartNumber"])] = _Part(int(part["Size"]), sha256, part["ETag"])
        return parts
