"""Archives taken apart: whatever the pieces, the same entries and bytes as the standard library finds."""

from __future__ import annotations

import contextlib
import io
import itertools
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.tar import END, BadTar, Entry, Kind, TarParser, clean_path, file_header, folder_header, padding


def taken_apart(data: bytes, cuts: Sequence[int] = ()) -> tuple[list[tuple[Entry, bytes]], bool]:
    """What a parser finds in these bytes, given to it in pieces."""
    parser, found = TarParser(), list[tuple[Entry, bytes]]()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        for one in parser.feed(data[start:end]):
            if isinstance(one, Entry):
                found.append((one, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + one)
    return found, parser.complete


def packed(infos: Sequence[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for info, content in infos:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info_of(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=150)


@given(
    files=st.lists(st.tuples(NAMES, st.binary(max_size=3000)), max_size=8),
    cuts=st.lists(st.integers(0, 40_000), max_size=20),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_the_same_as_the_standard_library_however_it_is_cut(
    files: list[tuple[str, bytes]], cuts: list[int], form: int
) -> None:
    data = packed([(info_of(f"top/{name}"), content) for name, content in files], form)
    found, complete = taken_apart(data, cuts)
    assert complete
    assert [(entry.path, content) for entry, content in found] == [(f"top/{name}", content) for name, content in files]
    assert all(entry.kind is Kind.FILE and entry.size == len(content) for entry, content in found)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_kinds_modes_and_links_are_told_apart(form: int) -> None:
    infos = [
        info_of("d/", tarfile.DIRTYPE, mode=0o1777),
        info_of("d/a", mode=0o4755),
        info_of("d/hard", tarfile.LNKTYPE, "d/a" + "x" * 200),
        info_of("d/soft", tarfile.SYMTYPE, "/etc"),
        info_of("d/pipe", tarfile.FIFOTYPE),
        info_of("d/device", tarfile.CHRTYPE),
    ]
    found, complete = taken_apart(packed([(info, b"") for info in infos], form))
    assert complete
    kinds = [Kind.FOLDER, Kind.FILE, Kind.HARD_LINK, Kind.SYMBOLIC_LINK, Kind.OTHER, Kind.OTHER]
    assert [entry.kind for entry, _ in found] == kinds
    assert [entry.mode for entry, _ in found][:2] == [0o1777, 0o4755]
    assert found[2][0].link == "d/a" + "x" * 200


def test_a_name_that_is_no_text_comes_through() -> None:
    found, _ = taken_apart(packed([(info_of("a\udcff" * 60), b"x")], tarfile.GNU_FORMAT))
    assert found[0][0].path == "a\udcff" * 60


@given(cut=st.integers(0, 3583))
def test_an_archive_that_ends_early_is_not_complete(cut: int) -> None:
    data = packed([(info_of("a"), b"x" * 1000), (info_of("b"), b"y" * 1000)], tarfile.PAX_FORMAT)
    assert not taken_apart(data[:cut])[1]


@given(data=st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadTar):
        taken_apart(data)


HUGE = info_of("x", tarfile.GNUTYPE_LONGNAME)
HUGE.size = 2**30


@pytest.mark.parametrize(
    "block",
    [
        HUGE.tobuf(tarfile.GNU_FORMAT),
        info_of("s", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT),
        b"no header" * 57,
    ],
)
def test_what_is_not_understood_is_refused(block: bytes) -> None:
    with pytest.raises(BadTar):
        taken_apart(block + bytes(2000))


@given(files=st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=5))
def test_what_is_made_is_what_others_read(files: list[tuple[str, bytes]]) -> None:
    data = folder_header("in", 0o777)
    for name, content in files:
        data += file_header(f"in/{name}", len(content), 0o755) + content + padding(len(content))
    with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
        top, *rest = tar.getmembers()
        assert (top.name, top.isdir(), top.mode) == ("in", True, 0o777)
        assert [info.name for info in rest] == [f"in/{name}" for name, _ in files]
        assert [tar.extractfile(info).read() for info in rest] == [content for _, content in files]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("/etc/passwd", "etc/passwd"),
        ("../a", None),
        ("a/../../b", None),
        ("a/..", None),
        ("", None),
        (".", None),
        ("a\0b", None),
        ("caf\udce9", "caf\\xe9"),
        ("a\nb/\x1b[2J", "a\\x0ab/\\x1b[2J"),
    ],
)
def test_a_path_stays_where_it_is_put(path: str, clean: str | None) -> None:
    assert clean_path(path) == clean
