"""The one file of a tar, however its bytes are cut."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.tar_entry import FirstFile


def packed(content: bytes, *, kind: int, name: str) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(content), 1.5  # a fraction: an entry of its own
        tar.addfile(entry, io.BytesIO(content))
        second = tarfile.TarInfo("second")
        second.size = 3
        tar.addfile(second, io.BytesIO(b"no!"))
    return whole.getvalue()


@given(
    st.binary(max_size=3000),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(["metrics.jsonl", "long/" * 40 + "name"]),
    st.integers(1, 1500),
)
def test_its_content_is_handed_on(content: bytes, kind: int, name: str, size: int) -> None:
    tar, found = packed(content, kind=kind, name=name), FirstFile()
    got = b"".join(found.feed(tar[at : at + size]) for at in range(0, len(tar), size))
    assert got == content
    assert found.ended


def test_a_tar_that_breaks_off_gives_what_there_is() -> None:
    found = FirstFile()
    got = found.feed(packed(b"x" * 1000, kind=tarfile.GNU_FORMAT, name="m")[: 512 * 2 + 100])
    assert got == b"x" * 100
    assert not found.ended


def test_an_empty_tar_has_none() -> None:
    found = FirstFile()
    assert found.feed(bytes(10240)) == b""
    assert found.ended


def test_what_is_no_tar_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        FirstFile().feed(b"<html>" * 1000)
