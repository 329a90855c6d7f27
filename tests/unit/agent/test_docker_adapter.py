"""What a Docker Engine says only when things break: the adapter against canned answers over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent.adapters import docker, docker_images
from agent.adapters.docker import DockerEngine
from agent.adapters.docker_answers import CONTAINERD_ROOT, roots_of
from agent.ports import DiskSpace, Engine, EngineError, EngineUnavailable, PullProgress
from launch.errors import LaunchError

VERSION = {"ApiVersion": "1.41"}
CONTAINER = {
    "Id": "abc",
    "Name": "/abc",
    "State": {
        "Status": "running",
        "ExitCode": 0,
        "OOMKilled": False,
        "Error": "",
        "StartedAt": "2026-01-01T00:00:00Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    },
    "Config": {"Labels": None, "Tty": False},
}


def answer(status: int, body: bytes, *, kind: str = "application/json", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


NOT_FOUND = answer(404, b'{"message": "No such thing"}')


class Canned:
    """A server on a unix socket that knows an answer for the end of each path; None never answers."""

    def __init__(self, path: Path) -> None:
        self.host = f"unix://{path}"
        self.path = path
        self.answers: dict[str, bytes | None] = {
            "/version": answer(200, json.dumps(VERSION).encode()),
            "/containers/abc/json": answer(200, json.dumps(CONTAINER).encode()),
        }
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and hang up."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            self.asked.append(target)
            path = target.partition("?")[0]
            reply = next((reply for end, reply in self.answers.items() if path.endswith(end)), NOT_FOUND)
            if reply is None:
                await reader.read()
            else:
                writer.write(reply)
                await writer.drain()
        finally:
            writer.close()


@pytest.fixture
async def canned(tmp_path: Path) -> AsyncIterator[Canned]:
    made = Canned(tmp_path / "docker.sock")
    server = await asyncio.start_unix_server(made.serve, made.path)
    async with server:
        yield made


@pytest.fixture
async def engine(canned: Canned) -> AsyncIterator[DockerEngine]:
    made = DockerEngine(canned.host)
    yield made
    await made.close()


PRESENT = answer(200, b'{"Id": "sha256:1", "RepoDigests": ["r/x@sha256:%b", "r/y@sha256:3"]}' % (b"2" * 64))
PROGRESS = b'{"status":"Pulling"}\r\n{"status":"Downloading","progressDetail":{"current":1,"total":2}}\r\n'


async def test_a_pull_is_over_when_the_image_is_there(canned: Canned, engine: DockerEngine) -> None:
    canned.answers |= {"/images/create": answer(200, PROGRESS), "/images/r/x:1/json": PRESENT}
    await engine.pull("r/x:1")
    found = await engine.image("r/x:1")
    assert found is not None
    assert (found.id, found.digest) == ("sha256:1", f"r/x@sha256:{'2' * 64}")


@pytest.mark.parametrize(
    ("reference", "digest"),
    [
        ("r.io/y:1", "r.io/y@sha256:B"),
        ("library/x", "x@sha256:A"),
        ("mine:1", None),
        ("sha256:1", "x@sha256:A"),
    ],
)
async def test_of_several_digests_it_is_that_of_the_repository_asked_for(
    canned: Canned, engine: DockerEngine, reference: str, digest: str | None
) -> None:
    digests = [f"x@sha256:{'a' * 64}", f"r.io/y@sha256:{'b' * 64}"]
    canned.answers["/json"] = answer(200, json.dumps({"Id": "sha256:1", "RepoDigests": digests}).encode())
    found = await engine.image(reference)
    assert found is not None
    assert found.digest == (digest and digest.replace("A", "a" * 64).replace("B", "b" * 64))


async def test_the_disk_is_that_of_the_engines_folder(canned: Canned, engine: DockerEngine, tmp_path: Path) -> None:
    canned.answers["/info"] = answer(200, json.dumps({"DockerRootDir": str(tmp_path)}).encode())
    space = await engine.disk()
    assert space is not None
    assert space.total_bytes == shutil.disk_usage(tmp_path).total
    driver = [["Space Used By Parent", "700"], ["Space Available", "300"]]
    elsewhere = {"DockerRootDir": str(tmp_path / "not-here"), "DriverStatus": driver}
    canned.answers["/info"] = answer(200, json.dumps(elsewhere).encode())
    assert await engine.disk() == DiskSpace(300, 1000)
    canned.answers["/info"] = answer(
        200, json.dumps({**elsewhere, "DriverStatus": [["Supports d_type", "true"]]}).encode()
    )
    assert await engine.disk() is None


async def test_the_folder_of_another_machine_is_not_looked_for_here(canned: Canned, tmp_path: Path) -> None:
    canned.answers["/info"] = answer(200, json.dumps({"DockerRootDir": str(tmp_path)}).encode())
    async with await asyncio.start_server(canned.serve, "127.0.0.1", 0) as server:
        engine = DockerEngine(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await engine.disk() is None
        await engine.close()


def test_images_that_containerd_keeps_lie_in_its_folder() -> None:
    said = {"DockerRootDir": "/data", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    assert roots_of(said) == ("/data", CONTAINERD_ROOT)
    assert roots_of({"DockerRootDir": "/data", "DriverStatus": None}) == ("/data",)


async def test_a_pull_tells_its_progress(canned: Canned, engine: DockerEngine) -> None:
    layer = b'{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"a"}\r\n'
    canned.answers |= {"/images/create": answer(200, layer), "/images/x:1/json": PRESENT}
    told: list[PullProgress] = []
    await engine.pull("x:1", progress=told.append)
    assert told == [PullProgress(1, 2)]


@pytest.mark.parametrize(
    ("reference", "tagged"),
    [("x", True), ("r:5000/x", True), ("r:5000/x:1", False), ("x@sha256:0", False), ("x:1", False)],
)
async def test_without_a_tag_only_the_latest_is_pulled(
    canned: Canned, engine: DockerEngine, reference: str, tagged: bool
) -> None:
    canned.answers |= {"/images/create": answer(200, b""), "/json": PRESENT}
    await engine.pull(reference)
    [asked] = [target for target in canned.asked if "/images/create" in target]
    assert asked.endswith("&tag=latest") == tagged
    assert "/v1.41/" in asked


async def test_an_error_within_the_progress_of_a_pull_is_an_error(canned: Canned, engine: DockerEngine) -> None:
    said = "write /var/lib/docker/tmp/x: no space left on device"
    error = json.dumps({"errorDetail": {"message": said}, "error": said}).encode()
    canned.answers |= {"/images/create": answer(200, PROGRESS + error + b"\r\n"), "/images/x:1/json": PRESENT}
    with pytest.raises(EngineError) as caught:
        await engine.pull("x:1")
    assert (caught.value.step, caught.value.status, caught.value.reply) == ("pull", 500, said)


async def test_a_pull_that_ends_without_the_image_is_an_error(canned: Canned, engine: DockerEngine) -> None:
    canned.answers |= {"/images/create": answer(200, PROGRESS)}
    with pytest.raises(EngineError, match="the image is not there"):
        await engine.pull("x:1")


async def test_a_pull_whose_connection_breaks_is_not_over(canned: Canned, engine: DockerEngine) -> None:
    canned.answers |= {"/images/create": answer(200, PROGRESS, length=10_000), "/images/x:1/json": PRESENT}
    with pytest.raises(EngineUnavailable):
        await engine.pull("x:1")


async def test_a_log_whose_connection_breaks_has_not_ended(canned: Canned, engine: DockerEngine) -> None:
    line = b"2026-01-01T00:00:00.000000000Z one\n"
    frame = b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line
    canned.answers["/logs"] = answer(200, frame, length=10_000)
    frames = engine.logs("abc", since=None, follow=True)
    assert (await anext(frames)).data == b"one\n"
    with pytest.raises(EngineUnavailable):
        await anext(frames)


async def test_the_engines_fault_within_a_log_is_an_error(canned: Canned, engine: DockerEngine) -> None:
    said = b"Error grabbing logs: unexpected EOF"
    canned.answers["/logs"] = answer(200, b"\x03\0\0\0" + len(said).to_bytes(4, "big") + said)
    with pytest.raises(EngineError, match="unexpected EOF"):
        await anext(engine.logs("abc", since=None, follow=False))


@pytest.mark.parametrize("body", [b'{"message": "not now"}', b"not now\n", b'["not now"]', b'{"other": "not now"}'])
async def test_an_error_is_told_in_whatever_form_it_came(canned: Canned, engine: DockerEngine, body: bytes) -> None:
    canned.answers["/logs"] = answer(500, body, kind="text/plain")
    with pytest.raises(EngineError, match="not now"):
        await anext(engine.logs("abc", since=None, follow=False))


Call = Callable[[Engine], Awaitable[object]]


@pytest.mark.parametrize(
    "reply", [answer(503, b"shutting down", kind="text/plain"), answer(200, b"<html>"), answer(200, b"{}"), b"?", b""]
)
@pytest.mark.parametrize(
    "call", [lambda engine: engine.info(), lambda engine: engine.image("x"), lambda engine: engine.inspect("x")]
)
async def test_an_answer_that_is_none_means_unavailable(
    canned: Canned, engine: DockerEngine, call: Call, reply: bytes
) -> None:
    canned.answers |= {"/info": reply, "/json": reply}
    del canned.answers["/containers/abc/json"]
    with pytest.raises(EngineUnavailable, match="is the Docker Engine running"):
        await call(engine)


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.info(),
        lambda engine: engine.image("x"),
        lambda engine: engine.create("x", {}),
        lambda engine: engine.start("x"),
        lambda engine: engine.inspect("x"),
        lambda engine: engine.list({}),
        lambda engine: engine.signal("x", "SIGTERM"),
        lambda engine: engine.remove("x"),
        lambda engine: engine.remove_image("x"),
        lambda engine: engine.disk(),
    ],
)
async def test_an_engine_that_never_answers_is_given_up(
    canned: Canned, engine: DockerEngine, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (docker, docker_images):
        monkeypatch.setattr(module, "LOOK_LIMIT_S", 0.05)
        monkeypatch.setattr(module, "CHANGE_LIMIT_S", 0.05)
    canned.answers = {"/version": canned.answers["/version"], "": None}
    with pytest.raises(EngineUnavailable, match="no answer in time"):
        await call(engine)


async def test_a_wait_has_no_limit(canned: Canned, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "LOOK_LIMIT_S", 0.01)
    monkeypatch.setattr(docker, "CHANGE_LIMIT_S", 0.01)
    canned.answers["/wait"] = None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.wait("abc"), 0.1)


async def test_a_malformed_client_configuration_does_no_harm(
    canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("{nonsense")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    monkeypatch.setenv("DOCKER_HOST", canned.host)
    engine = DockerEngine()
    assert engine.host == canned.host
    assert await engine.image("none") is None
    await engine.close()


async def test_an_engine_may_be_reached_over_tcp(canned: Canned) -> None:
    server = await asyncio.start_server(canned.serve, "127.0.0.1", 0)
    canned.answers["/info"] = answer(200, b'{"ServerVersion": "20.10", "NCPU": 2, "MemTotal": 1024}')
    async with server:
        engine = DockerEngine(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        info = await engine.info()
        await engine.close()
    assert (info.version, info.cpus, info.memory_bytes) == ("20.10", 2, 1024)


@pytest.mark.parametrize("host", ["ssh://x", "/var/run/docker.sock", "unix://", "tcp://", "npipe:////./pipe/x"])
def test_an_address_that_can_not_work_is_refused_at_once(host: str) -> None:
    with pytest.raises(LaunchError, match="is not an engine's address"):
        DockerEngine(host)


def test_what_was_meant_to_be_private_is_not_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with pytest.raises(LaunchError, match="TLS"):
        DockerEngine("tcp://127.0.0.1:2376")
    DockerEngine("unix:///var/run/docker.sock")


def test_the_usual_socket_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert DockerEngine().host == "unix:///var/run/docker.sock"


UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


@pytest.mark.parametrize("attached", [answer(200, b""), UPGRADED, UPGRADED + b"\x01\0\0\0\0\0\0\x09half", b""])
async def test_a_talk_that_breaks_off_is_an_error_of_the_engine_or_ends(
    canned: Canned, engine: DockerEngine, attached: bytes
) -> None:
    canned.answers["/containers/abc/json"] = answer(
        200, b'{"Id": "abc", "State": {"Running": true}, "Config": {"Tty": false}}'
    )
    canned.answers["/containers/abc/attach"] = attached
    heard = []
    with contextlib.suppress(EngineError, EngineUnavailable):
        async with asyncio.timeout(10):
            heard = [data async for data in engine.talk("abc", b"hello")]
    assert heard == []
