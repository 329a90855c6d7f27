"""What is S3's own: parts that a later try takes up, what is removed, cut connections, what a refusal says."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launch.adapters.s3 import S3Client, S3Files
from launch.adapters.s3.client import translated
from launch.adapters.s3.multipart import MAX_PARTS, PART_BYTES, part_bytes_for
from launch.errors import NotFound, StoreClosed, StoreError, StoreUnavailable
from tests.contract.files_world import S3FilesWorld, pieces
from tests.support.moto import MotoServer

DATA = os.urandom(PART_BYTES) * 3 + b"the rest"
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = "some/prefix/big"


@pytest.fixture
async def world(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3FilesWorld]:
    made = S3FilesWorld(moto_server, monkeypatch)
    await made.open()
    yield made
    await made.close()


class Requests:
    """What a store's client sends, by operation."""

    def __init__(self) -> None:
        self.made: list[str] = []

    async def watch(self, store: S3Files) -> None:
        client = await store._client.get()
        client.meta.events.register("before-send.s3", self._note)

    def _note(self, event_name: str, **_: Any) -> None:
        self.made.append(event_name.rpartition(".")[2])

    def count(self, operation: str) -> int:
        return self.made.count(operation)


@pytest.fixture
async def requests(world: S3FilesWorld) -> Requests:
    made = Requests()
    assert isinstance(world.store, S3Files)
    await made.watch(world.store)
    return made


