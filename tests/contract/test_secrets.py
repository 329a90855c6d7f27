"""What every source of secrets does: the agent's environment, a folder, SSM and Secrets Manager on moto."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.core.secret_source import Kind, parse_source
from agent.ports import SecretRefused, SecretStore, SecretUnavailable
from tests.support.moto import MotoServer

KINDS = [str(kind) for kind in Kind]


@dataclass
class Place:
    """A store, and how a secret is put where it looks."""

    store: SecretStore
    put: Callable[[str, str], None]


@pytest.fixture(params=KINDS)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    made = make_place(request.param, tmp_path, moto_server, monkeypatch)
    yield made
    await made.store.close()
    await made.store.close()


def make_place(kind: str, folder: Path, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    unique = f"launch-{secrets.token_hex(5)}/"
    if kind == "env":
        from agent.adapters.local_secrets import EnvSecrets

        environ = {"HOME": "/root", "LAUNCH_TOKEN": "the agent's own"}

        def put_variable(name: str, value: str) -> None:
            environ["LAUNCH_SECRET_" + name.upper().replace("-", "_").replace(".", "_").replace("/", "_")] = value

        return Place(EnvSecrets(parse_source("env"), environ), put_variable)
    if kind == "dir":
        from agent.adapters.local_secrets import DirSecrets

        def put_file(name: str, value: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(value)

        return Place(DirSecrets(parse_source(f"dir:{folder}")), put_file)
    from agent.adapters.aws_secrets import AwsSecrets

    client = moto.client(kind)
    if kind == "ssm":

        def put_parameter(name: str, value: str) -> None:
            client.put_parameter(Name=f"/{unique}{name}", Value=value, Type="SecureString", Overwrite=True)

        return Place(AwsSecrets.prepared(parse_source(f"ssm:/{unique}")), put_parameter)

    def put_secret(name: str, value: str) -> None:
        try:
            client.create_secret(Name=unique + name, SecretString=value)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=unique + name, SecretString=value)

    return Place(AwsSecrets.prepared(parse_source(f"secretsmanager:{unique}")), put_secret)


async def test_a_secret_is_found_by_its_name(place: Place) -> None:
    place.put("wandb-key", "s3cret-ö")
    place.put("team/db.password", "two\nlines")
    assert await place.store.get("wandb-key") == "s3cret-ö".encode()
    assert await place.store.get("team/db.password") == b"two\nlines"


async def test_a_name_that_nothing_has_is_none(place: Place) -> None:
    place.put("wandb-key", "s3cret")
    for name in ("nothing", "wandb", "wandb-key/more", "HOME", "TOKEN", "a" * 255):
        assert await place.store.get(name) is None, name


async def test_the_newest_value_counts(place: Place) -> None:
    place.put("key", "before")
    assert await place.store.get("key") == b"before"
    place.put("key", "after")
    assert await place.store.get("key") == b"after"


async def test_many_at_once(place: Place) -> None:
    for number in range(20):
        place.put(f"key{number}", f"value {number}")
    found = await asyncio.gather(*(place.store.get(f"key{number}") for number in range(20)))
    assert found == [f"value {number}".encode() for number in range(20)]


# -- the folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    made.mkdir()
    return made


def in_folder(folder: Path) -> SecretStore:
    from agent.adapters.local_secrets import DirSecrets

    return DirSecrets(parse_source(f"dir:{folder}/"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a\n\n", b"a\n"),
        (b"a\r", b"a\r"),
        (b" a ", b" a "),
        (b"", b""),
        (b"\n", b""),
    ],
)
async def test_a_newline_at_the_end_is_no_part_of_it(folder: Path, written: bytes, read: bytes) -> None:
    (folder / "a").write_bytes(written)
    assert await in_folder(folder).get("a") == read


async def test_kubernetes_links_are_followed_through_an_exchange(folder: Path) -> None:
    for turn, value in enumerate(("first", "second")):
        made = folder / f"..2026_{turn}"
        made.mkdir()
        (made / "key").write_text(value)
        (folder / "..new").symlink_to(made.name)
        (folder / "..new").rename(folder / "..data")
        if turn == 0:
            (folder / "key").symlink_to("..data/key")
        assert await in_folder(folder).get("key") == value.encode()


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder / "key").write_text("value")
    (folder.parent / "link").symlink_to(folder)
    assert await in_folder(folder.parent / "link").get("key") == b"value"


async def test_nothing_outside_the_folder_can_be_read(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_text("not yours")
    (folder.parent / "secrets-of-others").mkdir()
    (folder.parent / "secrets-of-others" / "key").write_text("not yours")
    (folder / "absolute").symlink_to(outside)
    (folder / "relative").symlink_to("../outside")
    (folder / "sibling").symlink_to("../secrets-of-others")
    for name in ("absolute", "relative", "sibling/key"):
        with pytest.raises(SecretRefused, match="leads out of the folder"):
            await in_folder(folder).get(name)


async def test_only_regular_files_of_a_sane_size_are_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "big").write_bytes(b"x" * (64 * 1024 + 1))
    (folder / "full").write_bytes(b"x" * 64 * 1024 + b"\n")
    store = in_folder(folder)
    for name, words in {"pipe": "no regular", "sub": "no regular", "loop": "symbolic", "big": "larger"}.items():
        with pytest.raises(SecretRefused, match=words):
            await store.get(name)
    assert await store.get("full") == b"x" * 64 * 1024


async def test_a_file_that_may_not_be_read_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "key").write_text("value")
    monkeypatch.setattr(os, "open", _raises(PermissionError(13, "Permission denied")))
    with pytest.raises(SecretRefused, match=r"Permission denied \(the agent's user must be able to read it\)"):
        await in_folder(folder).get("key")
    monkeypatch.setattr(os, "open", _raises(OSError(5, "Input/output error")))
    with pytest.raises(SecretUnavailable, match="Input/output error"):
        await in_folder(folder).get("key")


def _raises(error: OSError) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise error

    return fail


# -- AWS -----------------------------------------------------------------------------------------------------------

AWS = ["ssm", "secretsmanager"]


@pytest.fixture(params=AWS)
async def aws(
    request: pytest.FixtureRequest, tmp_path: Path, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    made = make_place(request.param, tmp_path, moto_server, monkeypatch)
    yield made
    await made.store.close()


async def test_bytes_are_a_value_too(moto_server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_place("secretsmanager", tmp_path, moto_server, monkeypatch)
    moto_server.client("secretsmanager").create_secret(Name=made.store.source.prefix + "raw", SecretBinary=b"\xff\x00")
    assert await made.store.get("raw") == b"\xff\x00"
    await made.store.close()


async def test_no_answer_is_worth_another_try(aws: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SecretUnavailable, match="AWS can't be reached"):
        await aws.store.get("key")


async def test_an_answer_that_takes_too_long_is_not_waited_for(aws: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.adapters import aws_secrets

    monkeypatch.setattr(aws_secrets, "LIMIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(SecretUnavailable, match="did not answer within"):
            await aws.store.get("key")


ANSWERS = {
    ("AccessDeniedException", 400): SecretRefused,
    ("UnrecognizedClientException", 400): SecretRefused,
    ("ExpiredTokenException", 400): SecretRefused,
    ("InvalidRequestException", 400): SecretRefused,
    ("ThrottlingException", 400): SecretUnavailable,
    ("InternalServerError", 500): SecretUnavailable,
    ("SomethingNew", 400): SecretUnavailable,
}


@pytest.mark.parametrize(("code", "status"), ANSWERS, ids=[code for code, _ in ANSWERS])
async def test_each_refusal_is_told_from_trouble(
    aws: Place, code: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"__type": "%b", "message": "arn:aws:iam::123456789012:role/agent is not allowed"}' % code.encode()
        head = b"HTTP/1.1 %d Told\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\n" % status
        writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        with pytest.raises((SecretRefused, SecretUnavailable), match=code) as caught:
            await aws.store.get("key")
    assert caught.type is ANSWERS[code, status]
    assert "123456789012" not in str(caught.value)
    assert (caught.value.hint is not None) is (caught.type is SecretRefused)
    if code == "AccessDeniedException":
        assert "GetParameter" in str(caught.value) or "GetSecretValue" in str(caught.value)


async def test_without_credentials_it_says_so_and_looks_again_the_next_time(
    aws: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.put("key", "value")
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(SecretRefused, match="give the agent credentials"):
            await aws.store.get("key")
    assert await aws.store.get("key") == b"value"


@pytest.mark.parametrize("kind", AWS)
def test_without_a_region_the_agent_does_not_start(
    kind: str, moto_server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.adapters.aws_secrets import AwsSecrets
    from launch.errors import LaunchError

    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    prefix = "/launch/" if kind == "ssm" else "launch/"
    with pytest.raises(LaunchError, match=rf"no AWS region for the secrets in {kind}:{prefix} \(set AWS_REGION"):
        AwsSecrets.prepared(parse_source(f"{kind}:{prefix}"))
