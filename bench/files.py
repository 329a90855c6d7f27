"""How fast a large file goes in and comes out through our port, beside the object store's own client in the same run.

The two take turns, put and get alike from and to a file on this disk. The memory is that of a process of its own that
puts and gets 1 GiB: what it needs at its peak beyond what it needs for a small file.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import nats
from nats.js.object_store import ObjectStore

from bench.answer import Answer, Figure
from bench.parts import nats_server
from launch.adapters.nats import connect
from launch.files import Files

MIB = 1024**2
READ_BYTES = MIB
NAME = "bench/file.bin"

Step = Callable[[], Awaitable[None]]


async def measure(rounds: int, size_mib: int) -> Answer:
    """Medians over `rounds` of put and get of one file, in MiB/s, and their ratios; then the memory."""
    rates: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder, nats_server() as url:
        source, target = Path(folder) / "source", Path(folder) / "target"
        await asyncio.to_thread(_fill, source, size_mib)
        async with _both(url) as (ours, theirs):
            steps: dict[str, Step] = {
                "object_store_put": lambda: _their_put(theirs, source),
                "launch_put": lambda: _our_put(ours, source),
                "object_store_get": lambda: _their_get(theirs, target),
                "launch_get": lambda: _our_get(ours, target),
            }
            for number in range(rounds + 1):
                for name, step in steps.items():
                    rate = await _timed(step, size_mib)
                    if number:  # the first round warms both
                        rates.setdefault(name, []).append(rate)
                assert target.stat().st_size == size_mib * MIB
        small_mib, large_mib = [await _peak_mib(url, mib) for mib in (1, 1024)]
    medians = {name: statistics.median(found) for name, found in rates.items()}

    def figure(step: str) -> Figure:
        value, floor = medians[f"launch_{step}"], medians[f"object_store_{step}"]
        return Figure(step, value, "MiB/s", 1.0, rounds, floor, "the object store's own client", best="high")

    return Answer(
        "one large file through our port, and with the object store's own client (nats-py)",
        [
            figure("put"),
            figure("get"),
            Figure("memory for 1 GiB", large_mib, "MiB", 1.5, 1, small_mib, "the same for 1 MiB"),
        ],
        detail={"size_mib": size_mib, "mib_per_s": medians},
    )


@asynccontextmanager
async def _both(url: str) -> AsyncIterator[tuple[Files, ObjectStore]]:
    broker = await connect(url, name="bench")
    client = await nats.connect(url)
    try:
        yield broker.artifacts, await client.jetstream().create_object_store("bench")
    finally:
        await client.close()
        await broker.close()


async def _timed(step: Step, size_mib: int) -> float:
    since = time.perf_counter()
    await step()
    return size_mib / (time.perf_counter() - since)


def _fill(path: Path, size_mib: int) -> None:
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size_mib):
            file.write(number.to_bytes(8, "big") + block[8:])


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, READ_BYTES):
        yield piece


async def _our_put(store: Files, source: Path) -> None:
    with source.open("rb") as file:
        await store.put(NAME, _pieces(file))


async def _our_get(store: Files, target: Path) -> None:
    with target.open("wb") as file:
        async with aclosing(store.read(NAME)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)


async def _their_put(store: ObjectStore, source: Path) -> None:
    with source.open("rb") as file:
        await store.put(NAME, file)


async def _their_get(store: ObjectStore, target: Path) -> None:
    with target.open("wb") as file:
        await store.get(NAME, writeinto=file)


async def _peak_mib(url: str, size_mib: int) -> int:
    """What a process needs that does nothing but put and get such a file."""
    command = [sys.executable, "-m", "bench.files", url, str(size_mib)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return int(said)


async def _put_and_get(url: str, size_mib: int) -> None:
    broker = await connect(url, name="bench-memory")
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            _fill(path, size_mib)
            await _our_put(broker.artifacts, path)
            await _our_get(broker.artifacts, path)
        await broker.artifacts.delete(NAME)
    finally:
        await broker.close()


if __name__ == "__main__":
    asyncio.run(_put_and_get(sys.argv[1], int(sys.argv[2])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
