"""Packing: the same content is the same bytes, anyone may use it, nothing climbs out, memory stays flat."""

import asyncio
import gzip
import hashlib
import os
import subprocess
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch import code
from launch.code import pack, ship
from launch.errors import LaunchError, StoreError
from launch.folder import survey
from tests.fakes.files import FakeFiles, FileShelf
from tests.unit.launch.test_folder import git, make


def packed(root: Path, into: Path, **options: int) -> tuple[str, list[tarfile.TarInfo]]:
    """Its SHA-256, and what is in it."""
    result = pack(root, into / "out.tar.gz", limit_bytes=options.get("limit_bytes", 1 << 30))
    data = result.path.read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (result.sha256, result.size)
    with tarfile.open(result.path, errors="surrogateescape") as tar:
        return result.sha256, tar.getmembers()


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, errors="surrogateescape") as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
        return {name: file.read() for name, file in files.items() if file}


# -- the pack -------------------------------------------------------------------------------------------------------


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"b/x.py": "x", "a": "1", "b.py": "y"})
    other = make(tmp_path / "elsewhere" / "other", {"b.py": "y", "a": "1", "b/x.py": "x"})
    (one / "ln").symlink_to("b/x.py")
    (other / "ln").symlink_to(other / "b/x.py")
    for number, path in enumerate([*other.rglob("*"), other]):
        os.utime(path, (number, number), follow_symlinks=False)
    (one / "a").chmod(0o600)
    (other / "a").chmod(0o664)
    (one / "b").chmod(0o700)
    first, members = packed(one, tmp_path)
    assert packed(other, tmp_path)[0] == first
    assert [member.name for member in members] == [".", "./a", "./b", "./b.py", "./b/x.py", "./ln"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(315_619_200, 0, 0, "", "")}
    (other / "a").write_text("2")
    assert packed(other, tmp_path)[0] != first


def test_the_bytes_stay_the_same_over_releases(tmp_path: Path) -> None:
    """The tar itself, since zlib's own releases may differ: whatever changes it makes everybody send again."""
    make(tmp_path / "job", {"train.py": "print(1)\n", "lib/x.py": ""})
    data = gzip.decompress(pack(tmp_path / "job", tmp_path / "out").path.read_bytes())
    assert hashlib.sha256(data).hexdigest() == "c0a3a6d0d595651ead236bc9d43c8abd74291a5510221b325abcc82aa2be4d1a"


def test_any_user_may_use_it(tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"run.sh": "", "train.py": "", "lib/x.py": ""})
    (root / "run.sh").chmod(0o740)
    (root / "train.py").chmod(0o400)
    (root / "lib").chmod(0o500)
    _, members = packed(root, tmp_path)
    modes = {member.name: member.mode for member in members}
    assert modes == {".": 0o777, "./lib": 0o777, "./lib/x.py": 0o666, "./run.sh": 0o777, "./train.py": 0o666}


def test_links_and_odd_names_arrive_as_they_are(tmp_path: Path) -> None:
    names = ["new\nline", "\x1b[31m", "ünï-文字", "-rf", " ", "..x", "...", "a\\b", "n" * 250, os.fsdecode(b"\xff\xfe")]
    root = make(tmp_path / "job", {name: name.encode(errors="surrogateescape").hex() for name in names})
    deep = root
    for _ in range(8):
        deep /= "d" * 200
    make(deep, {"file": "deep"})
    (root / "ln").symlink_to("n" * 250)
    (deep / "up").symlink_to("../" * 8 + "ln")
    result = pack(root, tmp_path / "out")
    into = tmp_path / "unpacked"
    into.mkdir()
    subprocess.run(["tar", "-xzf", str(result.path), "-C", str(into)], check=True, timeout=20)  # noqa: S607
    for name in names:
        assert (into / name).read_text() == name.encode(errors="surrogateescape").hex()
    assert os.readlink(into / "ln") == "n" * 250  # noqa: PTH115
    assert (into / deep.relative_to(root) / "up").read_text() == ("n" * 250).encode().hex()


_name = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", ".git", ".gitignore", ".dockerignore"))  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_name, st.binary(max_size=2000), min_size=1, max_size=6))
def test_whatever_is_packed_comes_out_again(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("job")
    for name, data in files.items():
        (root / name).write_bytes(data)
    result = pack(root, tmp_path_factory.mktemp("out") / "out")
    assert read(result.path) == {f"./{name}": data for name, data in files.items()}


def test_what_is_too_large_says_what_is_large(tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"train.py": "x", "sub/y.py": "x"})
    for name, size in (("data/a.bin", 3 << 20), ("data/b.bin", 1 << 20)):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(os.urandom(size))
    with pytest.raises(LaunchError) as error:
        pack(root, tmp_path / "out", limit_bytes=1 << 20)
    said = str(error.value)
    assert "(4Mi unpacked) is more than 1Mi when packed" in said
    assert said.index("4Mi  data/\n") < said.index("3Mi  data/a.bin") < said.index("train.py")
    assert ".gitignore" in said
    assert "--code-limit" in said
    assert (tmp_path / "out").stat().st_size <= 1 << 20
    make(root, {".dockerignore": "data\n"})
    assert pack(root, tmp_path / "out", limit_bytes=1 << 20).size < 1000


def test_what_can_t_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "job", {"a": "", "secret\nfile": "x"})
    real = os.open

    def refuse(path: Path, *args: int) -> int:
        if path.name.startswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    with pytest.raises(LaunchError, match=r"job/secret\\nfile can't be read: Permission denied"):
        pack(root, tmp_path / "out")


