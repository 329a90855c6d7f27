"""`launch artifacts` as a process, on a real server: what it lists, fetches, keeps, refuses, and says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

import launch
from launch.adapters.nats import NatsBroker, connect
from launch.client import Client
from launch.core.states import Event
from launch.errors import Conflict, NotFound, StoreError
from launch.files import ArtifactFile, Files, Manifest, StoredArtifacts
from launch.handle import Job
from launch.record import JobRecord
from launch.stores import open_store
from launch.subjects import JobId, artifact_name, manifest_name
from tests.contract.files_world import pieces
from tests.support.moto import REGION, MotoServer

pytestmark = pytest.mark.nats

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
LEFT = {"model/weights.bin": os.urandom(700_000), "model/config.json": b"{}\n", "run.sh": b"#!/bin/sh\n", "empty": b""}


class Lab:
    """Plays the agent: jobs whose artifacts are stored; and runs the command."""

    def __init__(self, broker: NatsBroker, url: str, queue: str, home: Path) -> None:
        self.broker = broker
        self.client = Client(broker)
        self.queue = queue
        self.home = home
        self.env = {
            key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_", "AWS_"))
        } | {"HOME": str(home), "NATS_URL": url, "COLUMNS": "120"}

    async def job(self, seq: int = 1, **changes: object) -> JobRecord:
        """A running job's record, with these changes."""
        record = JobRecord(queue=self.queue, seq=seq, job_type="train", submitted_at=NOW, updated_at=NOW)
        record = record.moved(Event.CLAIM, NOW, agent="a", attempt=1).moved(Event.START, NOW, started_at=NOW)
        record = record.model_copy(update=changes)
        await self.broker.records.create(record)
        return record

    async def left(
        self,
        files: Mapping[str, bytes] = LEFT,
        *,
        seq: int = 1,
        attempt: int = 1,
        where: str = "nats",
        manifest: Manifest | None = None,
        **artifacts: object,
    ) -> str:
        """A finished job that left these files; its id."""
        job = JobId(self.queue, seq)
        store = await open_store(where, self.broker)
        manifest = await self.store(store, job, files, attempt=attempt, manifest=manifest)
        await store.close()
        stored = StoredArtifacts(
            where=where,
            manifest=manifest_name(job, NOW, attempt),
            files=len(files),
            size=sum(map(len, files.values())),
        ).model_copy(update=artifacts)
        record = JobRecord(queue=self.queue, seq=seq, job_type="train", submitted_at=NOW, updated_at=NOW)
        record = record.moved(Event.CLAIM, NOW, agent="a", attempt=attempt).moved(Event.START, NOW)
        await self.broker.records.create(record.moved(Event.SUCCEED, NOW, exit_code=0, artifacts=stored))
        return str(job)

    async def store(
        self,
        store: Files,
        job: JobId,
        files: Mapping[str, bytes],
        *,
        attempt: int = 1,
        manifest: Manifest | None = None,
    ) -> Manifest:
        """Store files as an agent does, with the manifest last."""
        listed = []
        for path, data in files.items():
            name = artifact_name(job, NOW, attempt, path)
            stored = await store.put(name, pieces(data))
            mode = 0o755 if path.endswith(".sh") else 0o600
            listed.append(ArtifactFile(path=path, size=len(data), sha256=stored.sha256, mode=mode, name=name))
        manifest = manifest or Manifest(job=str(job), attempt=attempt, stored_at=NOW, files=tuple(listed))
        await store.put(manifest_name(job, NOW, attempt), pieces(manifest.model_dump_json().encode()))
        return manifest

    async def run(self, *args: str, code: int = 0) -> tuple[str, str]:
        """Run the command; what it said on stdout and stderr."""
        process = await self.begin(*args)
        out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    async def begin(self, *args: str, **options: int) -> asyncio.subprocess.Process:
        """Start the command."""
        pipe: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "launch", "artifacts", *args]
        return await asyncio.create_subprocess_exec(*command, env=self.env, stdin=subprocess.DEVNULL, **pipe)  # type: ignore[arg-type]


@pytest.fixture
async def lab(nats_url: str, queue_name: str, tmp_path: Path) -> AsyncIterator[Lab]:
    broker = await connect(nats_url, name="test")
    lab = Lab(broker, nats_url, queue_name, tmp_path)
    await lab.client.apply_queue(launch.QueueSpec(queue_name=queue_name))
    yield lab
    await lab.client.delete_queue(queue_name)
    await broker.close()


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, what is hidden included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_they_are_listed(lab: Lab) -> None:
    job = await lab.left()
    out, err = await lab.run(job)
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["PATH", "SIZE"]
    assert [line[0] for line in lines[1:]] == list(LEFT)
    assert lines[1][1] == "683.6Ki"
    assert err == ""
    out, _ = await lab.run(job, "--json")
    shown = json.loads(out)
    assert (shown["job"], shown["attempt"], shown["where"], shown["error"]) == (job, 1, "nats", None)
    assert {file["path"]: (file["size"], file["sha256"]) for file in shown["files"]} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in LEFT.items()
    }
    out, _ = await lab.run(job, "*.json", "run.sh")
    assert [line.split()[0] for line in out.splitlines()] == ["PATH", "model/config.json", "run.sh"]
    out, _ = await lab.run(job, "model")
    assert len(out.splitlines()) == 3
    _, err = await lab.run(job, "*.txt", code=1)
    assert "no artifact matches '*.txt'" in err
    assert "model/weights.bin" in err