async def read(store: S3Files | Any, name: str) -> bytes:
    async with aclosing(store.read(name)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def drained(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


def unfinished(world: S3FilesWorld) -> list[dict[str, Any]]:
    return list(world.plain.list_multipart_uploads(Bucket=world.bucket).get("Uploads", ()))


async def test_a_large_file_goes_in_parts(world: S3FilesWorld, requests: Requests) -> None:
    stored = await world.store.put("big", pieces(DATA), size=len(DATA))
    assert (stored.size, stored.sha256) == (len(DATA), SHA256)
    assert (requests.count("UploadPart"), requests.count("PutObject")) == (4, 0)
    assert await world.store.info("big") == stored
    assert await read(world.store, "big") == DATA
    assert unfinished(world) == []


async def cut_off(world: S3FilesWorld, after_parts: int) -> None:
    """A put that is cancelled when so many parts are stored."""

    async def stalled() -> AsyncIterator[bytes]:
        yield DATA[: after_parts * PART_BYTES]
        await asyncio.Event().wait()

    putting = asyncio.create_task(world.store.put("big", stalled()))
    async with asyncio.timeout(20):
        while await world.held_bytes() < after_parts * PART_BYTES:  # noqa: ASYNC110  (a store tells nobody)
            await asyncio.sleep(0.02)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting


async def test_the_next_try_takes_up_what_is_there(world: S3FilesWorld, requests: Requests) -> None:
    await cut_off(world, 2)
    assert len(unfinished(world)) == 1
    assert requests.count("UploadPart") == 2
    stored = await world.store.put("big", pieces(DATA))
    assert stored.sha256 == SHA256
    assert (requests.count("UploadPart"), requests.count("CreateMultipartUpload")) == (4, 1)
    assert await read(world.store, "big") == DATA
    assert unfinished(world) == []


async def test_parts_that_differ_are_sent_again(world: S3FilesWorld, requests: Requests) -> None:
    await cut_off(world, 2)
    changed = DATA[:PART_BYTES] + bytes(PART_BYTES) + DATA[2 * PART_BYTES :]
    await world.store.put("big", pieces(changed))
    assert requests.count("UploadPart") == 2 + 3
    assert await read(world.store, "big") == changed


async def test_only_the_upload_of_that_very_name_is_taken_up(world: S3FilesWorld, requests: Requests) -> None:
    longer = world.plain.create_multipart_upload(Bucket=world.bucket, Key=KEY + "ger", ChecksumAlgorithm="SHA256")
    await world.store.put("big", pieces(DATA))
    assert await read(world.store, "big") == DATA
    assert [upload["UploadId"] for upload in unfinished(world)] == [longer["UploadId"]]


async def test_what_the_data_raises_removes_what_was_sent(world: S3FilesWorld) -> None:
    async def torn() -> AsyncIterator[bytes]:
        yield DATA
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await world.store.put("big", torn())
    assert unfinished(world) == []
    assert await world.held_bytes() == 0


async def test_a_lost_connection_is_taken_up(world: S3FilesWorld, requests: Requests) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[: 2 * PART_BYTES]
        begun.set()
        await mended.wait()
        yield DATA[2 * PART_BYTES :]

    mended = asyncio.Event()
    putting = asyncio.create_task(world.store.put("big", slow()))
    await begun.wait()
    await world.cut()
    await world.mend()
    mended.set()
    await putting
    assert await read(world.store, "big") == DATA


async def test_a_read_that_was_cut_goes_on_where_it_was(world: S3FilesWorld, requests: Requests) -> None:
    await world.store.put("big", pieces(DATA))
    got = bytearray()
    cut = False
    async with aclosing(world.store.read("big")) as chunks:
        async for chunk in chunks:
            got += chunk
            if not cut and len(got) > PART_BYTES:
                cut = True
                await world.cut()
                await world.mend()
    assert bytes(got) == DATA
    assert requests.count("GetObject") >= 2


async def test_a_file_that_is_replaced_while_it_is_read_is_told(world: S3FilesWorld) -> None:
    await world.store.put("big", pieces(DATA))
    async with aclosing(world.store.read("big")) as chunks:
        await anext(chunks)
        await world.cut()
        await asyncio.to_thread(world.plain.put_object, Bucket=world.bucket, Key=KEY, Body=DATA[::-1])
        await world.mend()
        with pytest.raises(StoreUnavailable, match="replaced"):
            await drained(chunks)


async def test_what_others_put_has_no_checksum(world: S3FilesWorld) -> None:
    world.plain.put_object(Bucket=world.bucket, Key=KEY, Body=b"data")
    world.plain.put_object(Bucket=world.bucket, Key="some/prefix/folder/", Body=b"")
    found = await world.store.info("big")
    assert found is not None
    assert (found.size, found.sha256) == (4, "")
    assert await read(world.store, "big") == b"data"
    assert [file.name for file in await world.store.list("")] == ["big"]


async def test_stores_share_a_client(world: S3FilesWorld) -> None:
    client = S3Client()
    one, two = S3Files(f"s3://{world.bucket}", client), S3Files(f"s3://{world.bucket}/some/prefix/", client)
    assert (one.where, two.where) == (f"s3://{world.bucket}", f"s3://{world.bucket}/some/prefix")
    await one.put("some/prefix/a", pieces(b"data"))
    await one.close()
    assert await read(two, "a") == b"data"
    await client.close()
    await client.close()
    assert await read(two, "a") == b"data"
    await client.close()


async def test_a_bucket_that_is_not_there(world: S3FilesWorld) -> None:
    store = S3Files("s3://no-such-bucket-anywhere/p")
    for trying in (store.put("a", pieces(b"data")), store.list(""), store.put("b", pieces(DATA))):
        with pytest.raises(StoreClosed, match="there is no such bucket") as caught:
            await trying
        assert "make it" in str(caught.value)
        assert "s3://no-such-bucket-anywhere/p" in str(caught.value)
    await store.close()


async def test_no_credentials(world: S3FilesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    store = S3Files(f"s3://{world.bucket}")
    with pytest.raises(StoreClosed, match="there are no AWS credentials") as caught:
        await store.put("a", pieces(b"data"))
    assert not isinstance(caught.value, StoreUnavailable)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    await store.close()


async def test_a_profile_that_is_not_there(world: S3FilesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    store = S3Files(f"s3://{world.bucket}")
    with pytest.raises(StoreError, match="nobody"):
        await store.info("a")
    await store.close()


@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("AccessDenied", 403, StoreClosed, "access denied"),
        ("403", 403, StoreError, "s3:PutObject|PutObject"),
        ("SlowDown", 503, StoreUnavailable, "SlowDown"),
        ("InternalError", 500, StoreUnavailable, "InternalError"),
        ("NoSuchKey", 404, NotFound, "s3://b"),
        ("InvalidAccessKeyId", 403, StoreError, "not known there"),
        ("ExpiredToken", 400, StoreError, "renew"),
        ("QuotaExceeded", 403, StoreError, "full"),
        ("Teapot", 418, StoreError, "Teapot I am"),
    ],
)
def test_refusals_in_our_words(code: str, status: int, kind: type[Exception], says: str) -> None:
    refused = ClientError(
        {"Error": {"Code": code, "Message": "I am"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    with pytest.raises(kind, match=says) as caught, translated("store f", "s3://b"):
        raise refused
    assert isinstance(caught.value, StoreUnavailable) is (kind is StoreUnavailable)


def test_parts_are_as_large_as_they_must_be() -> None:
    assert part_bytes_for(None) == part_bytes_for(0) == part_bytes_for(PART_BYTES * MAX_PARTS) == PART_BYTES
    assert part_bytes_for(PART_BYTES * MAX_PARTS + 1) == 2 * PART_BYTES
    assert part_bytes_for(5 * 1024**4) * MAX_PARTS >= 5 * 1024**4


@pytest.mark.parametrize("where", ["s3://", "nowhere", "/a/folder", "s3:///prefix"])
def test_what_is_no_store(where: str) -> None:
    with pytest.raises(StoreError, match="is no store"):
        S3Files(where)
