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
    return [piece for frame in found + parser.end() for piece in frame.pieces()], parser.error


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


@given(
    pieces=st.lists(st.tuples(times, st.lists(st.binary(max_size=60), min_size=1, max_size=5)), max_size=6),
    ended=st.booleans(),
    cuts=cuts_of,
)
def test_a_terminals_long_lines_come_in_pieces_that_share_a_time(
    pieces: list[tuple[str, list[bytes]]], ended: bool, cuts: list[int]
) -> None:
    sent = [
        LogFrame("stdout", time, part.replace(b"\n", b"\r") + (b"\n" if index == len(parts) - 1 else b""))
        for time, parts in pieces
        for index, part in enumerate(parts)
    ]
    if sent and not ended:
        sent[-1] = LogFrame("stdout", sent[-1].time, sent[-1].data[:-1])
    stream = b"".join(frame.time.encode() + b" " + frame.data for frame in sent)
    assert parse(stream, cuts, tty=True) == (sent, None)


def test_a_terminals_progress_bar_is_handed_on_long_before_its_line_ends() -> None:
    parser = FrameParser(tty=True)
    piece = f"{TIME} ".encode() + b"\r 12 %" * 2340
    sizes = [sum(len(frame.data) for frame in parser.feed(piece)) for _ in range(3000)]
    assert sizes == [0] + [len(piece) - 31] * 2999
    assert parser.error is None


@given(sent=st.lists(frames, max_size=20))
def test_pieces_that_follow_each_other_are_handed_on_together(sent: list[LogFrame]) -> None:
    found = FrameParser().feed(b"".join(map(framed, sent)))
    assert all(one.source != other.source for one, other in pairwise(found))
    for frame in found:
        pieces = list(frame.pieces())
        assert frame.time == pieces[0].time
        assert b"".join(piece.data for piece in pieces) == frame.data
        for count in range(1, len(pieces)):
            head, rest = frame.split(count)
            assert [*head.pieces(), *rest.pieces()] == pieces
            assert frame.fitting(len(head.data)) >= count
            assert frame.fitting(len(head.data) - 1) < count or not head.data


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
