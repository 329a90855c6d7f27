"""Object stores as other NATS clients know them: what nats-py puts we read, what we put it reads; and what is made."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from nats.js.client import JetStreamContext
from nats.js.errors import ObjectNotFoundError

from launch.adapters.nats import NatsBroker, connect, objects
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.objects import NatsFiles
from launch.adapters.nats.streams import ARTIFACTS_MAX_BYTES, STORE_MIN_BYTES, WORK_MAX_BYTES, base_configs
from launch.errors import BrokerUnsuitable, StoreClosed, StoreError
from launch.subjects import ARTIFACTS_STORE, CODE_STORE, object_stream
from tests.contract.broker_world import queue_spec
from tests.contract.files_world import NatsFilesWorld, pieces
from tests.support.cluster import Cluster
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[NatsBroker]:
    made = await connect(nats_url, name="test")
    yield made
    await made.close()


@pytest.fixture
async def jetstream(nats_url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(nats_url)
    yield client.jetstream()
    await client.close()


@pytest.mark.parametrize("size", [0, 1, 700_000])
async def test_another_client_reads_what_we_put(broker: NatsBroker, jetstream: JetStreamContext, size: int) -> None:
    name, data = f"{secrets.token_hex(8)}/a.bin", secrets.token_bytes(size)
    await broker.artifacts.put(name, pieces(data))
    store = await jetstream.object_store(ARTIFACTS_STORE)
    assert (await store.get(name)).data == data
    assert (await store.get_info(name)).size == size
    assert name in [found.name for found in await store.list()]
    await broker.artifacts.delete(name)
    with pytest.raises(ObjectNotFoundError):
        await store.get_info(name)
    assert (await store.get_info(name, show_deleted=True)).deleted


async def test_we_read_what_another_client_puts(broker: NatsBroker, jetstream: JetStreamContext) -> None:
    name, data = f"{secrets.token_hex(8)}/b.bin", secrets.token_bytes(700_000)
    store = await jetstream.object_store(ARTIFACTS_STORE)
    await store.put(name, data)
    found = await broker.artifacts.info(name)
    assert found is not None
    assert (found.size, found.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    async with aclosing(broker.artifacts.read(name)) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data
    await broker.artifacts.put(name, pieces(b"ours"))
    assert (await store.get(name)).data == b"ours"
    await store.delete(name)
    assert await broker.artifacts.info(name) is None


async def test_stores_leave_room_for_queues(
    fresh_nats: Callable[..., NatsServer], tmp_path: Path, queue_name: str
) -> None:
    small = f'jetstream {{ store_dir: "{tmp_path / "small"}", max_file_store: 24GB }}'
    broker = await connect(fresh_nats(config=small).url, name="test")
    await broker.artifacts.put("a", pieces(b"data"))
    await broker.code.put("a", pieces(b"data"))
    for number in range(3):
        await broker.queues.apply(queue_spec(f"{queue_name}-{number}"))
    await broker.close()


async def test_a_server_without_room_for_stores_still_serves(
    fresh_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    reserved = sum(max(config.get("max_bytes", 0), 0) for config in base_configs(1))
    room = reserved + STORE_MIN_BYTES // 2
    small = f'jetstream {{ store_dir: "{tmp_path / "small"}", max_file_store: {room} }}'
    broker = await connect(fresh_nats(config=small).url, name="test")
    with pytest.raises(StoreClosed, match=r"no object store 'artifacts'.*max_file_store"):
        await broker.artifacts.put("a", pieces(b"data"))
    await broker.close()


async def test_a_server_without_room_for_streams_says_what_to_raise(
    fresh_nats: Callable[..., NatsServer], tmp_path: Path
) -> None:
    small = f'jetstream {{ store_dir: "{tmp_path / "small"}", max_file_store: 4GB }}'
    with pytest.raises(BrokerUnsuitable, match=r"no room for the stream logs, which reserves 8Gi: .*max_file_store"):
        await connect(fresh_nats(config=small).url, name="test")


async def test_a_server_without_room_for_a_queue_says_what_to_raise(
    fresh_nats: Callable[..., NatsServer], tmp_path: Path, queue_name: str
) -> None:
    reserved = sum(config.get("max_bytes", 0) for config in base_configs(1))
    small = f'jetstream {{ store_dir: "{tmp_path / "small"}", max_file_store: {reserved + WORK_MAX_BYTES // 2} }}'
    broker = await connect(fresh_nats(config=small).url, name="test")
    with pytest.raises(BrokerUnsuitable, match=r"no room for the stream queue_\S+, which reserves 1Gi: .*10.3Gi are"):
        await broker.queues.apply(queue_spec(queue_name))
    assert await broker.queues.list() == []
    await broker.close()


async def test_a_store_that_somebody_deleted_is_named(fresh_nats: Callable[..., NatsServer]) -> None:
    server = fresh_nats()
    broker = await connect(server.url, name="test")
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    info = await jetstream.stream_info(object_stream(ARTIFACTS_STORE))
    assert info.config.max_bytes == ARTIFACTS_MAX_BYTES
    await jetstream.delete_stream(object_stream(CODE_STORE))
    for trying in (broker.code.put("a", pieces(b"data")), broker.code.info("a"), broker.code.delete("a")):
        with pytest.raises(StoreError, match="no object store 'code'"):
            await trying
    await client.close()
    await broker.close()


@pytest.fixture
async def world(nats_url: str) -> AsyncIterator[NatsFilesWorld]:
    made = NatsFilesWorld(nats_url)
    await made.open()
    yield made
    await made.close()


async def test_a_put_outlives_cut_connections(world: NatsFilesWorld) -> None:
    data = secrets.token_bytes(20_000_000)

    async def interrupted() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]
            if start in (3_000_000, 12_000_000):
                await world.cut()
            if start in (3_200_000, 12_000_000):
                await world.mend()

    stored = await world.store.put("f", interrupted())
    assert stored.size == len(data)
    async with aclosing(world.store.read("f")) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data
    # None was stored twice.
    assert await world.held_bytes() < len(data) + 100_000


async def test_a_read_outlives_cut_connections(world: NatsFilesWorld) -> None:
    data = secrets.token_bytes(20_000_000)
    await world.store.put("f", pieces(data))
    got = bytearray()
    cuts = [3_000_000, 12_000_000]
    async with aclosing(world.store.read("f")) as chunks:
        async for chunk in chunks:
            got += chunk
            if cuts and len(got) > cuts[0]:
                cuts.pop(0)
                await world.cut()
                await world.mend()
    assert bytes(got) == data


async def killed_put(world: NatsFilesWorld, name: str) -> None:
    """What a put leaves whose process was killed: chunks, and no word of them."""
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(3_000_000)
        begun.set()
        await asyncio.Event().wait()

    connection = Connection(world.url)
    await connection.open(name="killed", credentials=None, timeout_s=5)
    putting = asyncio.create_task(NatsFiles(connection, world.bucket).put(name, endless()))
    await begun.wait()
    while await world.held_bytes() < 2_500_000:  # noqa: ASYNC110  (a store tells nobody)
        await asyncio.sleep(0.01)
    await connection.client.close()
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    await connection.close()


async def test_sweeping_spares_the_file_that_is_there(world: NatsFilesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def torn() -> AsyncIterator[bytes]:
        yield b"new"
        raise OSError("torn")

    monkeypatch.setattr(objects, "LEFT_OVER_AFTER", timedelta(0))
    await world.store.put("f", pieces(b"old"))
    with pytest.raises(OSError, match="torn"):
        await world.store.put("f", torn())
    async with aclosing(world.store.read("f")) as chunks:
        assert [chunk async for chunk in chunks] == [b"old"]


async def test_the_next_put_sweeps_what_a_killed_one_left(
    world: NatsFilesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.store.put("f", pieces(b"old"))
    await killed_put(world, "f")
    await world.store.put("other", pieces(b"data"))
    await world.store.put("f", pieces(b"new"))
    # It may be the chunks of a put that goes on elsewhere.
    assert await world.held_bytes() > 2_500_000
    monkeypatch.setattr(objects, "LEFT_OVER_AFTER", timedelta(0))
    await world.store.put("f", pieces(b"newer"))
    assert await world.held_bytes() < 10_000
    async with aclosing(world.store.read("other")) as chunks:
        assert [chunk async for chunk in chunks] == [b"data"]


@pytest.mark.slow
async def test_a_put_outlives_the_leader_of_its_store(tmp_path: Path) -> None:
    data = secrets.token_bytes(30_000_000)
    cluster = await Cluster(tmp_path).start()
    broker = await connect(cluster.url, name="test", replicas=3)

    async def leader() -> str:
        info = await broker._connection.api(f"STREAM.INFO.{object_stream(ARTIFACTS_STORE)}")
        return str(info["cluster"]["leader"])

    async def disturbed() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]
            if start == 15_000_000:
                await cluster.kill(await leader())

    try:
        stored = await broker.artifacts.put("f", disturbed())
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        got = bytearray()
        async with aclosing(broker.artifacts.read("f")) as chunks:
            async for chunk in chunks:
                got += chunk
        assert bytes(got) == data
    finally:
        await broker.close()
        await cluster.stop()
