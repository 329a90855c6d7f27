"""Files on the real engine and the real broker: what a job leaves, what it is given, and what it keeps for later."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import subprocess
import tarfile
import urllib.parse
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent.archives import once
from launch.client import Client
from launch.core.states import Reason, State
from launch.files import Manifest
from launch.record import JobRecord
from launch.subjects import JobId, checkpoint_name, manifest_name
from tests.integration.agent_lab import HOLD, Lab
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats]

LONG = "/".join(["a-folder-with-a-long-name"] * 8)


async def manifest(lab: Lab, record: JobRecord) -> Manifest:
    assert record.artifacts is not None
    assert record.artifacts.manifest is not None, record.artifacts.error
    return Manifest.model_validate_json(await read(lab, record.artifacts.manifest))


async def read(lab: Lab, name: str) -> bytes:
    async with aclosing(lab.client.artifacts.read(name)) as pieces:
        return b"".join([piece async for piece in pieces])


async def left(lab: Lab, record: JobRecord) -> dict[str, bytes]:
    """What an attempt left, by path; every checksum is looked at."""
    found = {}
    for file in (await manifest(lab, record)).files:
        found[file.path] = await read(lab, file.name)
        assert (len(found[file.path]), hashlib.sha256(found[file.path]).hexdigest()) == (file.size, file.sha256)
    return found


def sh(script: str, **spec: Any) -> dict[str, Any]:
    return {"command": ["sh", "-ec", script], **spec}


# -- artifacts --------------------------------------------------------------------------------------------------------


async def test_everything_that_a_job_leaves_is_kept(lab: Lab) -> None:
    script = f"""
        cd $LAUNCH_ARTIFACTS
        echo one >a.txt; mkdir -p deep '{LONG}'; echo two >deep/b; echo long >'{LONG}/file'
        echo three >'with space and ü'; printf x >"$(printf 'not\\377utf8')"; printf x >"$(printf 'line\\nbreak')"
        ln deep/b hard; ln -s a.txt soft; mkfifo pipe; : >empty; chmod 755 a.txt
        truncate -s 3000000 sparse; head -c 1500000 /dev/zero | tr '\\0' z >big
        mkdir -p /out/model; echo m >/out/model/weights; echo single >/out/single
    """
    async with lab.agent():
        job = await lab.submit(**sh(script, artifacts=["/out/model", "/out/single"]))
        record = await lab.ended(job)
    assert (record.state, record.message) == (State.SUCCEEDED, "exited with code 0")
    assert record.artifacts is not None
    assert record.artifacts.where == "nats"
    assert record.artifacts.error is None
    found = await left(lab, record)
    assert found == {
        "a.txt": b"one\n",
        "deep/b": b"two\n",
        "hard": b"two\n",
        f"{LONG}/file": b"long\n",
        "with space and ü": b"three\n",
        "not\\xffutf8": b"x",
        "line\\x0abreak": b"x",
        "empty": b"",
        "sparse": bytes(3_000_000),
        "big": b"z" * 1_500_000,
        "out/model/weights": b"m\n",
        "out/single": b"single\n",
    }
    listed = await manifest(lab, record)
    assert {file.path: file.mode for file in listed.files}["a.txt"] == 0o755
    assert listed.left_out == ("pipe", "soft")
    assert (record.artifacts.files, record.artifacts.size) == (len(found), sum(map(len, found.values())))
    assert lab.containers() == []


async def test_a_job_that_leaves_nothing_stores_nothing(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(command=["true"])
        record = await lab.ended(job)
    assert record.artifacts is None
    assert await lab.client.artifacts.info(manifest_name(job, record.submitted_at, 1)) is None


async def test_a_folder_whose_time_was_set_back_is_not_overlooked(lab: Lab) -> None:
    async with lab.agent():
        script = "mkdir /old; echo x >/old/a; touch -d 2001-01-01 /old; cp -a /old/. /launch/artifacts"
        job = await lab.submit(**sh(script))
        record = await lab.ended(job)
    assert await left(lab, record) == {"a": b"x\n"}


ENDS: list[tuple[str, dict[str, Any], Reason]] = [
    ("exit 3", {}, Reason.EXIT_NONZERO),
    ("sleep 60", {"timeout": "1s", "stop_grace": 0}, Reason.TIMED_OUT),
    ("tail /dev/zero", {"resources": {"memory": "16Mi"}}, Reason.OOM_KILLED),
]


@pytest.mark.parametrize(("end", "spec", "reason"), ENDS)
async def test_what_a_job_leaves_is_kept_however_it_ends(
    lab: Lab, end: str, spec: dict[str, Any], reason: Reason
) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(**sh(f"echo so far >$LAUNCH_ARTIFACTS/a; {end}", **spec)))
    assert record.reason is reason
    assert await left(lab, record) == {"a": b"so far\n"}


async def test_what_a_cancelled_job_leaves_is_kept(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(command=[*HOLD[:2], f"echo so far >$LAUNCH_ARTIFACTS/a; {HOLD[2]}"], stop_grace=0)
        await lab.said(job, b"ready")
        await Client(lab.client).cancel(job)
        record = await lab.ended(job)
    assert record.state is State.CANCELLED
    assert await left(lab, record) == {"a": b"so far\n"}


async def test_a_path_that_is_not_there_is_told(lab: Lab) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(command=["true"], artifacts=["/out/model.bin"]))
    assert (record.state, record.message) == (
        State.SUCCEEDED,
        "exited with code 0; artifacts: not there: /out/model.bin",
    )


@pytest.mark.parametrize("user", ["1000:1000", "1000", "launch"])
async def test_any_user_can_write_to_every_folder(lab: Lab, user: str, request: pytest.FixtureRequest) -> None:
    image = request.getfixturevalue("user_image") if user == "launch" else lab.image
    script = """
        echo a >$LAUNCH_ARTIFACTS/a; echo c >$LAUNCH_CHECKPOINT/c; echo m >$LAUNCH_METRICS; echo i >$LAUNCH_INPUTS/i
        id -u >$LAUNCH_ARTIFACTS/me
    """
    spec = sh(script, image=image, **({} if user == "launch" else {"user": user}))
    async with lab.agent():
        record = await lab.ended(await lab.submit(**spec))
    assert record.state is State.SUCCEEDED, record.message
    assert await left(lab, record) == {"a": b"a\n", "me": b"1000\n"}


async def test_an_image_of_one_static_binary_will_do(lab: Lab, static_image: str) -> None:
    command = ["/busybox", "cp", "/busybox", "/launch/artifacts/copy"]
    async with lab.agent():
        for user in (None, "1000"):
            record = await lab.ended(await lab.submit(image=static_image, command=command, user=user))
            assert record.state is State.SUCCEEDED, record.message
            assert len((await left(lab, record))["copy"]) > 500_000


async def test_more_than_may_be_left_is_told_and_the_rest_is_kept(lab: Lab) -> None:
    async with lab.agent(max_artifact_files=2):
        record = await lab.ended(await lab.submit(**sh("cd $LAUNCH_ARTIFACTS; touch a b c")))
    assert record.state is State.SUCCEEDED
    assert record.message == "exited with code 0; artifacts: more than 2 files were left: the rest was not stored"
    assert list(await left(lab, record)) == ["a", "b"]


# -- code and inputs ------------------------------------------------------------------------------------------------


def packed(files: Mapping[str, str]) -> bytes:
    """As `launch submit --code` packs a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for folder in ("./", *sorted({f"./{Path(name).parent}/" for name in files if "/" in name})):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(info)
        for name, text in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(text.encode()), 0o666
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


