"""Archives that somebody made by hand, as a job's code, as inputs and as what is fetched: refused, or harmless.

Whoever may submit may store any bytes as code, and whoever may write artifacts may write any list of them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent import inputs
from agent.archives import TornArchive, once, unpacked
from agent.core.tar import END, MAX_NAME_BYTES, file_header
from launch.artifacts import read_manifest
from launch.core.states import Reason, State
from launch.errors import LaunchError
from launch.fetch import fetch
from tests.fakes.files import FakeFiles, FileShelf
from tests.integration.agent_lab import Lab, open_lab
from tests.unit.agent.test_loops_files import ended_job
from tests.unit.agent.worlds import make_world, simulated

Item = tuple[str, bytes, str | bytes]
"""A name, a kind, and where a link leads or what a file holds."""

ODD: dict[str, tuple[list[Item], str]] = {
    "climbs": ([("../../../../escaped", tarfile.REGTYPE, b"x")], "leads out"),
    "climbs inside": ([("a/../../escaped", tarfile.REGTYPE, b"x")], "leads out"),
    "link out": ([("l", tarfile.SYMTYPE, "../../etc")], "leads out"),
    "hard link out": ([("l", tarfile.LNKTYPE, "../../../etc/shadow")], "leads out"),
    "device": ([("sda", tarfile.BLKTYPE, "")], "device"),
    "memory": ([("mem", tarfile.CHRTYPE, "")], "device"),
    "pipe": ([("p", tarfile.FIFOTYPE, "")], "device"),
    "long name": ([("n" * (MAX_NAME_BYTES + 1), tarfile.REGTYPE, b"")], "too long"),
    "long link": ([("l", tarfile.SYMTYPE, "x/" * 3000)], "too long"),
}
ODD["long path"] = ([("/".join(["d" * 200] * 20), tarfile.REGTYPE, b"")], "too long")


def packed(items: Sequence[Item], *, mode: int = 0o644, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A gzipped tar of just these, whatever they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, kind, what in items:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if isinstance(what, bytes):
                info.size = len(what)
            else:
                info.linkname = what
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return gzip.compress(buffer.getvalue(), mtime=0)


def sparse(size: int) -> bytes:
    """GNU's old sparse format: a header of 512 bytes that stands for `size` bytes."""
    header = bytearray(file_header("hole", 0))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[257:265] = b"ustar  \0"
    header[386:482] = bytes(96)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + END


async def through(data: bytes, *, max_bytes: int = 2**20, max_entries: int = 100) -> bytes:
    """What an engine would be given."""
    found = unpacked(once(data), max_bytes=max_bytes, max_entries=max_entries)
    return b"".join([piece async for piece in found])


# -- code: what is refused before the engine sees it ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ODD)
async def test_code_that_is_odd_is_refused(kind: str) -> None:
    items, words = ODD[kind]
    with pytest.raises(TornArchive, match=words):
        await through(packed(items))


def a_size(digits: bytes, *, name: str = "a", kind: bytes = tarfile.REGTYPE) -> bytes:
    """A file whose header has this in the place of its size; its checksum is right."""
    header = bytearray(file_header(name, 0))
    header[124:136] = digits.ljust(12, b"\0")
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + END


def with_header(kind: bytes, text: bytes, *, content: bytes = b"") -> bytes:
    """A pax header, and a file behind it that says that it is empty."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(text)
    block = info.tobuf(tarfile.USTAR_FORMAT) + text + bytes(-len(text) % 512)
    return block + file_header("a", 0) + content + END


DAMAGED = {
    "no archive": b"\x7fELF" + bytes(600),
    "packed otherwise": b"BZh91AY&SY" + bytes(600),
    "gzip that breaks off": packed([("a", tarfile.REGTYPE, b"x" * 5000)])[:-4],
    "gzip with something behind it": packed([("a", tarfile.REGTYPE, b"x")]) + b"junk",
    "gzip of nothing": gzip.compress(b""),
    "sparse": sparse(2**40),
    "sparse by pax": with_header(b"x", b"22 GNU.sparse.major=1\n"),
    "size of all": with_header(b"g", b"12 size=512\n"),
    "size in other digits": with_header(b"x", "11 size=٣\n".encode(), content=bytes(512)),
    "size of many digits": with_header(b"x", b"5016 size=" + b"9" * 5005 + b"\n"),
    "length of many digits": with_header(b"x", b"9" * 5000 + b" a=b\n"),
    "size behind a zero": a_size(b"\x0000000017"),
    "size with a line below": a_size(b"1_0"),
    "negative size": a_size(b"\xff" * 12),
    "folder with content": a_size(b"00000001000", name="d/", kind=tarfile.AREGTYPE)[:512] + bytes(512) + END,
    "size that no file has": a_size(b"\x80\x00\x00\x00\x7f" + b"\xff" * 7),
}


@pytest.mark.parametrize("kind", DAMAGED)
async def test_code_that_two_readers_could_read_differently_is_refused(kind: str) -> None:
    with pytest.raises(TornArchive):
        await through(DAMAGED[kind])


async def test_only_the_last_header_before_a_file_counts() -> None:
    """So Go's reader has it; who adds them up skips what the engine takes for headers."""
    first = with_header(b"x", b"13 size=1024\n")[:1024]
    device = packed([("sda", tarfile.BLKTYPE, "")])
    hidden = first + with_header(b"x", b"11 path=ab\n")[:-1024] + gzip.decompress(device)
    with pytest.raises(TornArchive, match="device"):
        await through(hidden)


