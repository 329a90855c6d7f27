"""One pull for all who want an image; network faults tried again, everything else told with its reason."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import pytest

from agent.core.outcome import Unready
from agent.core.pulls import PullMeter, show_pull
from agent.core.registry_login import Credential
from agent.image_room import ImageRoom
from agent.images import FRESH_S, TELL_EVERY_S, Images
from agent.ports import DiskSpace, EngineError, EngineUnavailable, ImageInfo, PullProgress
from agent.registries import Registries
from agent.secrets import Secrets
from launch.core.states import Reason
from launch.job import Pull
from tests.fakes.clock import LoopClock
from tests.fakes.engine import FakeEngine
from tests.unit.agent.worlds import simulated

IMAGE = "registry.lan/tool:1"
BROKEN = EngineError("pull", 500, "read tcp 10.0.0.1:1->10.0.0.2:443: read: connection reset by peer")


OTHER = "registry.lan/other:1"
GIB = 1024**3


def images(engine: FakeEngine, used: Sequence[str] = ()) -> Images:
    room = ImageRoom(engine, LoopClock(), lambda: used, asyncio.Event())
    return Images(engine, Registries(Secrets()), dict, room)


async def hush(_: str) -> None:
    """Nobody listens."""


def pulls(engine: FakeEngine) -> int:
    return sum(step == "pull" for step, _ in engine.calls)


@simulated
async def test_jobs_that_want_the_same_image_share_one_pull() -> None:
    engine = FakeEngine(registry=[IMAGE])
    some = images(engine)
    found = await asyncio.gather(*(some.fetch(IMAGE, pull, hush) for pull in (Pull.MISSING, Pull.ALWAYS, Pull.MISSING)))
    assert pulls(engine) == 1
    assert len({one.id for one in found}) == 1


@simulated
async def test_a_job_that_leaves_does_not_end_the_pull_of_another_and_the_last_does() -> None:
    engine = FakeEngine(registry=[IMAGE])
    engine.pull_gate = asyncio.Event()
    some = images(engine)
    one, two = (asyncio.create_task(some.fetch(IMAGE, Pull.MISSING, hush)) for _ in range(2))
    await asyncio.sleep(1)
    one.cancel()
    await asyncio.wait({one})
    engine.pull_gate.set()
    assert (await two).digest is not None
    engine.pull_gate = asyncio.Event()
    three = asyncio.create_task(some.fetch(IMAGE, Pull.ALWAYS, hush))
    await asyncio.sleep(1)
    three.cancel()
    await asyncio.wait({three})
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("pull of")] == []


@simulated
async def test_a_broken_network_is_tried_again_for_a_while() -> None:
    engine = FakeEngine(registry=[IMAGE])
    engine.fail("pull", BROKEN)
    engine.fail("pull", BROKEN)
    assert (await images(engine).fetch(IMAGE, Pull.MISSING, hush)).digest is not None
    assert pulls(engine) == 3
    for _ in range(4):
        engine.fail("pull", BROKEN)
    with pytest.raises(Unready, match="could not be reached") as caught:
        await images(engine).fetch(IMAGE, Pull.ALWAYS, hush)
    assert caught.value.reason is Reason.IMAGE_PULL_FAILED
    assert pulls(engine) == 7


@pytest.mark.parametrize(
    ("said", "reason", "advice"),
    [
        ("no basic auth credentials", Reason.IMAGE_UNAUTHORIZED, "log it in"),
        ("manifest unknown: manifest unknown", Reason.IMAGE_NOT_FOUND, "check its name and tag"),
        ("write /var/lib/x: no space left on device", Reason.IMAGE_PULL_FAILED, "disk is full"),
        ("no matching manifest for linux/arm64", Reason.IMAGE_PULL_FAILED, "platform"),
        ("x509: certificate signed by unknown authority", Reason.IMAGE_PULL_FAILED, "certificate"),
    ],
)
def test_anything_else_is_told_at_once(said: str, reason: Reason, advice: str) -> None:
    @simulated
    async def test() -> None:
        engine = FakeEngine(registry=[IMAGE])
        engine.fail("pull", EngineError("pull", 500, said))
        with pytest.raises(Unready, match=advice) as caught:
            await images(engine).fetch(IMAGE, Pull.MISSING, hush)
        assert caught.value.reason is reason
        assert pulls(engine) == 1

    test()


@simulated
async def test_progress_is_told_in_steps_and_not_more_often() -> None:
    engine = FakeEngine(registry=[IMAGE])
    engine.pull_gate = asyncio.Event()
    engine.pull_progress = tuple(PullProgress(done * 2**20, 100 * 2**20) for done in range(35))
    told: list[str] = []

    async def tell(text: str) -> None:
        told.append(text)

    fetching = asyncio.create_task(images(engine).fetch(IMAGE, Pull.MISSING, tell))
    await asyncio.sleep(10 * TELL_EVERY_S)
    engine.pull_gate.set()
    await fetching
    assert told == [f"pulling {IMAGE}", f"pulling {IMAGE}: 34 % of 100Mi"]


def test_layers_are_added_up_and_nonsense_is_passed_over() -> None:
    meter = PullMeter()

    def said(layer: Any, status: str, current: Any = 0, total: Any = 0) -> PullProgress | None:
        return meter.feed({"id": layer, "status": status, "progressDetail": {"current": current, "total": total}})

    assert said("a", "Downloading", 10, 100) == PullProgress(10, 100)
    assert said("b", "Downloading", 50, 100) == PullProgress(60, 200)
    assert said("a", "Download complete") == PullProgress(150, 200)
    assert said("a", "Extracting", 3, 7) is None
    assert said("c", "Downloading", "x", -1) is None
    assert said(None, "Downloading", 1, 2) is None
    assert meter.feed({"status": "Pulling from x"}) is None
    assert show_pull("x", None) == "pulling x"


@simulated
async def test_the_login_goes_to_the_engine() -> None:
    engine = FakeEngine(registry=[IMAGE])
    engine.private[IMAGE] = Credential("bob", "x")
    with pytest.raises(Unready, match="with no login"):
        await images(engine).fetch(IMAGE, Pull.MISSING, hush)


def running() -> list[str]:
    """The pulls under way."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("pull of")]


