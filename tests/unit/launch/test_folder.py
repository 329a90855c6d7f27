"""Which of a folder's files are shipped as code: git itself is asked what its ignore files mean."""

import os
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launch import folder
from launch.errors import LaunchError
from launch.folder import largest, shown, survey


def make(root: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def found(root: Path) -> list[str]:
    """The files (and links) that are taken."""
    return [entry.path for entry in survey(root).entries if not stat.S_ISDIR(entry.status.st_mode)]


def git(root: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "core.excludesFile=/dev/null", *args],  # noqa: S607
        cwd=root, check=True, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    return done.stdout


def by_git(root: Path) -> list[str]:
    """What git would add."""
    return sorted(name for name in git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0") if name)


def test_git_s_own_folder_is_never_taken(tmp_path: Path) -> None:
    make(tmp_path, {"train.py": "", ".git/config": "x", "sub/.git": "gitdir: x", ".gitmodules": ""})
    assert found(tmp_path) == [".gitmodules", "train.py"]


TREE = dict.fromkeys(
    (
        "train.py", "a.log", "keep.log", "build/out.o", "build/keep/x", "sub/a.log", "sub/build", "sub/deep/secret.env",
        "sub/deep/b.log", "data/1.csv", "data/keep.csv", "top", "sub/top", "with space/x y", "#hash", "!bang",
        "x[1].py", "ends with space ", "é.txt",
    ), "",
)  # fmt: skip


@pytest.mark.parametrize(
    "ignores",
    [
        {".gitignore": "*.log\n!keep.log\nbuild/\n/top\n"},
        {".gitignore": "*.log", "sub/.gitignore": "!a.log\n*.env\n"},
        {".gitignore": "data/*\n!data/keep.csv\n"},
        {".gitignore": "data/\n!data/keep.csv\n"},
        {".gitignore": "*\n!*/\n!*.py\n"},
        {".gitignore": "/*\n!/sub\n/sub/*\n!/sub/deep\n"},
        {".gitignore": "\\#hash\n\\!bang\nx\\[1\\].py\nwith space/\n"},
        {".gitignore": "# comment\n\nsub/**/b.log\n**/top\n"},
        {".gitignore": "build\n!build\n", "sub/.gitignore": "*\n", "sub/deep/.gitignore": "!*\n"},
        {"sub/.gitignore": "/deep/*.log\n"},
        {".gitignore": "a[\n\\\n!\n//\n*.log\n"},
        {".gitignore": "sub/deep\n"},
        {".gitignore": "build/   \r\nkeep.log\\ \nends with space\\ \n"},
        {".gitignore": "ends with space \n\ufefftop\n"},
        {".gitignore": "\ufefftop\n[[:alpha:]].log\n[!a-z]*\n[]x]y\n"},
        {".gitignore": "x[[]1].p?\nsub/[[:alpha:]]eep\nb[t-v]ild/ou[^a].o\n"},
        {".gitignore": "a.log\\\n[z-a]\n[[:none:]]\nsub/dee[p\n*\\.env\n"},
        {".gitignore": "da**ta\nsub/***/b.log\n***\n!*\n"},
        {".gitignore": "a.log\x0bkeep.log\n*.\u00e9\n\u00e9*\n"},
    ],
)
def test_gitignore_means_what_it_means_to_git(tmp_path: Path, ignores: dict[str, str]) -> None:
    make(tmp_path, {**TREE, **ignores})
    git(tmp_path, "init", "-q")
    assert found(tmp_path) == by_git(tmp_path)


_line = st.tuples(
    st.sampled_from(["", "!"]), st.sampled_from(["", "/", "**/"]),
    st.sampled_from(["a", "b", "*", "a/b", "?", "a/*", "*/b", "a/**", "**", "*/"]), st.sampled_from(["", "/"]),
).map("".join)  # fmt: skip
_ignore_file = st.lists(_line, max_size=4).map("\n".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_ignore_file, _ignore_file)
@example("*\n!*/\n!b", "")
@example("a/\n!a/", "*")
def test_any_gitignore_means_what_it_means_to_git(
    tmp_path_factory: pytest.TempPathFactory, top: str, below: str
) -> None:
    root = tmp_path_factory.mktemp("tree")
    make(root, dict.fromkeys(("a/a", "a/b/a", "a/b/b", "b/a/b", "b/b", "c", "a/c/a", "d/c"), ""))
    make(root, {".gitignore": top, "a/.gitignore": below})
    git(root, "init", "-q")
    expected = by_git(root)
    if expected:
        assert found(root) == expected
    else:
        with pytest.raises(LaunchError, match="nothing to ship"):
            survey(root)


def test_the_gitignores_above_count_up_to_the_work_tree_s_root(tmp_path: Path) -> None:
    make(tmp_path, {".gitignore": "*.py\n"})
    root = make(tmp_path / "repo", {".gitignore": "*.log\n/jobs/b/out\n", "jobs/.gitignore": "!keep.log\ntmp/\n"})
    (root / ".git").mkdir()
    job = make(root / "jobs" / "b", {"train.py": "", "a.log": "", "keep.log": "", "out": "", "tmp/x": ""})
    assert found(job) == ["keep.log", "train.py"]


def test_what_either_leaves_out_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, {".gitignore": ".env\n", ".dockerignore": "*\n!src\n!.env\n", ".env": "", "src/x.py": "", "y": ""})
    make(tmp_path, {"src/.env": ""})
    assert found(tmp_path) == ["src/x.py"]


def test_a_folder_that_is_left_out_is_there_for_what_is_kept_in_it(tmp_path: Path) -> None:
    make(tmp_path, {".dockerignore": "*\n!a/b/x\n", "a/b/x": "", "a/y": "", "c/d": ""})
    assert [entry.path for entry in survey(tmp_path).entries] == ["a", "a/b", "a/b/x"]


def test_a_bad_dockerignore_is_named(tmp_path: Path) -> None:
    make(tmp_path, {".dockerignore": "[z-a]\n", "x": ""})
    with pytest.raises(LaunchError, match=r"\.dockerignore.*z-a"):
        survey(tmp_path)


# -- what a folder may hold -----------------------------------------------------------------------------------------


def links(root: Path) -> dict[str, str]:
    return {entry.path: entry.link for entry in survey(root).entries if entry.link is not None}


def test_links_within_the_folder_stay_links(tmp_path: Path) -> None:
    root = make(tmp_path / "job", {"x/real.py": "", "y": ""})
    (root / "x/up").symlink_to("../y")
    (root / "dir").symlink_to("x")
    (root / "dangling").symlink_to("x/later")
    (root / "absolute").symlink_to(root / "x/real.py")
    (root / "x/round").symlink_to("../../job/y")
    (root / "loop").symlink_to("loop")
    assert links(root) == {
        "x/up": "../y", "dir": "x", "dangling": "x/later", "absolute": "x/real.py", "x/round": "../y", "loop": "loop",
    }  # fmt: skip


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "..", "x/../../secret", "out/../x", "/no/such/thing"])
def test_links_that_lead_outside_are_named(tmp_path: Path, target: str) -> None:
    root = make(tmp_path / "job", {"x/real.py": ""})
    make(tmp_path, {"secret": "", "elsewhere/y": ""})
    (root / "out").symlink_to("../elsewhere")
    (root / "bad").symlink_to(target)
    with pytest.raises(LaunchError, match="lead out of it: bad, out"):
        survey(root)
    make(root, {".gitignore": "bad\nout\n"})
    assert links(root) == {}


