"""Private registries: a real one with a login and TLS on loopback, and what a job hears that may not pull from it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.core.states import Reason, State
from launch.queue import QueueSpec
from tests.integration.agent_lab import Lab
from tests.support.registry import PASSWORD, USER, Registry, RegistryError, docker_config, forget

pytestmark = [pytest.mark.docker, pytest.mark.nats]

PLAIN = pytest.mark.parametrize("registry", ["plain"], indirect=True)
"""For what an engine can't tell of a registry with TLS on loopback, or what needs to be seen of one only."""


@pytest.fixture(scope="module", params=["tls", "plain"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A private registry of this module's own."""
    made = Registry(tmp_path_factory.mktemp("registry"), private=True, tls=request.param == "tls")
    try:
        made.start()
    except RegistryError as error:
        pytest.fail(str(error), pytrace=False)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-logins"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def private(lab: Lab, registry: Registry) -> Iterator[str]:
    """An image that only the registry has."""
    reference = registry.push(lab.image, f"tool-{secrets.token_hex(4)}:2")
    yield reference
    forget(reference)


async def asked_to_log_in(lab: Lab, registry: Registry) -> None:
    """Give the queue a login whose password is the secret `hub`."""
    auth = {registry.address: {"username": USER, "password": {"secret": "hub"}}}
    await lab.client.queues.apply(
        QueueSpec.model_validate({"queue_name": lab.queue, "provider": {"type": "local"}, "registry_auth": auth})
    )


async def test_dockers_own_login_is_used(
    lab: Lab, registry: Registry, private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry.address)))
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, command=["true"]))
    assert record.state is State.SUCCEEDED, record.message
    assert record.digest is not None
    assert record.digest.startswith(private.rpartition(":")[0] + "@sha256:")


@PLAIN
async def test_a_credential_helper_is_asked(
    lab: Lab, registry: Registry, private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-launch-test"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {registry.address}' ] && echo '{answer}'\n")
    helper.chmod(0o755)
    folder = docker_config(tmp_path / "docker", registry.address, "an old one")
    (folder / "config.json").write_text(json.dumps({"credHelpers": {registry.address: "launch-test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, command=["true"]))
    assert record.state is State.SUCCEEDED, record.message


@PLAIN
async def test_the_queues_login_wins_and_its_password_is_told_nowhere(
    lab: Lab,
    registry: Registry,
    private: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry.address, "an old one")))
    monkeypatch.setenv("LAUNCH_SECRET_HUB", PASSWORD)
    await asked_to_log_in(lab, registry)
    with caplog.at_level(logging.DEBUG):
        async with lab.agent():
            job = await lab.submit(image=private, command=["true"])
            record = await lab.ended(job)
            history = await lab.client.records.history(job)
    assert record.state is State.SUCCEEDED, record.message
    said = capfd.readouterr()
    for text in (said.out, said.err, caplog.text, *(one.model_dump_json() for one in history)):
        assert PASSWORD not in text


@PLAIN
async def test_without_a_login_a_job_is_unauthorized(lab: Lab, registry: Registry, private: str) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, command=["true"], retries=3))
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.IMAGE_UNAUTHORIZED, 1), record.message
    assert f"(asked {registry.address} with no login)" in str(record.message)


@PLAIN
async def test_a_wrong_password_is_unauthorized_and_says_whose(
    lab: Lab, registry: Registry, private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCH_SECRET_HUB", "wr0ng-password")
    await asked_to_log_in(lab, registry)
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, command=["true"]))
    assert record.reason is Reason.IMAGE_UNAUTHORIZED, record.message
    assert "with the queue's registry_auth" in str(record.message)
    assert "wr0ng" not in record.model_dump_json()


@PLAIN
async def test_a_password_that_is_not_there_is_named(lab: Lab, registry: Registry, private: str) -> None:
    await asked_to_log_in(lab, registry)
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, command=["true"]))
    assert record.reason is Reason.IMAGE_UNAUTHORIZED, record.message
    assert "secret 'hub' for registry_auth" in str(record.message)


@PLAIN
async def test_no_job_is_told_the_password_that_images_are_pulled_with(lab: Lab, registry: Registry) -> None:
    await asked_to_log_in(lab, registry)
    async with lab.agent():
        record = await lab.ended(await lab.submit(command=["env"], env={"MINE": {"secret": "hub"}}))
    assert (record.state, record.reason) == (State.FAILED, Reason.POLICY_DENIED)
    assert "the queue's registry_auth: found secret 'hub' for MINE" in str(record.message)


@PLAIN
async def test_a_missing_image_is_told_from_a_missing_login(
    lab: Lab, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry.address)))
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=f"{registry.address}/missing:1", command=["true"]))
    assert record.reason is Reason.IMAGE_NOT_FOUND, record.message


@PLAIN
async def test_never_pulls_nothing_and_says_so(lab: Lab, private: str) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(image=private, pull="never", command=["true"]))
    assert record.reason is Reason.IMAGE_NOT_FOUND, record.message
    assert "pull: never" in str(record.message)


@PLAIN
async def test_always_sees_what_was_pushed_since(
    lab: Lab, registry: Registry, private: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry.address)))
    async with lab.agent():
        first, second = await asyncio.gather(
            *(lab.submit(image=private, pull=pull, command=["true"]) for pull in ("missing", "always"))
        )
        records = [await lab.ended(job) for job in (first, second)]
        third = await lab.submit(image=private, pull="always", command=["true"])
        records.append(await lab.ended(third))
        history = await lab.client.records.history(third)
    assert [record.state for record in records] == [State.SUCCEEDED] * 3
    assert f"pulling {private}" in [one.message for one in history]