async def shipped(lab: Lab, files: Mapping[str, str]) -> dict[str, Any]:
    data = packed(files)
    sha256 = hashlib.sha256(data).hexdigest()
    await lab.client.code.put(sha256, once(data), size=len(data))
    return {"sha256": sha256, "size": len(data)}


@pytest.mark.parametrize("user", [None, "1000"])
@pytest.mark.parametrize("workdir", [None, "/app/src"])
async def test_code_is_where_the_job_starts(lab: Lab, user: str | None, workdir: str | None) -> None:
    code = await shipped(lab, {"train.sh": "pwd; cat data/x; echo new >here; echo more >data/y", "data/x": "data\n"})
    async with lab.agent():
        job = await lab.submit(command=["sh", "-e", "train.sh"], code=code, user=user, workdir=workdir)
        record = await lab.ended(job)
    assert await lab.output(job) == f"{workdir or '/launch/code'}\ndata\n".encode()
    assert record.state is State.SUCCEEDED, record.message


async def test_code_that_is_not_there_is_the_submitters_to_mend(lab: Lab) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(command=["true"], code={"sha256": "a" * 64, "size": 3}, retries=2))
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.INVALID_SPEC, 1)
    assert record.message is not None
    assert "submit the job again with --code" in record.message
    assert lab.containers() == []


