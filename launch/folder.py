"""What of a folder is shipped as a job's code: everything that its ignore files don't leave out.

The rules, for users in `docs/jobs.md`: `.git` is never taken; a `.gitignore` counts in its folder and below (those of
the folders above, up to the root of the git work tree, count too), a `.dockerignore` at the folder's root by Docker's
rules; what either leaves out is left out. Links are taken as links and must not lead out of the folder.

The invariant: every `Entry.path` is a chain of names that the file system listed, so none is absolute or has `..`.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launch.core.dockerignore import DockerIgnore
from launch.core.gitignore import GitIgnore
from launch.core.quantity import show_memory
from launch.core.shown import one_line
from launch.errors import LaunchError

MAX_ENTRIES = 100_000
"""A folder with more is no code; the list of what it holds is kept in memory."""

MAX_IGNORE_BYTES = 1 << 20

NAMED = 8
"""So many files or folders are named in a message."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to ship: a folder, a file or a link, by its path below the folder."""

    path: str
    status: os.stat_result
    link: str | None = None
    """Where a link leads, relative to where it lies."""


@dataclass(slots=True)
class Contents:
    """What was found, sorted by path, and what is worth saying about it."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """About what was left out, or is there by mistake; for people."""


def survey(folder: Path, keep_on: Callable[[], None] = lambda: None) -> Contents:
    """What is to be shipped of `folder`; `keep_on` is called all the while and may raise to end it.

    Raises `LaunchError`: no folder, something can't be read, links that lead outside, too much or nothing in it.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  (Path's raises for a name that is too long)
        raise LaunchError(f"{shown(str(folder))} is no folder", hint="allowed: a folder with the job's code")
    root = folder.resolve()
    found = Contents(root)
    odd: list[str] = []
    outside: list[str] = []
    met: Counter[str] = Counter()
    try:
        for count, entry in enumerate(_walk(root, keep_on), start=1):
            met[entry.path.split("/")[0]] += 1
            if count > MAX_ENTRIES:
                raise _too_many(folder, met)
            mode = entry.status.st_mode
            if stat.S_ISLNK(mode):
                if entry.link is None:
                    outside.append(entry.path)
                    continue
            elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                odd.append(entry.path)
                continue
            if entry.path == "pyvenv.cfg" or entry.path.endswith("/pyvenv.cfg"):
                found.warnings.append(_virtualenv(entry.path))
            found.entries.append(entry)
    except OSError as error:
        raise unreadable(error, root) from None
    if outside:
        raise LaunchError(
            f"links in {shown(str(folder))} lead out of it: {named(outside)}",
            hint="copy what they lead to, or leave them out by a line in .dockerignore",
        )
    if not any(stat.S_ISREG(entry.status.st_mode) for entry in found.entries):
        raise LaunchError(
            f"there is nothing to ship in {shown(str(folder))}", hint="it is empty, or its ignore files leave all out"
        )
    if odd:
        found.warnings.append(f"neither files nor folders, so left out: {named(odd)}")
    found.entries.extend(_bare_parents(root, found.entries))
    found.entries.sort(key=lambda entry: os.fsencode(entry.path))
    return found


def unreadable(error: OSError, root: Path) -> LaunchError:
    """What to say of a file that can't be read."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(root)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return LaunchError(f"{shown(name)} went away while the folder was packed", hint="try again")
    return LaunchError(
        f"{shown(name)} can't be read: {error.strerror}", hint="leave it out by a line in .gitignore or .dockerignore"
    )


def shown(path: str) -> str:
    """A file's name as one line, whatever is in it, and not too long."""
    text = one_line(path)
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"


def named(paths: list[str]) -> str:
    """A few of them, and how many more."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(shown, sorted(paths)[:NAMED])) + more


def largest(entries: Iterable[Entry]) -> list[str]:
    """What at the folder's top and just below it takes most room, in words: a line each, the largest first."""
    sizes: Counter[str] = Counter()
    for entry in entries:
        if not stat.S_ISREG(entry.status.st_mode):
            continue
        parts = entry.path.split("/")
        for depth in (1, 2):
            if depth <= len(parts):
                sizes["/".join(parts[:depth]) + ("/" if depth < len(parts) else "")] += entry.status.st_size
    # A folder that is hardly more than one thing in it says less than that thing.
    for path, size in list(sizes.items()):
        if path.endswith("/") and any(p.startswith(path) and p != path and s > 0.9 * size for p, s in sizes.items()):
            del sizes[path]
    return [f"{show_memory(size):>8}  {shown(path)}" for path, size in sizes.most_common(NAMED)]


