"""Images that are not here: pulled from a real registry, or missing there in a way that has its own reason."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.core.states import Reason, State
from tests.integration.agent_lab import Lab
from tests.support.registry import Registry, RegistryError, forget

pytestmark = [pytest.mark.docker, pytest.mark.nats]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of this module's own."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    try:
        made.start()
    except RegistryError as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.stop()


async def test_an_absent_image_is_pulled_and_its_digest_recorded(lab: Lab, registry: Registry) -> None:
    reference = registry.push(lab.image, f"tool-{secrets.token_hex(4)}:2")
    try:
        async with lab.agent():
            job = await lab.submit(image=reference, command=["true"])
            record = await lab.ended(job)
            present = await lab.ended(await lab.submit(image=reference, command=["true"]))
            built = await lab.ended(await lab.submit(command=["true"]))
    finally:
        forget(reference)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1), record.message
    assert present.digest == record.digest
    assert str(built.digest).startswith("sha256:")  # no registry has it: its id
    assert record.digest is not None
    assert record.digest.startswith(reference.rpartition(":")[0] + "@sha256:")
    assert [one.message for one in await lab.client.records.history(job)][1] == f"pulling {reference}"


@pytest.mark.parametrize("name", ["launch-test-missing:1", "launch-test-missing"])
async def test_an_image_that_the_registry_does_not_have_fails_at_once(lab: Lab, registry: Registry, name: str) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=f"{registry.address}/{name}", command=["true"], retries=3))
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.IMAGE_NOT_FOUND, 1), record.message
    assert record.message is not None
    assert "manifest unknown" in record.message


async def test_a_registry_that_is_not_there_is_no_fault_of_the_job(lab: Lab, tmp_path: Path) -> None:
    gone = Registry(tmp_path / "gone").start()
    gone.stop()
    async with lab.agent():
        job = await lab.submit(image=f"{gone.address}/tool:1", command=["true"])
        record = await lab.until(job, State.QUEUED)
    assert (record.reason, record.failures, record.interruptions) == (Reason.IMAGE_PULL_FAILED, 0, 1)
    assert record.message is not None
    assert "could not be reached" in record.message
