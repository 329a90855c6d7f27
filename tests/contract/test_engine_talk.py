"""Every implementation of the `Engine` port can make an image and talk to a process: the fake and the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from agent.adapters.docker import DockerEngine
from agent.core.tar import END, file_header
from agent.ports import EngineError
from tests.contract.engine_world import ECHO, TRUE, Lab
from tests.support import engine

pytestmark = pytest.mark.filterwarnings("error")


async def answer(lab: Lab, container: str, said: bytes) -> bytes:
    """As much of what the container says to this as was said to it."""
    heard = b""
    async with asyncio.timeout(10), aclosing(lab.engine.talk(container, said)) as told:
        async for data in told:
            heard += data
            if len(heard) >= len(said):
                return heard
    return heard


async def test_what_is_said_is_answered_again_and_again(lab: Lab) -> None:
    container = await lab.create(ECHO)
    await lab.engine.start(container)
    assert await answer(lab, container, b"one\n") == b"one\n"
    # The input stays open, and what was said before is not heard again.
    assert await answer(lab, container, b"\x00two" * 1000) == b"\x00two" * 1000
    assert (await lab.see(container)).state == "running"


async def test_a_talk_ends_with_the_container(lab: Lab) -> None:
    container = await lab.create(ECHO)
    await lab.engine.start(container)
    async with asyncio.timeout(10), aclosing(lab.engine.talk(container, b"one")) as told:
        assert await anext(told) == b"one"
        await lab.engine.signal(container, "SIGKILL")
        assert [data async for data in told] == []


async def test_nobody_talks_to_what_does_not_run(lab: Lab) -> None:
    container = await lab.create(TRUE)
    for name in (container, f"{lab.mark}-no-such"):
        with pytest.raises(EngineError) as caught:
            await answer(lab, name, b"one")
        assert caught.value.step == "talk"


@pytest.fixture
async def made(lab: Lab) -> AsyncIterator[str]:
    """The name of an image that is not there yet, and is removed at the end."""
    name = f"{lab.mark}:1"
    yield name
    if isinstance(lab.engine, DockerEngine):
        await asyncio.to_thread(engine.call, "DELETE", f"/images/{name}")


async def test_an_image_is_made_of_a_tar(lab: Lab, made: str) -> None:
    tar = file_header("hello", 512) + b"x" * 512 + END
    await lab.engine.make_image(made, tar, {"launch.keeper": 'says "so", in words'})
    first = await lab.engine.image(made)
    assert first is not None
    container = await lab.engine.create(
        f"{lab.mark}-of-it", {"Image": made, "Cmd": ["/hello"], "Labels": {"launch.test": lab.mark}}
    )
    assert (await lab.see(container)).state == "created"
    if isinstance(lab.engine, DockerEngine):
        assert (await lab.see(container)).labels["launch.keeper"] == 'says "so", in words'
        hello = await lab.engine.stat(container, "/hello")
        assert hello is not None
        assert hello.size == 512
        with pytest.raises(EngineError, match="make_image"):
            await lab.engine.make_image(made, b"no tar at all" * 100, {})
