"""Unused images go when the disk is short: only those that this agent has pulled, the one used longest ago first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.core.image_use import (
    KEPT,
    MOST_SPARE_BYTES,
    key_of,
    parse_pulled,
    removable,
    room_for,
    show_pulled,
    spare_bytes,
)
from agent.image_room import LOOK_GAP_S, USED_STEP_S, ImageRoom
from agent.images import Images
from agent.ports import DiskSpace, EngineError, PullProgress
from agent.registries import Registries
from agent.secrets import Secrets
from launch.job import Pull
from tests.fakes.clock import LoopClock
from tests.fakes.engine import FakeEngine
from tests.unit.agent.worlds import simulated

GIB = 1024**3
A, B, C = (f"r.lan/{name}:1" for name in "abc")
DIGEST = "sha256:" + "a" * 64


class Room:
    """An engine with 100 GiB of disk on which each image takes 10, and what keeps it."""

    def __init__(self, *pulled: str, used: Sequence[str] = (), file: Path | None = None) -> None:
        self.engine = FakeEngine(images=pulled, registry=[A, B, C])
        self.engine.image_bytes = 10 * GIB
        self.engine.space = DiskSpace(100 * GIB - len(pulled) * 10 * GIB, 100 * GIB)
        self.used = list(used)
        self.changed = asyncio.Event()
        self.room = ImageRoom(self.engine, LoopClock(), lambda: self.used, self.changed, file=file)
        self.images = Images(self.engine, Registries(Secrets()), dict, self.room)

    async def fetch(self, *references: str, pull: Pull = Pull.MISSING) -> None:
        """A job after the other uses these."""
        for reference in references:
            await self.images.fetch(reference, pull, hush)
            await asyncio.sleep(USED_STEP_S)

    def free(self, gib: int) -> None:
        """Somebody else changes what is free."""
        self.engine.space = DiskSpace(gib * GIB, 100 * GIB)


async def hush(_: str) -> None:
    """Nobody listens."""


@simulated
async def test_the_least_recently_used_goes_first_and_no_more_than_need_be() -> None:
    lab = Room()
    await lab.fetch(A, B, C, A)
    lab.free(5)
    assert await lab.room.make(0) == 1
    assert [*lab.engine.images] == [A, C]
    lab.free(5)
    assert await lab.room.make(10 * GIB) == 2
    assert [*lab.engine.images] == []


@simulated
async def test_what_is_used_or_was_here_before_stays() -> None:
    lab = Room(C)
    await lab.fetch(A, B, C)
    lab.used = ["r.lan/a:1"]
    lab.free(0)
    assert await lab.room.make(None) == 1
    assert [*lab.engine.images] == [C, A]


@simulated
async def test_what_a_container_needs_stays_and_the_next_one_goes() -> None:
    lab = Room()
    await lab.fetch(A, B)
    container = await lab.engine.create("x", {"Image": A})
    lab.free(5)
    assert await lab.room.make(0) == 1
    assert [*lab.engine.images] == [A]
    await lab.engine.remove(container)
    lab.engine.fail("remove_image", EngineError("remove image", 500, "something else"))
    lab.free(5)
    assert await lab.room.make(0) == 0
    assert await lab.room.make(0) == 1


@simulated
async def test_a_job_waits_for_a_removal_and_then_pulls() -> None:
    lab = Room()
    await lab.fetch(A)
    lab.free(5)
    gate = asyncio.Event()
    remove = lab.engine.remove_image

    async def slowly(reference: str) -> bool:
        await gate.wait()
        return await remove(reference)

    lab.engine.remove_image = slowly  # type: ignore[method-assign]
    making = asyncio.create_task(lab.room.make(0))
    await asyncio.sleep(1)
    job = asyncio.create_task(lab.fetch(A))
    await asyncio.sleep(1)
    gate.set()
    await making
    await job
    assert A in lab.engine.images


@simulated
async def test_it_looks_when_a_pull_has_ended_and_when_a_job_has_gone_but_not_all_the_time() -> None:
    lab = Room()
    running = asyncio.create_task(lab.room.run())
    lab.free(15)
    lab.used = [A]
    await lab.fetch(A)
    assert [*lab.engine.images] == [A]  # 5 left of 100
    lab.used = []
    lab.changed.set()
    await asyncio.sleep(LOOK_GAP_S)
    assert [*lab.engine.images] == []
    looks = sum(step == "disk" for step, _ in lab.engine.calls)
    for _ in range(100):
        lab.changed.set()
        await asyncio.sleep(LOOK_GAP_S / 100)
    assert sum(step == "disk" for step, _ in lab.engine.calls) - looks <= 2
    lab.engine.stop()
    lab.changed.set()
    await asyncio.sleep(2 * LOOK_GAP_S)
    assert not running.done()
    running.cancel()


@simulated
async def test_where_the_disk_is_not_known_only_a_full_one_makes_it_remove() -> None:
    lab = Room()
    await lab.fetch(A, B)
    lab.engine.space = None
    assert not await lab.room.short()
    assert await lab.room.make(0) == 0
    assert await lab.room.make(10 * GIB) == 0
    assert await lab.room.make(None) == 2


@simulated
async def test_an_image_whose_tag_has_moved_on_goes_too() -> None:
    lab = Room()
    await lab.fetch(A)
    old = lab.engine.images[A]
    lab.engine.images[A] = type(old)(old.id, f"r.lan/a@{DIGEST}")
    await lab.fetch(A, pull=Pull.ALWAYS)
    lab.used = [A]
    assert await lab.room.make(None) == 1
    assert ("remove_image", f"r.lan/a@{DIGEST}") in lab.engine.calls
    assert A in lab.engine.images


async def test_a_restarted_agent_knows_its_own(tmp_path: Path) -> None:
    file = tmp_path / "agent-a.images"
    first = Room(file=file)
    await first.room.load()
    running = asyncio.create_task(first.room.run())
    for image in (A, B):
        await first.images.fetch(image, Pull.MISSING, hush)
    running.cancel()
    await asyncio.wait({running})
    second = Room(A, B, C, file=file)
    await second.room.load()
    assert await second.room.make(None) == 2
    assert [*second.engine.images] == [C]


async def test_a_save_that_the_end_comes_upon_is_not_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "agent-a.images"
    begun, gate = threading.Event(), threading.Event()
    seen: set[str] = set()

    def slowly(pulled: Mapping[str, float]) -> str:
        text = show_pulled(pulled)
        if not begun.is_set():
            begun.set()
            assert gate.wait(20)
            seen.update(pulled)  # not what came meanwhile: it is being gone through
        return text

    monkeypatch.setattr("agent.image_room.show_pulled", slowly)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    first = Room(file=file)
    running = asyncio.create_task(first.room.run())
    first.room.note_pulled(A)
    assert await asyncio.to_thread(begun.wait, 20)
    first.room.note_pulled(B)
    running.cancel()
    await asyncio.sleep(0)  # the cancel arrives
    gate.set()
    await asyncio.wait({running})
    await asyncio.get_running_loop().shutdown_default_executor()
    assert seen == {key_of(A)}
    assert set(parse_pulled(file.read_text())) == {key_of(A), key_of(B)}


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"pulled": {"x": 1}}', '{"pulled": {"r.lan/a:1": "z"}}'])
async def test_a_spoilt_memory_removes_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent-a.images"
    file.write_text(text)
    lab = Room(A, file=file)
    await lab.room.load()
    assert await lab.room.make(None) == 0


@simulated
async def test_only_so_many_are_remembered() -> None:
    lab = Room()
    for number in range(KEPT + 5):
        lab.room.note_pulled(f"r.lan/x:{number}")
    assert not lab.room.is_own("r.lan/x:0")
    assert lab.room.is_own(f"r.lan/x:{KEPT + 4}")


@pytest.mark.parametrize(
    ("pulled", "used", "left"),
    [
        ({"docker.io/library/python:3": 2.0, "r.lan/a:1": 1.0}, [], ["r.lan/a:1", "docker.io/library/python:3"]),
        ({"docker.io/library/python:latest": 1.0}, ["python"], []),
        ({"r.lan/a:1": 1.0, "r.lan/a:2": 2.0}, ["r.lan/a:2"], ["r.lan/a:1"]),
        ({"r.lan/a:1": 1.0, "r.lan/b:1": 1.0}, [f"r.lan/a@{DIGEST}"], ["r.lan/b:1"]),
        ({f"r.lan/a@{DIGEST}": 1.0}, ["r.lan/a:1"], [f"r.lan/a@{DIGEST}"]),
        ({"r.lan/a:1": 1.0}, ["deadbeef", ""], ["r.lan/a:1"]),
    ],
)
def test_which_may_go(pulled: Mapping[str, float], used: Sequence[str], left: list[str]) -> None:
    assert removable(pulled, used) == left
    assert parse_pulled(show_pulled(pulled)) == pulled


def test_how_much_is_to_be_free() -> None:
    assert spare_bytes(DiskSpace(0, 50 * GIB), None) == 5 * GIB
    assert spare_bytes(DiskSpace(0, 10_000 * GIB), None) == MOST_SPARE_BYTES
    assert spare_bytes(DiskSpace(0, 50 * GIB), 0) == 0
    assert room_for(None) is None
    assert room_for(PullProgress(1, 0)) is None
    assert room_for(PullProgress(1, GIB)) == 4 * GIB