async def test_they_are_fetched_and_not_twice(lab: Lab, tmp_path: Path) -> None:
    job = await lab.left()
    folder = tmp_path / "new" / "results"
    out, err = await lab.run(job, "--get", str(folder))
    assert out == ""
    assert "4 files" in err
    assert tree(folder) == LEFT
    assert (folder / "run.sh").stat().st_mode & 0o111
    assert not (folder / "model/config.json").stat().st_mode & 0o111
    before = (folder / "model/weights.bin").stat()
    out, _ = await lab.run(job, "--get", str(folder), "--json")
    assert json.loads(out)["kept"] == list(LEFT)
    assert json.loads(out)["fetched"] == []
    assert (folder / "model/weights.bin").stat().st_mtime_ns == before.st_mtime_ns


async def test_what_differs_is_not_overwritten_unless_told(lab: Lab, tmp_path: Path) -> None:
    job = await lab.left()
    (tmp_path / "run.sh").write_bytes(b"mine")
    _, err = await lab.run(job, "--get", str(tmp_path), code=1)
    assert "run.sh: there already, and not the same" in err
    assert "--force" in err
    assert tree(tmp_path) == {"run.sh": b"mine"}
    await lab.run(job, "--get", str(tmp_path), "--force")
    assert tree(tmp_path) == LEFT


HOSTILE = ["../out", "/etc/out", "a/../../out", "", "a//b", "a/.", "./a", "a\0b"]


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_manifest_can_name_nothing_outside(lab: Lab, tmp_path: Path, path: str) -> None:
    job = JobId(lab.queue, 1)
    good = await lab.store(lab.broker.artifacts, job, {"good": b"data"})
    bad = good.files[0].model_copy(update={"path": path})
    manifest = good.model_copy(update={"files": (good.files[0], bad)})
    await lab.left({"good": b"data"}, manifest=manifest)
    folder = tmp_path / "in" / "side"
    with pytest.raises(StoreError, match="a manifest names the path"):
        await lab.client.job(str(job)).fetch_artifacts(folder)
    assert tree(tmp_path) == {}


async def test_no_link_leads_outside(lab: Lab, tmp_path: Path) -> None:
    job = await lab.left()
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "model").symlink_to(outside)
    _, err = await lab.run(job, "--get", str(folder), "--force", code=1)
    assert "leads out of" in err
    assert tree(outside) == {}
    (folder / "model").unlink()
    (outside / "precious").write_bytes(b"precious")
    (folder / "run.sh").symlink_to(outside / "precious")
    await lab.run(job, "--get", str(folder), code=1)
    await lab.run(job, "--get", str(folder), "--force")
    assert (outside / "precious").read_bytes() == b"precious"
    assert tree(folder) == LEFT
    assert not (folder / "run.sh").is_symlink()


async def test_special_bits_are_not_taken_over(lab: Lab, tmp_path: Path) -> None:
    job = JobId(lab.queue, 1)
    good = await lab.store(lab.broker.artifacts, job, {"tool": b"data"})
    setuid = good.files[0].model_copy(update={"mode": 0o6777})
    await lab.left({"tool": b"data"}, manifest=good.model_copy(update={"files": (setuid,)}))
    await lab.run(str(job), "--get", str(tmp_path))
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) & 0o7022 == 0


async def test_what_is_not_as_the_manifest_says_is_not_kept(lab: Lab, tmp_path: Path) -> None:
    job = JobId(lab.queue, 1)
    good = await lab.store(lab.broker.artifacts, job, {"model": b"data", "other": b"more"})
    for changes in ({"sha256": "0" * 64}, {"size": 3}, {"name": "nothing"}):
        wrong = good.files[0].model_copy(update=changes)
        manifest = good.model_copy(update={"files": (wrong,)})
        await lab.store(lab.broker.artifacts, job, {}, manifest=manifest)
        if await lab.broker.records.get(job) is None:
            await lab.left({}, manifest=manifest)
        _, err = await lab.run(str(job), "--get", str(tmp_path / "got"), code=1)
        assert "launch: error" in err
        assert tree(tmp_path / "got") == {}


