"""The pool of network namespaces on an engine that fails: bounded, never waited for, and what is in doubt is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.core.netns import QUESTION, image_reference
from agent.netns import NetworkPool
from agent.ports import EngineError, EngineUnavailable
from launch.errors import LaunchError
from launch.subjects import LABEL_AGENT, LABEL_KEEPER, LABEL_NETNS
from tests.fakes.engine import FakeEngine, Script
from tests.unit.agent.test_netns import answer
from tests.unit.agent.worlds import simulated

MACHINE = "x86_64"
AWAY = EngineUnavailable("away")
REFUSED = EngineError("any", 500, "no more addresses")


class Rig:
    """A fake engine whose keepers say what `says` is."""

    def __init__(self, size: int = 2) -> None:
        self.engine = FakeEngine(images=["job"])
        self.engine.scripts["/keep",] = Script(hold=True, answer=self._answer)
        self.engine.scripts["hold",] = Script(hold=True)
        self.says = answer()
        self.pool = NetworkPool(self.engine, "a", size=size, machine=MACHINE)

    def _answer(self, said: bytes) -> bytes:
        assert said == QUESTION
        return self.says

    @asynccontextmanager
    async def running(self) -> AsyncIterator[NetworkPool]:
        self.pool.adopt(await self.engine.list({LABEL_AGENT: "a"}))
        task = asyncio.create_task(self.pool.run())
        await self.pool.settled()
        yield self.pool
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})

    def keepers(self) -> list[str]:
        return [one.id for one in self.engine.containers.values() if LABEL_KEEPER in one.config["Labels"]]

    async def begin(self, name: str) -> dict[str, Any]:
        """A job's container, and its body."""
        config: dict[str, Any] = {"Image": "job", "Cmd": ["hold"], "Labels": {LABEL_AGENT: "a"}}
        config["HostConfig"] = {"NetworkMode": "bridge"}
        self.pool.join(name, config)
        await self.engine.create(name, config)
        await self.engine.start(name)
        return config

    async def end(self, name: str) -> None:
        await self.engine.remove(name)
        await self.pool.part(name)


@simulated
async def test_without_a_size_it_does_nothing() -> None:
    rig = Rig(0)
    async with rig.running() as pool:
        assert (await rig.begin("one"))["HostConfig"] == {"NetworkMode": "bridge"}
        await rig.end("one")
    await pool.close()
    assert {step for step, _ in rig.engine.calls} == {"list", "create", "start", "remove"}
    assert len(rig.engine.calls) == 4


@simulated
async def test_it_makes_its_image_and_so_many_keepers() -> None:
    rig = Rig(3)
    async with rig.running() as pool:
        assert (pool.ready, len(rig.keepers())) == (3, 3)
        assert set(rig.engine.made) == {image_reference(MACHINE)}
        assert [what for step, what in rig.engine.calls if step == "make_image"] == [image_reference(MACHINE)]
    await pool.close()
    assert rig.keepers() == []


@simulated
async def test_what_comes_back_clean_is_lent_again_and_nobody_waits_for_one() -> None:
    rig = Rig(1)
    async with rig.running() as pool:
        [keeper] = rig.keepers()
        first = await rig.begin("one")
        assert (first["HostConfig"]["NetworkMode"], first["Labels"][LABEL_NETNS]) == (f"container:{keeper}", keeper)
        assert (await rig.begin("two"))["HostConfig"]["NetworkMode"] == "bridge"
        await rig.end("one")
        await rig.end("two")
        assert pool.ready == 1
        assert (await rig.begin("three"))["Labels"][LABEL_NETNS] == keeper


@simulated
async def test_the_same_container_asked_for_twice_has_one() -> None:
    rig = Rig(2)
    async with rig.running() as pool:
        first = await rig.begin("one")
        config: dict[str, Any] = {"Labels": {}, "HostConfig": {"NetworkMode": "bridge"}}
        pool.join("one", config)
        assert config["Labels"][LABEL_NETNS] == first["Labels"][LABEL_NETNS]
        assert pool.ready == 1


