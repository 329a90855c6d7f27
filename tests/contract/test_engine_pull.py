"""Pulling, by the text of `agent.ports.Engine`: the login reaches the registry, and progress is told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.registry_login import Credential
from agent.ports import EngineError, PullProgress
from tests.contract.engine_world import Lab
from tests.fakes.engine import FakeEngine
from tests.support.registry import PASSWORD, USER, Registry, forget

LOGIN = Credential(USER, PASSWORD)


@pytest.fixture
def private(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """An image that is not here, in a registry that wants `LOGIN`."""
    if isinstance(lab.engine, FakeEngine):
        reference = "127.0.0.1:5000/tool:1"
        lab.engine.registry.add(reference)
        lab.engine.private[reference] = LOGIN
        lab.engine.pull_progress = (PullProgress(1, 2), PullProgress(2, 2))
        yield reference
        return
    registry = Registry(tmp_path / "registry", private=True).start()
    reference = registry.push_new(lab.image, f"tool-{secrets.token_hex(4)}:1")
    yield reference
    forget(reference)
    registry.stop()


async def test_a_private_image_is_given_to_its_login_alone(lab: Lab, private: str) -> None:
    for login in (None, Credential(USER, "another")):
        with pytest.raises(EngineError) as caught:
            await lab.engine.pull(private, login=login)
        assert "no basic auth credentials" in caught.value.reply or "unauthorized" in caught.value.reply
        assert await lab.engine.image(private) is None
    await lab.engine.pull(private, login=LOGIN)
    found = await lab.engine.image(private)
    assert found is not None
    assert found.digest is not None


async def test_progress_never_passes_its_total(lab: Lab, private: str) -> None:
    told: list[PullProgress] = []
    await lab.engine.pull(private, login=LOGIN, progress=told.append)
    assert all(0 <= one.done_bytes <= one.total_bytes for one in told)
    if isinstance(lab.engine, FakeEngine):
        assert told[-1] == PullProgress(2, 2)


async def test_an_image_that_a_container_needs_stays_and_goes_with_its_last_name(lab: Lab, private: str) -> None:
    await lab.engine.pull(private, login=LOGIN)
    container = await lab.engine.create(f"{lab.mark}-user", {"Image": private, "Labels": {"launch.test": lab.mark}})
    assert not await lab.engine.remove_image(private)
    assert await lab.engine.image(private) is not None
    await lab.engine.remove(container)
    assert await lab.engine.remove_image(private)
    assert await lab.engine.image(private) is None
    assert await lab.engine.remove_image(private)


async def test_a_disk_has_room_or_is_not_known(lab: Lab) -> None:
    space = await lab.engine.disk()
    assert space is None or 0 <= space.free_bytes <= space.total_bytes