async def test_why_there_is_nothing(lab: Lab) -> None:
    await lab.job(1)
    assert "is running; artifacts are stored when it ends" in (await lab.run(f"{lab.queue}/1", code=1))[1]
    error = StoredArtifacts(where="nats", error="the store is full")
    await lab.job(2, artifacts=error)
    assert "could not be stored: the store is full" in (await lab.run(f"{lab.queue}/2", code=1))[1]
    running = await lab.job(3)
    ended = running.moved(Event.FAIL, NOW, exit_code=1)
    found = await lab.broker.records.get(running.id)
    assert found is not None
    await lab.broker.records.update(ended, found.revision)
    assert "left no artifacts" in (await lab.run(f"{lab.queue}/3", code=1))[1]
    assert "has no attempt 2; there are: 1 to 1" in (await lab.run(f"{lab.queue}/3", "--attempt", "2", code=1))[1]
    assert "attempt 1 of" in (await lab.run(f"{lab.queue}/3", "--attempt", "1", code=1))[1]
    assert "there is no job" in (await lab.run(f"{lab.queue}/4", code=1))[1]
    assert "--force goes with" in (await lab.run(f"{lab.queue}/4", "--force", code=2))[1]


async def test_each_attempt_has_its_own(lab: Lab) -> None:
    first = JobId(lab.queue, 1)
    await lab.store(lab.broker.artifacts, first, {"first": b"1"}, attempt=1)
    job = await lab.left({"second": b"2"}, attempt=2, error="'third' is too large")
    out, err = await lab.run(job)
    assert "second" in out
    assert "not everything could be stored: 'third' is too large" in err
    out, err = await lab.run(job, "--attempt", "1")
    assert "first" in out
    assert err == ""


async def test_a_progress_bar_only_on_a_terminal(lab: Lab, tmp_path: Path) -> None:
    job = await lab.left()
    ours, theirs = pty.openpty()
    process = await lab.begin(job, "--get", str(tmp_path / "got"), stderr=theirs)
    os.close(theirs)
    shown = await asyncio.to_thread(_all_of, ours)
    assert await process.wait() == 0
    assert "MiB" in shown or "KiB" in shown or "kB" in shown
    assert "4 files" in shown
    assert tree(tmp_path / "got") == LEFT


def _all_of(terminal: int) -> str:
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # the other side has closed
        pass
    os.close(terminal)
    return shown.decode()


async def test_an_interrupted_fetch_leaves_no_half_file(lab: Lab, tmp_path: Path) -> None:
    large = {"large": os.urandom(100_000_000)}
    job = await lab.left(large)
    folder = tmp_path / "got"
    folder.mkdir()
    process = await lab.begin(job, "--get", str(folder))
    async with asyncio.timeout(30):
        while not any(part.stat().st_size for part in folder.iterdir()):  # noqa: ASYNC110  (a file tells nobody)
            await asyncio.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert list(folder.iterdir()) == []
    await lab.run(job, "--get", str(folder))
    assert tree(folder) == large


async def test_in_python(lab: Lab, tmp_path: Path) -> None:
    handle: Job = lab.client.job(await lab.left())
    manifest = await handle.artifacts()
    assert [file.path for file in manifest.files] == list(LEFT)
    told: list[int] = []
    fetched = await handle.fetch_artifacts(tmp_path / "a", ["model"], progress=lambda _, size: told.append(size))
    assert [file.path for file in fetched.files] == ["model/weights.bin", "model/config.json"]
    assert sum(told) == 700_003
    (tmp_path / "a" / "run.sh").mkdir()
    with pytest.raises(Conflict, match="is a folder"):
        await handle.fetch_artifacts(tmp_path / "a", force=True)
    with pytest.raises(NotFound, match="no attempt 7"):
        await handle.artifacts(attempt=7)


async def test_they_may_be_in_s3(
    lab: Lab, tmp_path: Path, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
        lab.env[name] = value
    plain = moto_server.client("s3")
    location = {"LocationConstraint": REGION}
    await asyncio.to_thread(plain.create_bucket, Bucket=f"cli-{lab.queue}", CreateBucketConfiguration=location)
    where = f"s3://cli-{lab.queue}/runs"
    job = await lab.left(where=where)
    await lab.run(job, "--get", str(tmp_path / "got"))
    assert tree(tmp_path / "got") == LEFT
    out, _ = await lab.run(job, "--json")
    assert json.loads(out)["where"] == where
    # The queue has changed its store since: each attempt is looked for where it was put.
    found = await lab.broker.records.get(JobId.parse(job))
    assert found is not None
    await lab.store(lab.broker.artifacts, JobId.parse(job), {"later": b"data"}, attempt=2)
    later = StoredArtifacts(where="nats", manifest=manifest_name(JobId.parse(job), NOW, 2), files=1, size=4)
    again = found.value.model_copy(update={"attempt": 2, "artifacts": later})
    await lab.broker.records.update(again, found.revision)
    assert "later" in (await lab.run(job))[0]
    assert "run.sh" in (await lab.run(job, "--attempt", "1"))[0]
    lab.env["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    _, err = await lab.run(job, "--attempt", "1", code=1)
    assert "Could not connect" in err
    assert where in err
    plain.close()