@pytest.mark.parametrize(
    "host",
    [
        {"NetworkMode": "none"},
        {"NetworkMode": "training"},
        {"NetworkMode": "bridge", "CapAdd": ["SYS_PTRACE"]},
        {"NetworkMode": "bridge", "Devices": [{"PathOnHost": "/dev/infiniband/uverbs0"}]},
    ],
)
def test_a_container_that_is_elsewhere_or_may_do_more_has_its_own(host: dict[str, Any]) -> None:
    @simulated
    async def test() -> None:
        rig = Rig(1)
        async with rig.running() as pool:
            config: dict[str, Any] = {"Labels": {}, "HostConfig": dict(host)}
            pool.join("one", config)
            assert config == {"Labels": {}, "HostConfig": host}
            assert pool.ready == 1

    test()


@pytest.mark.parametrize("says", [answer({"/etc/hosts": b"evil"}), answer()[:-1], b"", bytes(2**20)])
@pytest.mark.parametrize("fault", [None, AWAY, REFUSED])
def test_what_is_in_doubt_is_replaced(says: bytes, fault: EngineError | EngineUnavailable | None) -> None:
    @simulated
    async def test() -> None:
        rig = Rig(1)
        async with rig.running() as pool:
            [used] = rig.keepers()
            await rig.begin("one")
            await rig.engine.remove("one")
            if fault is not None:
                rig.engine.fail("talk", fault)
            rig.says = says if fault is None else answer()
            await pool.part("one")
            rig.says = answer()
            assert pool.ready == 0
            await pool.settled()
            assert (pool.ready, used in rig.keepers(), len(rig.keepers())) == (1, False, 1)

    test()


@simulated
async def test_an_engine_that_makes_none_is_asked_ever_less_often() -> None:
    rig = Rig(1)
    rig.engine.fail("create", REFUSED, times=8)
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    async with rig.running() as pool:
        assert pool.ready == 1
    assert 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 <= loop.time() - since_s < 200


@simulated
@pytest.mark.parametrize("step", ["start", "talk"])
async def test_a_keeper_that_is_half_made_is_removed(step: str) -> None:
    rig = Rig(1)
    rig.engine.fail(step, AWAY)
    async with rig.running() as pool:
        assert (pool.ready, len(rig.keepers())) == (1, 1)


@simulated
async def test_one_that_can_not_be_removed_does_not_stand_in_the_way_of_others() -> None:
    rig = Rig(2)
    async with rig.running() as pool:
        await rig.begin("one")
        await rig.begin("two")
        rig.engine.fail("remove", REFUSED)
        rig.says = answer({"/etc/hosts": b"evil"})
        await pool.part("one")
        await pool.part("two")
        rig.says = answer()
        await pool.settled()
        assert (pool.ready, len(rig.keepers())) == (2, 3)
    await pool.close()
    assert rig.keepers() == []


@simulated
async def test_an_engine_that_kills_all_has_them_made_again() -> None:
    rig = Rig(2)
    async with rig.running() as pool:
        before = rig.keepers()
        rig.engine.stop()
        assert pool.ready == 2
        rig.engine.start_again()
        await asyncio.sleep(30)
        assert pool.ready == 2
        assert not {*before} & {*rig.keepers()}


@simulated
async def test_a_close_that_the_engine_does_not_answer_ends() -> None:
    rig = Rig(1)
    async with rig.running() as pool:
        rig.engine.fail("list", AWAY)
    await pool.close()
    assert len(rig.keepers()) == 1
    # The next process finds it.
    rig.pool = NetworkPool(rig.engine, "a", size=0)
    async with rig.running():
        assert rig.keepers() == []


def test_a_machine_without_a_program_is_told_at_the_start() -> None:
    with pytest.raises(LaunchError, match="'riscv64'; allowed: x86_64, aarch64"):
        NetworkPool(FakeEngine(), "a", size=1, machine="riscv64")