# -- walking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _GitIgnore:
    """One `.gitignore`; `depth` is how many parts of a path lead to its folder."""

    ignore: GitIgnore
    depth: int


def _walk(root: Path, keep_on: Callable[[], None]) -> Iterator[Entry]:
    """Everything that is not left out, links unfollowed; a link that leads outside has no `link`."""
    above, prefix = _gitignores_above(root)
    docker = _dockerignore(root)
    pending: list[tuple[str, list[_GitIgnore]]] = [("", above)]
    while pending:
        base, gitignores = pending.pop()
        folder = root / base
        depth = len(prefix) + (base.count("/") + 1 if base else 0)
        if (own := _gitignore(folder, depth)) is not None:
            gitignores = [*gitignores, own]
        with os.scandir(folder) as scan:
            for child in scan:
                keep_on()
                path = f"{base}/{child.name}" if base else child.name
                is_folder = child.is_dir(follow_symlinks=False)
                if child.name == ".git" or _git_leaves_out(gitignores, (*prefix, *path.split("/")), is_folder):
                    continue
                if docker.leaves_out(path):
                    if is_folder and docker.may_keep_below(path):
                        pending.append((path, gitignores))
                    continue
                status = child.stat(follow_symlinks=False)
                link = _link(root, path) if stat.S_ISLNK(status.st_mode) else None
                yield Entry(path, status, link)
                if is_folder:
                    pending.append((path, gitignores))


def _link(root: Path, path: str) -> str | None:
    """Where a link leads, relative to its own folder; None if that is outside of `root`."""
    place = root / path
    target = str(place.readlink())
    real = os.path.realpath(place)
    if not Path(real).is_relative_to(root):
        return None
    # The text is kept where it does not leave the folder half-way: the folder has another name in the container.
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    else:
        if not target.startswith("/"):
            return target
    return os.path.relpath(real, place.parent)


def _git_leaves_out(gitignores: list[_GitIgnore], parts: tuple[str, ...], is_folder: bool) -> bool:
    """The nearest `.gitignore` that has something to say decides."""
    for file in reversed(gitignores):
        verdict = file.ignore.verdict("/".join(parts[file.depth :]), is_folder=is_folder)
        if verdict is not None:
            return verdict
    return False


def _gitignores_above(root: Path) -> tuple[list[_GitIgnore], tuple[str, ...]]:
    """Those of the git work tree's folders above `root`, and `root`'s path in it; nothing if it is in none."""
    top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    if top is None or top == root:
        return [], ()
    parts = root.relative_to(top).parts
    folders = [top.joinpath(*parts[:depth]) for depth in range(len(parts))]
    found = (_gitignore(folder, depth) for depth, folder in enumerate(folders))
    return [ignore for ignore in found if ignore is not None], parts


def _gitignore(folder: Path, depth: int) -> _GitIgnore | None:
    found = GitIgnore(_lines(folder / ".gitignore"))
    return _GitIgnore(found, depth) if found else None


def _dockerignore(root: Path) -> DockerIgnore:
    path = root / ".dockerignore"
    try:
        return DockerIgnore(_lines(path))
    except ValueError as error:
        raise LaunchError(f"{shown(str(path))}: {error}", hint="correct that pattern") from None


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        data = file.read(MAX_IGNORE_BYTES + 1)
    if len(data) > MAX_IGNORE_BYTES:
        raise LaunchError(f"{shown(str(path))} is too large", hint=f"allowed: at most {show_memory(MAX_IGNORE_BYTES)}")
    text = data.decode(errors="surrogateescape").removeprefix("\ufeff")
    return [line.removesuffix("\r") for line in text.split("\n")]


def _bare_parents(root: Path, entries: list[Entry]) -> list[Entry]:
    """The folders that are left out but for something in them: they have to be there for it."""
    missing = {entry.path.rpartition("/")[0] for entry in entries}
    for path in list(missing):
        while path := path.rpartition("/")[0]:
            missing.add(path)
    missing -= {"", *(entry.path for entry in entries)}
    return [Entry(path, (root / path).lstat()) for path in missing]


def _virtualenv(path: str) -> str:
    folder = path.rpartition("/")[0] or "."
    return f"{shown(folder)} is a virtual environment, which runs only here; a line in .gitignore leaves it out"


def _too_many(folder: Path, met: Counter[str]) -> LaunchError:
    most = ", ".join(shown(name) for name, _ in met.most_common(3))
    return LaunchError(
        f"{shown(str(folder))} holds more than {MAX_ENTRIES} files and folders, most in: {most}",
        hint="leave what is no code out by lines in .gitignore or .dockerignore",
    )