async def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = packed([("zeros", tarfile.REGTYPE, bytes(50 * 2**20))])
    assert len(bomb) < 2**20
    with pytest.raises(TornArchive, match=r"unpacks to more than 1Mi"):
        await through(bomb)
    many = packed([(f"{number}", tarfile.REGTYPE, b"") for number in range(101)])
    with pytest.raises(TornArchive, match="more than 100 files"):
        await through(many)


async def test_bombs_within_bombs_come_out_as_they_are() -> None:
    inner = gzip.compress(bytes(10 * 2**20))
    with tarfile.open(fileobj=io.BytesIO(await through(packed([("b.gz", tarfile.REGTYPE, inner)])))) as tar:
        found = tar.extractfile("b.gz")
        assert found is not None
        assert found.read() == inner


@simulated
async def test_an_odd_archive_fails_its_job_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_CODE_BYTES", 2**20)
    world = make_world()
    bodies = [packed(items) for items, _ in ODD.values()] + [packed([("z", tarfile.REGTYPE, bytes(2**21))])]
    async with world.agent():
        for body in bodies:
            name = hashlib.sha256(body).hexdigest()
            world.server.code.files[name] = body
            record = await world.ended(world.submit(code={"sha256": name, "size": len(body)}, retries=3))
            assert (record.reason, record.attempt) == (Reason.INVALID_SPEC, 1)
            assert "the job's code can't be used: it " in (record.message or "")
    assert world.journal.count_of("start") == 0


# -- code and inputs: what is harmless on a real engine ---------------------------------------------------------------


@pytest.fixture
async def lab(
    nats_url: str, queue_name: str, queue_containers: str, busybox_image: str, tmp_path: Path
) -> AsyncIterator[Lab]:
    async with open_lab(nats_url, queue_name, busybox_image, tmp_path) as made:
        yield made


HARMLESS: list[Item] = [
    ("etc-link", tarfile.SYMTYPE, "/etc"),
    ("etc-link/through-a-link", tarfile.REGTYPE, b"x"),
    ("/etc/absolute", tarfile.REGTYPE, b"x"),
    ("twice", tarfile.REGTYPE, b"first"),
    ("twice", tarfile.REGTYPE, b"second"),
    ("root-shell", tarfile.REGTYPE, b"#!/bin/sh\n"),
    ("a\x1b[2Jb", tarfile.REGTYPE, b"x"),
]


@pytest.mark.docker
@pytest.mark.nats
async def test_code_of_links_special_bits_and_doubles_stays_in_its_container(lab: Lab, tmp_path: Path) -> None:
    """By an absolute link it reaches the container's own `/etc`, where a job as root could write anyway."""
    body = packed(HARMLESS, mode=0o6777)
    name = hashlib.sha256(body).hexdigest()
    await lab.client.code.put(name, once(body))
    script = """
        cat twice; echo; ls -l root-shell | cut -c1-10
        test -e /etc/through-a-link && echo own; test -e etc/absolute && echo below
        grep NoNewPrivs /proc/self/status
    """
    async with lab.agent():
        job = await lab.submit(
            command=["sh", "-c", script], code={"sha256": name, "size": len(body)}, workdir="/work", user="1000"
        )
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    said = (await lab.output(job)).decode()
    assert said.startswith("second\n-rws")
    assert "own\nbelow\nNoNewPrivs:\t1\n" in said, "so a program with setuid gives nobody another user"
    assert not {"through-a-link", "absolute"} & set(os.listdir("/etc"))  # noqa: PTH208  (names are enough)
    assert lab.containers() == []