async def test_a_jobs_artifacts_are_anothers_inputs(lab: Lab) -> None:
    async with lab.agent():
        first = await lab.submit(**sh(f"cd $LAUNCH_ARTIFACTS; mkdir -p '{LONG}'; echo w >'{LONG}/w'; echo m >m"))
        await lab.ended(first)
        folder = f"/launch/inputs/{first.queue}-{first.seq}"
        script = f"cat {folder}/m '{folder}/{LONG}/w' /data/in/m; cd /data/in; find . -type f | sort; echo x >mine"
        inputs = [{"job": str(first)}, {"job": str(first), "path": "/data/in"}]
        job = await lab.submit(**sh(script, inputs=inputs, user="1000"))
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    assert await lab.output(job) == f"m\nw\nm\n./{LONG}/w\n./m\n".encode()


async def test_inputs_that_are_not_to_be_had_are_told(lab: Lab) -> None:
    async with lab.agent():
        empty = await lab.submit(command=["true"])
        await lab.ended(empty)
        running = await lab.submit(command=HOLD)
        await lab.until(running, State.RUNNING)
        wanted = {
            str(empty): "left no artifacts",
            str(running): "has not ended (running)",
            f"{lab.queue}/999": "has not ended (queued, or there is no such job)",
        }
        for job, words in wanted.items():
            record = await lab.ended(await lab.submit(command=["true"], inputs=[{"job": job}]))
            assert (record.state, record.reason) == (State.FAILED, Reason.INVALID_SPEC)
            assert record.message is not None
            assert f"inputs.0 ({job})" in record.message
            assert words in record.message
        await lab.release(running)
        await lab.ended(running)


async def test_inputs_that_would_go_into_a_file_are_told(lab: Lab) -> None:
    async with lab.agent():
        first = await lab.submit(**sh("echo a >$LAUNCH_ARTIFACTS/a"))
        await lab.ended(first)
        inputs = [{"job": str(first), "path": "/etc/passwd"}]
        record = await lab.ended(await lab.submit(command=["true"], inputs=inputs, retries=2))
    assert (record.reason, record.attempt) == (Reason.INVALID_SPEC, 1), record.message
    assert record.message is not None
    assert f"inputs.0 ({first}) can't go to /etc/passwd" in record.message


# -- checkpoints ----------------------------------------------------------------------------------------------------

ONE_MORE = """
    cd $LAUNCH_CHECKPOINT; count=$(cat count 2>/dev/null || echo 0); echo "attempt $LAUNCH_ATTEMPT found $count"
    mkdir -p deep; echo $((count + 1)) >count.new; mv count.new count; echo $LAUNCH_ATTEMPT >deep/last"""


async def has_checkpoint(lab: Lab, job: JobId, record: JobRecord, attempt: int) -> bool:
    return await lab.client.artifacts.info(checkpoint_name(job, record.submitted_at, attempt)) is not None


