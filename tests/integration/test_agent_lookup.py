"""An agent that is told only where NATS's address and credentials lie."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.lookup import looked_up
from launch.errors import LaunchError
from tests.support.moto import MotoServer

CREDS = """-----BEGIN NATS USER JWT-----
eyJ0eXAiOiJKV1QifQ.made-up
------END NATS USER JWT------
-----BEGIN USER NKEY SEED-----
SUAMADEUPSEED
------END USER NKEY SEED------
"""


@pytest.fixture
def moto(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    return moto_server


def parameter(moto: MotoServer, value: str) -> str:
    name = f"/test/{secrets.token_hex(4)}/value"
    moto.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString")
    return f"ssm:{name}"


def secret(moto: MotoServer, value: str) -> str:
    name = f"test/{secrets.token_hex(4)}"
    moto.client("secretsmanager").create_secret(Name=name, SecretString=value)
    return f"secretsmanager:{name}"


async def test_both_are_looked_up_and_the_file_is_gone_afterwards(moto: MotoServer) -> None:
    async with looked_up(parameter(moto, " nats://n.example:4222\n"), secret(moto, CREDS)) as (url, file):
        assert url == "nats://n.example:4222"
        assert file is not None
        assert file.read_text() == CREDS
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()


async def test_an_address_itself_is_taken_as_it_is() -> None:
    async with looked_up("nats://n:4222", None) as found:
        assert found == ("nats://n:4222", None)


@pytest.mark.parametrize("value", ["", "two words", "ssm:/another"])
async def test_no_address_is_said_without_what_was_found(moto: MotoServer, value: str) -> None:
    place = parameter(moto, value or " ")
    with pytest.raises(LaunchError) as refused:
        async with looked_up(place, None):
            pass
    assert str(refused.value) == f"{place} holds no server's address (store nats://HOST:PORT there)"


async def test_no_credentials_are_said_without_what_was_found(moto: MotoServer) -> None:
    place = secret(moto, "hunter2-hunter2")
    with pytest.raises(LaunchError, match="holds no credentials of NATS") as refused:
        async with looked_up("nats://n", place):
            pass
    assert "hunter2" not in str(refused.value)


async def test_what_is_not_there_is_named(moto: MotoServer) -> None:
    with pytest.raises(LaunchError, match="there is no ssm:/not/there"):
        async with looked_up("ssm:/not/there", None):
            pass
    with pytest.raises(LaunchError, match="allowed: ssm:/not/there"):
        async with looked_up("ssm:not/there", None):
            pass


async def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "launch", *words],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.nats
async def test_the_command_connects_to_what_it_looked_up(moto: MotoServer, nats_url: str, tmp_path: Path) -> None:
    place = parameter(moto, nats_url)
    done = await run("agent", "-q", "not-there", "--server", place, "--instance", "i-1", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "there is no queue 'not-there'" in done.stderr
    assert "Traceback" not in done.stderr


async def test_other_commands_say_that_they_look_nothing_up() -> None:
    done = await run("jobs", env={"NATS_URL": "ssm:/nats/url"})
    assert done.returncode == 1
    assert "ssm:/nats/url is looked up by launch agent only" in done.stderr
