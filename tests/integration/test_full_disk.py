"""An engine whose disk fills up while it pulls: unused images make room, once, and what is used stays."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.docker import DockerEngine
from agent.core.outcome import Unready
from agent.image_room import ImageRoom
from agent.images import Images
from agent.registries import Registries
from agent.secrets import Secrets
from launch.adapters.clock import SystemClock
from launch.core.states import Reason
from launch.job import Pull
from tests.integration.chaos.own_engine import AS_ROOT, OwnEngine, own_engine
from tests.support.registry import Registry

pytestmark = pytest.mark.docker

DISK = 64 * 2**20
IMAGE = 16 * 2**20
"""Random bytes: as large packed as unpacked, and for a while on the disk as both. Two fit, a third does not."""


@dataclass
class Small:
    """An engine with a small disk, three images that it can pull, and what looks after it."""

    engine: DockerEngine
    references: list[str]
    images: Images
    room: ImageRoom
    used: list[str]

    async def fetch(self, number: int) -> None:
        """A job wants this one."""

        async def hush(_: str) -> None:
            """Nobody listens."""

        await self.images.fetch(self.references[number], Pull.MISSING, hush)

    async def here(self) -> list[int]:
        """Which are on the engine."""
        return [n for n, one in enumerate(self.references) if await self.engine.image(one) is not None]


@pytest.fixture
async def small(busybox_image: str, tmp_path: Path) -> AsyncIterator[Small]:
    """The engine's own, in a network namespace of its own, with a registry of the same images beside it."""
    store = tmp_path / "registry"
    outside = Registry(store).start()
    names = [outside.push_new(busybox_image, f"tool-{n}:1", size=IMAGE).partition("/")[2] for n in range(3)]
    outside.stop()
    with tempfile.TemporaryDirectory(prefix="e") as folder:
        async with own_engine(Path(folder)) as mine:
            await on_a_small_disk(mine)
            registry = Registry(store, within=mine.beside()).start()
            engine = DockerEngine(mine.host)
            used: list[str] = []
            room = ImageRoom(engine, SystemClock(), lambda: used, asyncio.Event(), keep_free_bytes=0)
            images = Images(engine, Registries(Secrets()), dict, room)
            yield Small(engine, [f"{registry.address}/{name}" for name in names], images, room, used)
            await engine.close()
            registry.stop()


async def on_a_small_disk(mine: OwnEngine) -> None:
    """Start the engine with its data in memory."""
    mine.data.mkdir()
    mounted = [*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(mine.data)]
    mounting = await asyncio.create_subprocess_exec(*mounted)
    assert await mounting.wait() == 0
    await mine.start()


async def test_a_full_disk_is_made_room_on_once_and_what_is_used_stays(small: Small) -> None:
    space = await small.engine.disk()
    assert space is not None
    assert space.total_bytes == DISK
    await small.fetch(0)
    await small.fetch(1)
    small.used += small.references[:2]
    with pytest.raises(Unready, match="disk is full; prune images or give it a larger disk") as caught:
        await small.fetch(2)
    assert caught.value.reason is Reason.IMAGE_PULL_FAILED
    assert await small.here() == [0, 1]
    small.used.remove(small.references[0])
    await small.fetch(2)
    assert await small.here() == [1, 2]
    small.used.clear()
    left = await small.engine.disk()
    assert left is not None
    assert await small.room.make(left.free_bytes + 1) == 1  # the one used longest ago is enough
    assert await small.here() == [2]
