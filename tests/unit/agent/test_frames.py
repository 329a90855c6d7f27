"""Log streams: whatever is framed and however it is cut, the same frames come out."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.frames import FrameParser, nanoseconds, since_parameter, timestamp
from agent.ports import LogFrame

TIME = "2026-11-22T15:02:45.195471074Z"
KINDS = {"stdout": 1, "stderr": 2}

times = st.integers(0, 4_000_000_000_000_000_000).map(timestamp)
frames = st.builds(LogFrame, st.sampled_from(["stdout", "stderr"]), times, st.binary(max_size=300))
lines = st.builds(
    LogFrame, st.just("stdout"), times, st.binary(max_size=100).map(lambda b: b.replace(b"\n", b"") + b"\n")
)


def header(kind: int, text: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(text)) + text


def framed(frame: LogFrame) -> bytes:
    return header(KINDS[frame.source], frame.time.encode() + b" " + frame.data)


def parse(stream: bytes, cuts: list[int], *, tty: bool = False) -> tuple[list[LogFrame], str | None]:
    parser = FrameParser(tty=tty)
    found: list[LogFrame] = []
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, stop in pairwise(edges):
        found += parser.feed(stream[start:stop])
    return found + parser.end(), parser.error


cuts_of = st.lists(st.integers(0, 1_000_000), max_size=60)


@given(sent=st.lists(frames, max_size=20), cuts=cuts_of)
def test_frames_survive_any_cut(sent: list[LogFrame], cuts: list[int]) -> None:
    assert parse(b"".join(map(framed, sent)), cuts) == (sent, None)


@given(sent=st.lists(frames, min_size=1, max_size=3))
def test_frames_survive_byte_by_byte(sent: list[LogFrame]) -> None:
    stream = b"".join(map(framed, sent))
    assert parse(stream, list(range(len(stream)))) == (sent, None)


@given(sent=st.lists(lines, max_size=20), last=st.binary(max_size=50), cuts=cuts_of)
def test_a_terminals_lines_survive_any_cut(sent: list[LogFrame], last: bytes, cuts: list[int]) -> None:
    if last := last.replace(b"\n", b""):
        sent = [*sent, LogFrame("stdout", TIME, last)]
    stream = b"".join(frame.time.encode() + b" " + frame.data for frame in sent)
    assert parse(stream, cuts, tty=True) == (sent, None)


@given(stream=st.binary(max_size=400), cuts=cuts_of, tty=st.booleans())
def test_any_bytes_at_all_never_raise(stream: bytes, cuts: list[int], tty: bool) -> None:
    found, error = parse(stream, cuts, tty=tty)
    assert (found, error) == parse(stream, [], tty=tty), "where it was cut makes no difference"


@given(sent=st.lists(frames, max_size=3), text=st.text(min_size=1).filter(str.strip), cuts=cuts_of)
def test_the_engines_own_fault_comes_after_the_frames_before_it(
    sent: list[LogFrame], text: str, cuts: list[int]
) -> None:
    stream = b"".join(map(framed, sent)) + header(3, text.encode()) + framed(LogFrame("stdout", TIME, b"late\n"))
    found, error = parse(stream, cuts)
    assert found == sent
    assert error is not None
    assert error in text or len(text.encode()) > 500


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (framed(LogFrame("stdout", TIME, b"x\n"))[:-1], "cut in the middle"),
        (b"\x01\0\0", "cut in the middle"),
        (header(9, b"x"), "kind 9"),
        (struct.pack(">BxxxL", 1, 2**31), "2147483648 bytes"),
        (header(1, b"no-space"), "without a time"),
    ],
)
def test_a_broken_stream_is_an_error(stream: bytes, error: str) -> None:
    good = LogFrame("stderr", TIME, b"good\n")
    found, said = parse(framed(good) + stream, [])
    assert found == [good]
    assert said is not None
    assert error in said


@given(nanos=st.integers(0, 4_000_000_000_000_000_000))
def test_times_keep_their_nanoseconds(nanos: int) -> None:
    assert nanoseconds(timestamp(nanos)) == nanos
    assert since_parameter(timestamp(nanos)) == f"{nanos // 10**9}.{nanos % 10**9:09d}"


@pytest.mark.parametrize(
    ("time", "since"),
    [
        ("1970-01-01T00:00:01Z", "1.000000000"),
        ("1970-01-01T00:00:01.5Z", "1.500000000"),
        ("1970-01-01T02:00:01.000000001+02:00", "1.000000001"),
        (TIME, "1795359765.195471074"),
    ],
)
def test_times_are_read_with_any_number_of_decimals(time: str, since: str) -> None:
    assert since_parameter(time) == since
