"""Where logins to registries come from: helpers that misbehave, and tokens of ECR from moto."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.aws_logins import AwsLogins
from agent.adapters.docker_config import DockerConfig
from agent.adapters.ecr import EcrLogins
from agent.ports import SecretUnavailable
from tests.support.moto import MotoServer

ECR = "123456789012.dkr.ecr.us-west-2.amazonaws.com"


def config(folder: Path, script: str | None, *, limit_s: float = 20.0, **more: object) -> DockerConfig:
    """Logins whose store is a helper with this script; without one it is not installed."""
    if script is not None:
        helper = folder / "docker-credential-test"
        helper.write_text(f"#!/bin/sh\n{script}\n")
        helper.chmod(0o755)
    (folder / "config.json").write_text(json.dumps({"credsStore": "test", **more}))
    return DockerConfig({"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/usr/bin:/bin"}, helper_limit_s=limit_s)


@pytest.mark.parametrize(
    ("script", "limit_s", "trouble"),
    [
        ("exec sleep 60", 0.5, "docker-credential-test did not answer within 0.5 s"),
        ("echo pa55w0rd; exit 3", 20.0, "docker-credential-test failed with exit code 3"),
        ("echo pa55w0rd", 20.0, "docker-credential-test answered with something else than JSON"),
    ],
)
async def test_a_helper_that_fails_is_told_of_and_never_quoted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: str,
    limit_s: float,
    trouble: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    login = await config(tmp_path, script, limit_s=limit_s).login("x.io")
    assert login is not None
    assert (login.credential, login.trouble) == (None, trouble)
    assert "pa55w0rd" not in capfd.readouterr().out


async def test_a_helper_that_is_not_installed_leaves_what_the_file_has(tmp_path: Path) -> None:
    auths = {"x.io": {"username": "bob", "password": "x"}}
    login = await config(tmp_path, None, auths=auths).login("x.io")
    assert login is not None
    assert login.credential is not None
    assert login.credential.username == "bob"
    other = await config(tmp_path, None).login("x.io")
    assert other is not None
    assert other.trouble == "docker-credential-test is not installed where the agent runs"


async def test_no_file_is_no_login_and_a_broken_one_is_told_of(tmp_path: Path) -> None:
    logins = DockerConfig({"DOCKER_CONFIG": str(tmp_path)})
    assert await logins.login("x.io") is None
    (tmp_path / "config.json").write_text("{")
    login = await logins.login("x.io")
    assert login is not None
    assert login.trouble == f"{tmp_path / 'config.json'} is no JSON (line 1)"


async def test_a_token_of_ecr_is_kept_and_renewed_before_it_expires(
    moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    now = datetime(2000, 1, 1, tzinfo=UTC)
    logins = EcrLogins(lambda: now)
    login = await logins.login(ECR)
    assert login is not None
    assert login.credential is not None
    assert login.credential.username == "AWS"
    assert await logins.login("ghcr.io") is None
    later = AwsLogins()
    assert await later.login("ghcr.io") is None
    asked = await later.login(ECR)
    assert asked is not None
    assert asked.source == login.source
    await later.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert (await logins.login(ECR)) == login
    now = datetime.now(UTC) + timedelta(days=36500)
    with pytest.raises(SecretUnavailable, match="AWS can't be reached"):
        await logins.login(ECR)
