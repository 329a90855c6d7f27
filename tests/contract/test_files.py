"""File stores, by the text of `launch.files.Files`: in memory, in NATS, in S3."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from launch.errors import NotFound, StoreClosed, StoreError, StoreUnavailable
from launch.files import Files, StoredFile
from tests.contract.files_world import FakeFilesWorld, FilesWorld, NatsFilesWorld, S3FilesWorld, pieces

WORLDS = [pytest.param("fake"), pytest.param("nats", marks=pytest.mark.nats), pytest.param("s3")]


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FilesWorld]:
    """A store of the test's own."""
    made: FilesWorld
    match request.param:
        case "fake":
            made = FakeFilesWorld()
        case "nats":
            made = NatsFilesWorld(request.getfixturevalue("nats_url"))
        case _:
            made = S3FilesWorld(request.getfixturevalue("moto_server"), monkeypatch)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def store(world: FilesWorld) -> Files:
    """The store."""
    return world.store


def expected(name: str, data: bytes) -> StoredFile:
    return StoredFile(name, len(data), hashlib.sha256(data).hexdigest())


async def read(store: Files, name: str) -> bytes:
    async with asyncio.timeout(20), aclosing(store.read(name)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("size", [0, 1, 65_536, 262_144, 262_145, 3_000_000])
async def test_a_file_comes_back_as_it_was(store: Files, size: int) -> None:
    data = secrets.token_bytes(size)
    assert await store.put("a/b.bin", pieces(data)) == expected("a/b.bin", data)
    assert await store.info("a/b.bin") == expected("a/b.bin", data)
    assert await read(store, "a/b.bin") == data


@pytest.mark.parametrize("piece", [1_000, 262_144, 262_143, 2_000_000])
async def test_it_does_not_matter_how_the_bytes_come(store: Files, piece: int) -> None:
    data = secrets.token_bytes(1_500_001)
    await store.put("file", pieces(data, piece), size=len(data))
    assert await read(store, "file") == data


@pytest.mark.parametrize("name", ["q/1-2/1/files/ä b/über.txt", "x", "a/./b?*>..$%", "n" * 1000])
async def test_names_may_be_anything(store: Files, name: str) -> None:
    await store.put(name, pieces(b"data"))
    assert await read(store, name) == b"data"
    assert [file.name for file in await store.list(name[:1])] == [name]


@pytest.mark.parametrize("name", ["", "n" * 1025, "ä" * 513])
async def test_names_that_no_store_can_keep_are_refused(store: Files, name: str) -> None:
    with pytest.raises(StoreError, match="1024"):
        await store.put(name, pieces(b"data"))
    with pytest.raises(StoreError, match="1024"):
        await store.info(name)


async def test_what_is_not_there(store: Files) -> None:
    assert await store.info("nothing") is None
    with pytest.raises(NotFound, match="nothing"):
        await read(store, "nothing")
    await store.delete("nothing")
    assert await store.list("") == []


async def test_a_file_is_replaced_and_deleted(world: FilesWorld, store: Files) -> None:
    await store.put("f", pieces(b"first" * 100_000))
    await store.put("f", pieces(b"second"))
    assert await read(store, "f") == b"second"
    assert [file.name for file in await store.list("")] == ["f"]
    assert await world.held_bytes() < 10_000
    await store.delete("f")
    assert await store.info("f") is None
    assert await store.list("") == []
    with pytest.raises(NotFound):
        await read(store, "f")
    await store.put("f", pieces(b"third"))
    assert await read(store, "f") == b"third"


async def test_files_are_listed_by_prefix_and_in_order(store: Files) -> None:
    for name in ("q/1/b", "q/1/a", "q/10/a", "q/2/a", "r/1/a"):
        await store.put(name, pieces(name.encode()))
    assert [file.name for file in await store.list("q/1/")] == ["q/1/a", "q/1/b"]
    assert [file.name for file in await store.list("q/1")] == ["q/1/a", "q/1/b", "q/10/a"]
    assert len(await store.list("")) == 5
    assert {file.size for file in await store.list("q/1/")} == {5}


async def test_what_the_data_raises_is_raised_and_nothing_is_stored(world: FilesWorld, store: Files) -> None:
    class TornError(Exception):
        pass

    async def torn() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(200_000)
        raise TornError

    await store.put("kept", pieces(b"before"))
    for name in ("kept", "new"):
        with pytest.raises(TornError):
            await store.put(name, torn())
    assert await store.info("new") is None
    assert await read(store, "kept") == b"before"
    assert [file.name for file in await store.list("")] == ["kept"]
    assert await world.held_bytes() < 10_000


async def test_a_cancelled_put_stores_nothing(world: FilesWorld, store: Files) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(200_000)
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put("f", endless()))
    async with asyncio.timeout(20):
        await begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await store.info("f") is None
    async with asyncio.timeout(20):
        while await world.held_bytes() > 10_000:  # noqa: ASYNC110  (a store tells nobody)
            await asyncio.sleep(0.01)
    data = secrets.token_bytes(500_000)
    await store.put("f", pieces(data))
    assert await read(store, "f") == data


