"""Files in and out of a container: what the `Engine` port says of `stat`, `put` and `get`, and of `usage`."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import pytest

from agent.adapters.docker import DockerEngine
from agent.ports import EngineError, EngineUnavailable
from tests.contract.engine_world import SLEEP, TRUE, Lab
from tests.fakes.engine import FakeEngine

pytestmark = pytest.mark.filterwarnings("error")


def packed(files: Mapping[str, bytes | None]) -> bytes:
    """A tar; None is a folder that everybody may write to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o1777
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


async def pieces(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def got(lab: Lab, container: str, path: str) -> dict[str, bytes | None]:
    """What `get` gives, in its order; None for what is no file."""
    async with aclosing(lab.engine.get(container, path)) as stream:
        data = b"".join([piece async for piece in stream])
    found: dict[str, bytes | None] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            found[info.name] = file.read() if file else None
    return found


async def test_what_is_put_can_be_got(lab: Lab) -> None:
    container = await lab.create(TRUE)
    await lab.engine.put(container, "/", pieces(packed({"in": None, "in/a.txt": b"one", "in/deep/b": b"2" * 5000})))
    assert await got(lab, container, "/in") == {
        "in": None,
        "in/a.txt": b"one",
        "in/deep": None,
        "in/deep/b": b"2" * 5000,
    }
    assert await got(lab, container, "/in/a.txt") == {"a.txt": b"one"}
    await lab.engine.start(container)
    await lab.engine.wait(container)
    assert (await got(lab, container, "/in/a.txt"))["a.txt"] == b"one", "it survives the exit"


async def test_a_gzipped_tar_is_unpacked_as_well(lab: Lab) -> None:
    container = await lab.create(TRUE)
    await lab.engine.put(container, "/", pieces(gzip.compress(packed({"in/a": b"x" * 10000}))))
    assert (await got(lab, container, "/in/a"))["a"] == b"x" * 10000


async def test_a_volume_takes_files_and_keeps_them_after_the_exit(lab: Lab) -> None:
    container = await lab.create(TRUE, mounts=["/launch/artifacts"])
    folder = await lab.engine.stat(container, "/launch/artifacts")
    assert folder is not None
    assert folder.is_dir
    assert list(await got(lab, container, "/launch/artifacts")) == ["artifacts"]
    await lab.engine.put(container, "/", pieces(packed({"launch/artifacts": None, "launch/artifacts/a": b"one"})))
    await lab.engine.start(container)
    await lab.engine.wait(container)
    assert (await got(lab, container, "/launch/artifacts"))["artifacts/a"] == b"one"


async def test_stat_tells_files_and_folders_and_what_changed(lab: Lab) -> None:
    container = await lab.create(TRUE, mounts=["/data"])
    before = await lab.engine.stat(container, "/data")
    assert before is not None
    assert (before.name, before.is_dir) == ("data", True)
    assert datetime.fromisoformat(before.modified).tzinfo is not None
    assert await lab.engine.stat(container, "/data") == before
    await lab.engine.put(container, "/data", pieces(packed({"a": b"four"})))
    file, after = await lab.engine.stat(container, "/data/a"), await lab.engine.stat(container, "/data")
    assert file is not None
    assert (file.name, file.size, file.is_dir) == ("a", 4, False)
    assert after is not None
    assert after.modified != before.modified
    assert await lab.engine.stat(container, "/data/none") is None
    assert await lab.engine.stat(f"{lab.mark}-none", "/data") is None


async def test_a_folder_that_is_not_there_takes_nothing(lab: Lab) -> None:
    container = await lab.create(TRUE)
    with pytest.raises(EngineError) as caught:
        await lab.engine.put(container, "/none", pieces(packed({"a": b"x" * 4_000_000}), 65536))
    assert (caught.value.step, caught.value.status) == ("put", 404)
    with pytest.raises(EngineError) as caught:
        await lab.engine.put(f"{lab.mark}-none", "/", pieces(packed({"a": b"x"})))
    assert caught.value.status == 404
    with pytest.raises(EngineError) as caught:
        await got(lab, container, "/none")
    assert (caught.value.step, caught.value.status) == ("get", 404)


async def test_a_torn_tar_is_refused(lab: Lab) -> None:
    container = await lab.create(TRUE)
    with pytest.raises(EngineError) as caught:
        await lab.engine.put(container, "/", pieces(packed({"a": b"x" * 100_000})[:50_000]))
    assert (caught.value.step, caught.value.status) == ("put", 500)


async def test_what_the_source_raises_is_raised(lab: Lab) -> None:
    class Broken(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield packed({"a": b"x" * 3_000_000})[:1_000_000]
        raise Broken("half-way")

    container = await lab.create(TRUE)
    with pytest.raises(Broken, match="half-way"):
        await lab.engine.put(container, "/", broken())
    assert await lab.engine.stat(container, "/") is not None, "the engine is still usable"


async def test_leaving_get_early_leaves_the_engine_usable(lab: Lab) -> None:
    container = await lab.create(TRUE)
    await lab.engine.put(container, "/", pieces(packed({"big": b"x" * 20_000_000}), 65536))
    for _ in range(5):
        async with aclosing(lab.engine.get(container, "/big")) as stream:
            assert await anext(stream)
    assert (await lab.see(container)).state == "created"


async def test_env_is_seen(lab: Lab) -> None:
    container = await lab.create(TRUE, env=["A=1", "B=x=y"])
    assert {"A=1", "B=x=y"} <= {*(await lab.see(container)).env}


async def test_usage_is_there_while_it_runs(lab: Lab) -> None:
    container = await lab.create(SLEEP)
    assert await lab.engine.usage(container) is None
    await lab.engine.start(container)
    used = await lab.engine.usage(container)
    assert used is not None
    assert used.memory_bytes > 0
    assert used.cpu_s >= 0
    await lab.engine.signal(container, "SIGKILL")
    await lab.engine.wait(container)
    assert await lab.engine.usage(container) is None
    with pytest.raises(EngineError) as caught:
        await lab.engine.usage(f"{lab.mark}-none")
    assert caught.value.status == 404


async def test_an_engine_that_is_away_is_unavailable(lab: Lab, tmp_path: Any) -> None:
    gone = FakeEngine() if isinstance(lab.engine, FakeEngine) else DockerEngine(f"unix://{tmp_path}/no.sock")
    if isinstance(gone, FakeEngine):
        gone.stop()

    async def get() -> None:
        async for _ in gone.get("x", "/"):
            pass

    for call in (gone.stat("x", "/"), gone.put("x", "/", pieces(packed({"a": b""}))), get(), gone.usage("x")):
        with pytest.raises(EngineUnavailable):
            await call
    await gone.close()