@pytest.mark.docker
@pytest.mark.nats
async def test_a_device_that_gets_past_all_checks_can_not_be_opened(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second line of defence: the engine lets a container at no device, whatever lies in its folders."""
    monkeypatch.setattr("agent.archives._check_entry", lambda _: None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, major, minor in (("mem", tarfile.CHRTYPE, 1, 1), ("disk", tarfile.BLKTYPE, 8, 0)):
            info = tarfile.TarInfo(name)
            info.type, info.devmajor, info.devminor, info.mode = kind, major, minor, 0o666
            tar.addfile(info)
    body = buffer.getvalue()
    name = hashlib.sha256(body).hexdigest()
    await lab.client.code.put(name, once(body))
    async with lab.agent():
        job = await lab.submit(
            command=["sh", "-c", "for d in mem disk; do head -c1 $d >/dev/null && echo opened; done; echo end"],
            code={"sha256": name, "size": len(body)},
        )
        await lab.ended(job)
    assert b"opened" not in await lab.output(job)


@pytest.mark.docker
@pytest.mark.nats
async def test_what_a_job_leaves_leads_nowhere(lab: Lab) -> None:
    """Links give nothing of the worker, and little of the container: what the job could have copied."""
    script = """
        cd $LAUNCH_ARTIFACTS; ln -s /etc/hostname l; ln -s / root; ln -s ../../../../etc/passwd up; mkfifo p
        ln -s /launch/../etc /out; echo mine >mine; chmod 6777 mine; ln mine again
        mkdir -p "$(printf 'a\\033[2Jb')"; echo x >"$(printf 'a\\033[2Jb')/c"
    """
    async with lab.agent():
        job = await lab.submit(command=["sh", "-ec", script], artifacts=["/out", "/launch/artifacts/root/etc/hosts"])
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    assert record.artifacts is not None
    assert record.artifacts.manifest is not None
    manifest = await read_manifest(lab.client.artifacts, record.artifacts.manifest)
    found = {file.path: file.mode for file in manifest.files}
    assert set(found) == {"mine", "again", "a\\x1b[2Jb/c"}
    assert found["mine"] == 0o777, "no special bits"
    assert {"l", "root", "up", "p"} <= set(manifest.left_out)


# -- what is fetched --------------------------------------------------------------------------------------------------

DATA = b"data"
LISTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "more than there is room": ([{"size": 2**53}], "has room for"),
    "size that no disk has": ([{"size": 10**400}], "can't be read"),
    "negative size": ([{"size": -1}], "can't be read"),
    "smaller than it is": ([{"size": 3}], "larger than 3 bytes"),
    "larger than it is": ([{"size": 5}], "has 4 bytes, not 5"),
    "another checksum": ([{"sha256": "0" * 64}], "its checksum is another"),
    "no checksum": ([{"sha256": ""}], "its checksum is another"),
    "another store's file": ([{"name": "nothing"}], "there is no file"),
    "up": ([{"path": "../a"}], "allowed: relative ones"),
    "absolute": ([{"path": "/etc/a"}], "allowed: relative ones"),
    "zero byte": ([{"path": "a\0b"}], "allowed: relative ones"),
    "long name": ([{"path": "n" * 300}], "can't write"),
    "long path": ([{"path": "/".join(["d" * 200] * 30)}], "can't write"),
    "twice": ([{}, {}], "twice"),
    "file and folder": ([{"path": "a"}, {"path": "a/b"}], "can't write"),
}


def listing(entries: Sequence[dict[str, Any]]) -> bytes:
    """A manifest as somebody says it."""
    good = {"path": "a", "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest(), "name": "f"}
    files = [good | changes for changes in entries]
    return json.dumps({"job": "q/1", "attempt": 1, "stored_at": "2026-01-01T00:00:00Z", "files": files}).encode()


def files_below(folder: Path) -> set[str]:
    """All that is no folder, by its path."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("kind", LISTS)
async def test_a_list_that_lies_is_told_and_leaves_nothing_wrong(tmp_path: Path, kind: str) -> None:
    entries, words = LISTS[kind]
    shelf = FileShelf()
    shelf.files |= {"list": listing(entries), "f": DATA}
    store, folder = FakeFiles(shelf), tmp_path / "in" / "side"
    with pytest.raises(LaunchError, match=words):
        await fetch(store, (await read_manifest(store, "list")).files, folder)
    assert files_below(tmp_path) <= {"in/side/a", "in/side/a/b"}, "what is whole may stay"


async def test_half_a_character_in_a_list_is_told() -> None:
    shelf = FileShelf()
    shelf.files["list"] = listing([{"path": "a\ud800"}])
    with pytest.raises(LaunchError, match="can't be read"):
        await read_manifest(FakeFiles(shelf), "list")


INPUTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "twice": ([{}, {"path": "./a"}], "names a path twice"),
    "long name": ([{"path": "n" * 300}], "too long"),
    "long path": ([{"path": "/".join(["d" * 200] * 30)}], "too long"),
    "size that no disk has": ([{"size": 10**400}], "can't be read"),
    "negative size": ([{"size": -1}], "can't be read"),
}


@pytest.mark.parametrize("kind", INPUTS)
@simulated
async def test_a_list_of_inputs_that_lies_fails_its_job_at_once(kind: str) -> None:
    entries, words = INPUTS[kind]
    world = make_world()
    source = ended_job(world, listing(entries), f=DATA)
    async with world.agent():
        record = await world.ended(world.submit(inputs=[{"job": str(source)}], retries=3))
    assert (record.reason, record.attempt) == (Reason.INVALID_SPEC, 1)
    assert words in (record.message or "")
    assert world.journal.count_of("start") == 0