@simulated
async def test_a_job_joins_the_pull_ahead_of_its_image() -> None:
    engine = FakeEngine(registry=[IMAGE])
    engine.pull_gate = asyncio.Event()
    some = images(engine)
    ahead = asyncio.create_task(some.fetch_ahead(IMAGE))
    await asyncio.sleep(1)
    job = asyncio.create_task(some.fetch(IMAGE, Pull.MISSING, hush))
    await asyncio.sleep(1)
    ahead.cancel()
    await asyncio.wait({ahead})
    engine.pull_gate.set()
    assert (await job).digest is not None
    assert pulls(engine) == 1


@simulated
async def test_a_pull_ahead_gives_way_to_a_jobs_and_waits_for_it() -> None:
    engine = FakeEngine(registry=[IMAGE, OTHER])
    engine.pull_gate = asyncio.Event()
    some = images(engine)
    ahead = asyncio.create_task(some.fetch_ahead(OTHER))
    await asyncio.sleep(1)
    job = asyncio.create_task(some.fetch(IMAGE, Pull.MISSING, hush))
    assert not await ahead
    again = asyncio.create_task(some.fetch_ahead(OTHER))
    await asyncio.sleep(1)
    assert running() == [f"pull of {IMAGE}"]
    engine.pull_gate.set()
    await job
    assert await again
    assert OTHER in engine.images


@simulated
async def test_a_pull_ahead_does_not_wait_for_a_job_that_is_still_telling_of_its_own() -> None:
    engine = FakeEngine(registry=[IMAGE, OTHER])
    some = images(engine)
    told = asyncio.Event()

    async def slowly(_: str) -> None:
        await told.wait()

    job = asyncio.create_task(some.fetch(IMAGE, Pull.MISSING, slowly))
    await asyncio.sleep(1)
    assert await asyncio.wait_for(some.fetch_ahead(OTHER), 10)
    assert OTHER in engine.images
    told.set()
    await job