async def test_the_old_file_stays_until_the_new_one_is_whole(store: Files) -> None:
    await store.put("f", pieces(b"old"))

    async def looking() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(500_000)
            assert await read(store, "f") == b"old"

    await store.put("f", looking())
    assert await read(store, "f") == bytes(2_500_000)


async def test_many_at_once(store: Files) -> None:
    files = {f"file-{n}": secrets.token_bytes(40_000 * n) for n in range(16)}
    async with asyncio.TaskGroup() as group:
        for name, data in files.items():
            group.create_task(store.put(name, pieces(data)))
    async with asyncio.TaskGroup() as group:
        read_back = {name: group.create_task(read(store, name)) for name in files}
    assert {name: task.result() for name, task in read_back.items()} == files


async def test_two_puts_of_one_name_leave_one_whole_file(world: FilesWorld, store: Files) -> None:
    one, two = secrets.token_bytes(900_000), secrets.token_bytes(900_000)
    await asyncio.gather(store.put("f", pieces(one)), store.put("f", pieces(two)))
    assert await read(store, "f") in (one, two)
    assert len(await store.list("")) == 1


async def test_a_reader_may_stop_early(store: Files) -> None:
    await store.put("f", pieces(bytes(5_000_000)))
    async with asyncio.timeout(20), aclosing(store.read("f")) as chunks:
        assert len(await anext(chunks)) > 0
    assert len(await read(store, "f")) == 5_000_000


async def test_damage_is_told(world: FilesWorld, store: Files) -> None:
    await store.put("f", pieces(secrets.token_bytes(700_000)))
    await world.damage("f")
    with pytest.raises(StoreError, match="damaged"):
        await read(store, "f")


async def test_a_full_store_refuses(world: FilesWorld, store: Files) -> None:
    if not world.can_be_full:
        pytest.skip("S3 never is")
    await world.limit(1_000_000)
    with pytest.raises(StoreClosed, match="full") as caught:
        await store.put("f", pieces(bytes(3_000_000)))
    assert not isinstance(caught.value, StoreUnavailable)
    assert await store.info("f") is None
    assert await world.held_bytes() < 10_000
    await store.put("small", pieces(b"fits"))
    assert await read(store, "small") == b"fits"


async def test_no_answer_is_told_apart(world: FilesWorld, store: Files) -> None:
    await store.put("f", pieces(b"data"))
    await world.cut()
    tried = await asyncio.gather(
        store.put("g", pieces(b"data")),
        store.info("f"),
        read(store, "f"),
        store.list(""),
        store.delete("f"),
        return_exceptions=True,
    )
    assert [type(result) for result in tried] == [StoreUnavailable] * 5
    await world.mend()
    assert await read(store, "f") == b"data"


async def test_closing_twice_is_fine(store: Files) -> None:
    await store.close()
    await store.close()