@pytest.mark.parametrize("what", ["grown", "shrunk", "rewritten", "replaced", "gone", "a pipe", "a link"])
def test_what_changes_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    root = make(tmp_path / "job", {"a": "", "moving": "x" * 100_000, "z": ""})
    path = root / "moving"

    def change(into: str) -> None:
        if what in ("a pipe", "a link", "replaced", "gone"):
            path.unlink()
        if what == "a pipe":
            os.mkfifo(path)
        elif what == "a link":
            path.symlink_to("/etc/passwd")
        elif what != "gone":
            path.write_text({"grown": "x" * 100_001, "shrunk": "x"}.get(into, "y" * 100_000))

    real = code._Watched.read
    done = threading.Event()

    def read_and_change(self: code._Watched, size: int = -1, /) -> bytes:
        if what in ("grown", "shrunk", "rewritten") and not done.is_set() and os.fstat(self._file.fileno()).st_size:
            done.set()
            change(what)
        return real(self, size)

    monkeypatch.setattr(code._Watched, "read", read_and_change)
    if what not in ("grown", "shrunk", "rewritten"):

        def survey_and_change(*args: object) -> object:
            found = survey(*args)  # type: ignore[arg-type]
            change(what)
            return found

        monkeypatch.setattr(code, "survey", survey_and_change)
    with pytest.raises(LaunchError, match=r"moving (changed|went away|can't be read)"):
        pack(root, tmp_path / "out")


def test_memory_stays_flat(tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"x": ""})
    with (root / "big").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 18) * 4)
    tracemalloc.start()
    try:
        pack(root, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# -- shipping -------------------------------------------------------------------------------------------------------


class Store(FakeFiles):
    """Counts what it is sent."""

    puts = 0

    async def put(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
        self.puts += 1
        return await super().put(*args, **kwargs)  # type: ignore[arg-type]


async def test_it_is_sent_once(tmp_path: Path) -> None:
    shelf = FileShelf()
    store = Store(shelf)
    root = make(tmp_path / "job", {"train.py": "x" * 600_000, "random": os.urandom(600_000).hex()})
    heard: list[tuple[int, int]] = []
    first = await ship(store, root, progress=lambda sent, whole: heard.append((sent, whole)))
    assert first.sent
    assert heard[-1] == (first.ref.size, first.ref.size)
    assert heard == sorted(heard)
    assert hashlib.sha256(shelf.files[first.ref.sha256]).hexdigest() == first.ref.sha256
    again = await ship(store, root)
    assert (again.ref, again.sent, store.puts) == (first.ref, False, 1)
    make(root, {"train.py": "y"})
    assert (await ship(store, root)).sent


async def test_several_who_send_the_same_do_no_harm(tmp_path: Path) -> None:
    shelf = FileShelf()
    root = make(tmp_path / "job", {"train.py": "x"})
    refs = {(await task).ref for task in [asyncio.ensure_future(ship(FakeFiles(shelf), root)) for _ in range(8)]}
    assert len(refs) == 1
    assert list(shelf.files) == [refs.pop().sha256]


async def test_a_store_that_holds_something_else_is_noticed(tmp_path: Path) -> None:
    class Wrong(FakeFiles):
        async def put(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]  # noqa: ANN202
            from dataclasses import replace

            return replace(await super().put(*args, **kwargs), sha256="0" * 64)  # type: ignore[arg-type]

    with pytest.raises(StoreError, match="something else"):
        await ship(Wrong(FileShelf()), make(tmp_path / "job", {"x": ""}))


async def test_a_cancel_ends_the_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "job", {"x": ""})
    started, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def endless(found: object, into: object, keep_on: object) -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            while True:
                keep_on()  # type: ignore[operator]
        finally:
            ended.set()

    monkeypatch.setattr(code, "_write_tar", endless)
    task = asyncio.create_task(ship(FakeFiles(FileShelf()), root))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_the_commit_is_noted(tmp_path: Path) -> None:
    store = FakeFiles(FileShelf())
    root = make(tmp_path / "repo", {"a/x": "1", "b/y": "1", ".gitignore": "out/\n*.log\n"})
    assert ((ref := (await ship(store, root)).ref).commit, ref.dirty) == (None, None)
    git(root, "init", "-q")
    assert (await ship(store, root)).ref.commit is None  # no commit yet
    git(root, "add", ".")
    git(root, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "x")
    commit = git(root, "rev-parse", "HEAD").strip()

    async def state(name: str) -> tuple[str | None, bool | None]:
        ref = (await ship(store, root / name)).ref
        return ref.commit, ref.dirty

    assert await state("a") == (commit, False)
    make(root, {"b/y": "2", "a/x.log": "", "out/z": ""})
    assert await state("a") == (commit, False)
    assert await state("b") == (commit, True)
    make(root, {f"a/new{n}": "" for n in range(50)})
    assert await state("a") == (commit, True)


async def test_no_git_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ref = (await ship(FakeFiles(FileShelf()), make(tmp_path / "job", {"x": ""}))).ref
    assert (ref.commit, ref.dirty) == (None, None)


def test_a_pack_is_a_plain_tar(tmp_path: Path) -> None:
    """No header that only some programs know: every entry is of the oldest kinds, or GNU's long name."""
    root = make(tmp_path / "job", {"x": "", "é" * 100: ""})
    data = gzip.decompress(pack(root, tmp_path / "out").path.read_bytes())
    kinds = {data[at + 156 : at + 157] for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"}
    assert kinds == {b"0", b"5", b"L"}