@simulated
async def test_nothing_is_fetched_ahead_that_is_here_or_has_no_room() -> None:
    engine = FakeEngine(registry=[IMAGE], images=[OTHER])
    assert await images(engine).fetch_ahead(OTHER)
    engine.space = DiskSpace(9 * GIB, 100 * GIB)
    assert await images(engine).fetch_ahead(IMAGE)
    assert pulls(engine) == 0
    engine.space = DiskSpace(10 * GIB, 100 * GIB)
    assert await images(engine).fetch_ahead(IMAGE)
    assert pulls(engine) == 1


@simulated
async def test_a_pull_that_finds_the_disk_full_is_tried_once_more_if_room_was_made() -> None:
    engine = FakeEngine(registry=[IMAGE, OTHER])
    engine.image_bytes = 4 * GIB
    engine.space = DiskSpace(5 * GIB, 8 * GIB)
    used: list[str] = []
    some = images(engine, used)
    await some.fetch(OTHER, Pull.MISSING, hush)
    used.append("registry.lan/other:1")
    with pytest.raises(Unready, match="disk is full"):
        await some.fetch(IMAGE, Pull.MISSING, hush)
    assert pulls(engine) == 2
    used.clear()
    await some.fetch(IMAGE, Pull.MISSING, hush)
    assert pulls(engine) == 4
    assert [*engine.images] == [IMAGE]
    engine.space = DiskSpace(0, 8 * GIB)
    for _ in range(3):
        engine.fail("pull", EngineError("pull", 500, "no space left on device"))  # and even all of it would not do
    with pytest.raises(Unready, match="disk is full"):
        await some.fetch(OTHER, Pull.MISSING, hush)
    assert pulls(engine) == 4 + 2


@simulated
async def test_no_image_is_removed_for_one_that_is_fetched_ahead() -> None:
    engine = FakeEngine(registry=[IMAGE, OTHER])
    some = images(engine)
    await some.fetch(OTHER, Pull.MISSING, hush)
    engine.fail("pull", EngineError("pull", 500, "no space left on device"))
    with pytest.raises(Unready, match="disk is full"):
        await some.fetch_ahead(IMAGE)
    assert [*engine.images] == [OTHER]


def looks(engine: FakeEngine) -> int:
    return sum(step == "image" for step, _ in engine.calls)


@simulated
async def test_an_expected_image_is_looked_up_ahead_for_one_job_and_not_for_long() -> None:
    engine = FakeEngine(images=[IMAGE])
    some = images(engine)
    some.expect(IMAGE)
    some.expect(IMAGE)
    first = await some.fetch(IMAGE, Pull.MISSING, hush)
    assert looks(engine) == 1
    engine.images[IMAGE] = ImageInfo("sha256:newer", None)
    assert (await some.fetch(IMAGE, Pull.MISSING, hush)).id != first.id
    some.expect(IMAGE)
    await asyncio.sleep(0)
    seen = (await some.fetch(IMAGE, Pull.NEVER, hush)).id
    some.expect(IMAGE)
    await asyncio.sleep(FRESH_S)
    engine.images[IMAGE] = ImageInfo("sha256:newest", None)
    assert (await some.fetch(IMAGE, Pull.NEVER, hush)).id != seen


@simulated
async def test_an_expected_image_that_was_removed_since_is_looked_up_again() -> None:
    engine = FakeEngine(registry=[IMAGE])
    some = images(engine)
    await some.fetch(IMAGE, Pull.MISSING, hush)
    some.expect(IMAGE)
    await asyncio.sleep(0)
    assert await some._room.make(None) == 1
    await some.fetch(IMAGE, Pull.MISSING, hush)
    assert pulls(engine) == 2


@simulated
async def test_a_look_ahead_that_nobody_asks_for_may_fail_and_the_next_job_looks_itself() -> None:
    engine = FakeEngine(images=[IMAGE])
    some = images(engine)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    engine.fail("image", EngineUnavailable("away"))
    some.expect(IMAGE)
    await asyncio.sleep(FRESH_S)
    gc.collect()
    assert complaints == []
    assert (await some.fetch(IMAGE, Pull.MISSING, hush)).id == engine.images[IMAGE].id


@simulated
async def test_a_look_ahead_ends_with_the_agent() -> None:
    some = images(FakeEngine(images=[IMAGE]))
    some.expect(IMAGE)
    await some.close()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("look at")] == []
