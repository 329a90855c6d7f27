"""From the names in a job to values: which sources are asked, in which order, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.core.secret_source import Kind, Source, parse_source, references, values_in, variable_of
from agent.ports import SecretRefused, SecretUnavailable
from agent.secrets import Secrets, mask_of, open_secrets
from launch.errors import LaunchError
from launch.job import JobSpec

VALUE = "the-value-itself"


@dataclass
class Stored:
    """A source with these secrets, or with an error for every name."""

    source: Source
    found: dict[str, bytes] = field(default_factory=dict)
    error: LaunchError | None = None
    asked: list[str] = field(default_factory=list)

    async def get(self, name: str) -> bytes | None:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        return self.found.get(name)

    async def close(self) -> None:
        self.asked.append("closed")


def job(**env: str | dict[str, str]) -> JobSpec:
    return JobSpec(image="busybox", env=env)


FIRST, SECOND = Source(Kind.ENV), Source(Kind.SSM, "/launch/")


# -- sources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "prefix"),
    [
        ("env", Kind.ENV, ""),
        ("dir:/run/secrets", Kind.DIR, "/run/secrets"),
        ("dir:/with space/and:colon/", Kind.DIR, "/with space/and:colon/"),
        ("ssm:/launch/", Kind.SSM, "/launch/"),
        ("ssm:/launch/gpu-queue/", Kind.SSM, "/launch/gpu-queue/"),
        ("secretsmanager:launch/", Kind.SECRETS_MANAGER, "launch/"),
        ("secretsmanager:/launch/prod/", Kind.SECRETS_MANAGER, "/launch/prod/"),
    ],
)
def test_a_source_is_read_as_written(text: str, kind: Kind, prefix: str) -> None:
    assert parse_source(text) == Source(kind, prefix)
    assert str(parse_source(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/"),
        ("vault:kv", "env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/"),
        ("Env", "allowed: env"),
        ("env:HOME", "allowed: env"),
        ("dir", "dir:/PATH"),
        ("dir:relative", "the path must be absolute"),
        ("dir:", "the path must be absolute"),
        ("ssm", "ends with a slash"),
        ("ssm:", "ends with a slash"),
        ("ssm:/", "ends with a slash"),
        ("ssm:/launch", "ends with a slash"),
        ("ssm:launch/", "ssm:/PREFIX/, with a slash at both ends"),
        ("ssm://launch/", "ends with a slash"),
        ("secretsmanager:", "ends with a slash"),
        ("secretsmanager:launch", "ends with a slash"),
        ("secretsmanager:arn:aws:x/", "ends with a slash"),
    ],
)
def test_anything_else_is_refused_with_the_forms_that_are_allowed(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        parse_source(text)
    assert f"found {text!r}" in str(caught.value)
    assert words in str(caught.value)


async def test_an_agent_does_not_start_with_a_source_that_is_none() -> None:
    with pytest.raises(LaunchError, match="a source of secrets: found 'vault:x'; allowed: env, dir:/PATH"):
        await open_secrets(["env", "vault:x"])


def test_a_name_makes_a_variable() -> None:
    assert variable_of("wandb-key") == "LAUNCH_SECRET_WANDB_KEY"
    assert variable_of("team/db.Password_2") == "LAUNCH_SECRET_TEAM_DB_PASSWORD_2"


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,50}", fullmatch=True))
def test_no_name_makes_another_variable(name: str) -> None:
    made = variable_of(name)
    assert made.startswith("LAUNCH_SECRET_")
    assert made.replace("_", "").isalnum()


async def test_a_job_cannot_read_the_agents_other_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NATS_TOKEN", VALUE)
    monkeypatch.setenv("LAUNCH_SECRETS", VALUE)
    monkeypatch.setenv("LAUNCH_SECRET_A", "right")
    secrets = await open_secrets(["env", f"dir:{tmp_path}"])
    for name in ("NATS_TOKEN", "nats-token", "S", "SECRETS", "LAUNCH_SECRET_A"):
        with pytest.raises(SecretRefused, match="not found"):
            await secrets.resolve(job(X={"secret": name}))
    assert await secrets.resolve(job(X={"secret": "a"})) == {"X": "right"}


# -- looking up ----------------------------------------------------------------------------------------------------


async def test_values_take_their_places_and_the_rest_stays() -> None:
    store = Stored(FIRST, {"key": VALUE.encode()})
    secrets = Secrets([store])
    spec = job(PLAIN="1", A={"secret": "key"}, B={"secret": "key"}, EMPTY="")
    assert await secrets.resolve(spec) == {"PLAIN": "1", "A": VALUE, "B": VALUE, "EMPTY": ""}
    assert store.asked == ["key"]
    await secrets.close()
    assert store.asked[1:] == ["closed"]


async def test_a_job_without_secrets_asks_nobody() -> None:
    assert await Secrets().resolve(job(A="1")) == {"A": "1"}
    store = Stored(FIRST, error=SecretUnavailable("away"))
    assert await Secrets([store]).resolve(job(A="1")) == {"A": "1"}


async def test_the_first_source_that_has_one_counts() -> None:
    first, second = Stored(FIRST, {"a": b"1"}), Stored(SECOND, {"a": b"2", "b": b"2"})
    found = await Secrets([first, second]).resolve(job(A={"secret": "a"}, B={"secret": "b"}))
    assert found == {"A": "1", "B": "2"}
    assert (first.asked, second.asked) == (["a", "b"], ["b"])


async def test_an_empty_value_is_a_value() -> None:
    assert await Secrets([Stored(FIRST, {"a": b""})]).resolve(job(A={"secret": "a"})) == {"A": ""}


async def test_each_attempt_looks_anew() -> None:
    store = Stored(FIRST, {"a": b"old"})
    secrets = Secrets([store])
    assert await secrets.resolve(job(A={"secret": "a"})) == {"A": "old"}
    store.found["a"] = b"rotated"
    assert await secrets.resolve(job(A={"secret": "a"})) == {"A": "rotated"}


async def test_what_is_missing_is_named_with_where_it_was_looked_for() -> None:
    secrets = Secrets([Stored(FIRST, {"other": VALUE.encode()}), Stored(SECOND)])
    with pytest.raises(SecretRefused) as caught:
        await secrets.resolve(job(KEY={"secret": "wandb-key"}, OTHER={"secret": "other"}))
    assert str(caught.value) == (
        "secret 'wandb-key' for KEY not found; asked: env (LAUNCH_SECRET_WANDB_KEY), ssm:/launch/wandb-key"
    )
    with pytest.raises(SecretRefused, match=r"^secrets 'a' for A, 'b' for B not found; asked: env"):
        await secrets.resolve(job(A={"secret": "a"}, B={"secret": "b"}, C={"secret": "a"}))
    with pytest.raises(SecretRefused, match="not found; this agent was given no source of secrets"):
        await Secrets().resolve(job(A={"secret": "a"}))


@pytest.mark.parametrize("kind", [SecretRefused, SecretUnavailable])
async def test_a_source_in_trouble_is_not_passed_over(kind: type[LaunchError]) -> None:
    behind = Stored(SECOND, {"a": b"old"})
    with pytest.raises(kind, match=r"^secret 'a' for A: no \(do this\)$"):
        await Secrets([Stored(FIRST, error=kind("no", hint="do this")), behind]).resolve(job(A={"secret": "a"}))
    assert behind.asked == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (VALUE.encode() + b"\0", "has a NUL byte"),
        (VALUE.encode() + b"\xff", "is no UTF-8 text"),
        (VALUE.encode() * 5000, "is larger than 64 KiB"),
    ],
)
async def test_what_can_be_no_variable_is_refused_without_a_word_of_it(value: bytes, words: str) -> None:
    with pytest.raises(SecretRefused, match=rf"secret 'a' for A: env \(LAUNCH_SECRET_A\) {words}") as caught:
        await Secrets([Stored(FIRST, {"a": value})]).resolve(job(A={"secret": "a"}))
    assert VALUE not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# -- masking -------------------------------------------------------------------------------------------------------


def test_only_the_variables_that_are_secrets_are_taken_from_a_container() -> None:
    spec = job(A={"secret": "a"}, B="plain", C={"secret": "c"})
    assert references(spec) == {"A": "a", "C": "c"}
    assert values_in(["PATH=/bin", "A=x=y", "B=plain", "C=", "D"], spec) == {"A": "x=y", "C": ""}


async def test_the_mask_has_the_secrets_and_nothing_else() -> None:
    spec = job(A={"secret": "a"}, B="plain-text", C={"secret": "c"}, D={"secret": "d"})
    with capture_logs() as said:
        mask = await mask_of(spec, {"A": VALUE, "B": "plain-text", "C": "ab", "PATH": "/usr/bin"}, "q/1")
    assert mask(f"{VALUE} plain-text ab /usr/bin".encode()) == b"**************** plain-text ab /usr/bin"
    assert [(entry["job"], entry["variables"]) for entry in said] == [("q/1", "C")]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_logged_traceback_shows_no_variables(form: str) -> None:
    code = (
        "import structlog, launch.logging\n"
        "launch.logging.set_up_logging()\n"
        "def fail(value):\n"
        "    env = {'KEY': value}\n"
        "    raise RuntimeError('a defect')\n"
        "try:\n"
        "    fail('-'.join(['the', 'value', 'itself']))\n"
        "except RuntimeError:\n"
        "    structlog.get_logger('test').exception('failed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "LAUNCH_LOG_FORMAT": form},
    )
    assert "RuntimeError: a defect" in done.stderr
    assert VALUE not in done.stdout + done.stderr