@pytest.mark.parametrize("user", [None, "1000"])
async def test_a_checkpoint_goes_from_attempt_to_attempt_until_the_job_succeeds(lab: Lab, user: str | None) -> None:
    async with lab.agent():
        job = await lab.submit(**sh(f"{ONE_MORE}; [ $LAUNCH_ATTEMPT = 3 ]", retries=3, user=user))
        record = await lab.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 3)
    assert await lab.output(job) == b"attempt 1 found 0\nattempt 2 found 1\nattempt 3 found 2\n"
    assert [await has_checkpoint(lab, job, record, attempt) for attempt in (1, 2, 3)] == [False] * 3


async def test_a_checkpoint_that_is_written_over_in_place_is_saved_at_the_end(lab: Lab) -> None:
    """The folder does not change by that: only what is in its file does."""
    add = "cd $LAUNCH_CHECKPOINT; touch log; cat log; echo $LAUNCH_ATTEMPT >>log; [ $LAUNCH_ATTEMPT = 4 ]"
    async with lab.agent():
        job = await lab.submit(**sh(add, retries=3))
        record = await lab.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 4)
    assert await lab.output(job) == b"1\n1\n2\n1\n2\n3\n"


async def test_the_last_checkpoint_of_a_failed_job_is_kept(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(**sh(f"{ONE_MORE}; exit 1", retries=1))
        record = await lab.ended(job)
    assert [await has_checkpoint(lab, job, record, attempt) for attempt in (1, 2)] == [False, True]


async def test_a_checkpoint_is_saved_while_the_job_runs(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(command=[*HOLD[:2], f"{ONE_MORE}\n{HOLD[2]}"], checkpoint_every="1s")
        record = await lab.until(job, State.RUNNING)
        async with asyncio.timeout(30):
            while not await has_checkpoint(lab, job, record, 1):  # noqa: ASYNC110  (a store tells nobody what is new)
                await asyncio.sleep(0.1)
        await lab.release(job)
        await lab.ended(job)
    assert not await has_checkpoint(lab, job, record, 1)


# -- the terminal -----------------------------------------------------------------------------------------------------


async def test_a_job_may_have_a_terminal(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(**sh("[ -t 1 ] && echo yes; echo err >&2", tty=True))
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED
    assert await lab.output(job) == b"yes\r\nerr\r\n"


# -- images -----------------------------------------------------------------------------------------------------------


def imported(name: str, tree: bytes, *changes: str) -> str:
    query = [("fromSrc", "-"), ("repo", name), *[("changes", change) for change in changes]]
    connection = engine._UnixConnection(engine.docker_host().removeprefix("unix://"), 60.0)
    try:
        connection.request("POST", f"/images/create?{urllib.parse.urlencode(query)}", tree)
        response = connection.getresponse()
        assert response.status == http.client.OK, response.read()
        response.read()
    finally:
        connection.close()
    return name


def tree_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def docker(*words: str) -> bytes:
    """What the command prints."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, timeout=60).stdout  # noqa: S607


def binary_of(image: str) -> bytes:
    """The static busybox out of its image: the file that it was made from may lie in another clone."""
    container = docker("create", image).decode().strip()
    try:
        packed = docker("cp", f"{container}:/bin/busybox", "-")
    finally:
        docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = tar.extractfile("busybox")
        assert found is not None
        return found.read()


@pytest.fixture
def static_image(busybox_image: str) -> str:
    """One static binary, and nothing else: no shell, no /etc/passwd, no /tmp."""
    return imported("launch-test/static:1", tree_of({"busybox": binary_of(busybox_image)}))


@pytest.fixture
def user_image(busybox_image: str) -> str:
    """An image that runs as a user of its own, by name."""
    files = {"bin/sh": binary_of(busybox_image), "etc/passwd": b"launch:x:1000:1000::/:/bin/sh\n"}
    files["bin/id"] = files["bin/sh"]
    return imported("launch-test/user:1", tree_of(files), "USER launch", "ENV PATH=/bin")