def test_what_is_neither_file_nor_folder_is_left_out_with_a_word(tmp_path: Path) -> None:
    make(tmp_path, {"x": ""})
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        contents = survey(tmp_path)
    assert [entry.path for entry in contents.entries] == ["x"]
    assert contents.warnings == ["neither files nor folders, so left out: pipe, sock"]


def test_a_virtual_environment_is_noticed(tmp_path: Path) -> None:
    make(tmp_path, {"x": "", "env/pyvenv.cfg": "", "env/lib/y.py": ""})
    (warning,) = survey(tmp_path).warnings
    assert warning.startswith("env is a virtual environment")
    make(tmp_path, {".gitignore": "env/\n"})
    assert survey(tmp_path).warnings == []


@pytest.mark.parametrize(
    ("files", "said"), [({}, "nothing to ship"), ({"a/b": "", ".gitignore": "*"}, "nothing to ship")]
)
def test_an_empty_folder_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        survey(make(tmp_path, files))


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"file": ""})
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop", "missing", "new\nline", "n" * 300):
        with pytest.raises(LaunchError, match="is no folder") as error:
            survey(tmp_path / name)
        assert "\n" not in str(error.value)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_ENTRIES", 5)
    make(tmp_path, {"x": "", **{f"data/{n}": "" for n in range(9)}})
    with pytest.raises(LaunchError, match=r"more than 5 files.*data"):
        survey(tmp_path)


def test_the_largest_are_named_where_they_are(tmp_path: Path) -> None:
    make(tmp_path, {"data/a": "x" * 3000, "data/b": "x" * 2000, "one/only": "x" * 4096, "small.py": "x"})
    assert [line.split() for line in largest(survey(tmp_path).entries)] == [
        ["4.9Ki", "data/"], ["4Ki", "one/only"], ["2.9Ki", "data/a"], ["2Ki", "data/b"], ["1B", "small.py"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [("a\nb", "a\\nb"), ("\x1b[31mx", "\\x1b[31mx"), ("\udcff", "\\udcff"), ("é", "é")]
)
def test_names_are_shown_as_one_harmless_line(name: str, text: str) -> None:
    assert shown(name) == text
    assert len(shown(name * 1000)) < 250
