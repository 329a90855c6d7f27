"""Frames in, chunks out: nothing doubled, nothing lost, nothing torn, over any interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from agent.core.chunks import INTERLEAVED_CHUNKS, Chunker
from agent.core.frames import nanoseconds, timestamp
from agent.core.marks import OVERLAP_NS, Marks
from agent.core.mask import Mask
from agent.ports import LogFrame, frame_of
from launch.ports import LogChunk

PIECE = 5
SOURCES = ("stdout", "stderr")
START = 1_700_000_000_000_000_000

sources = st.sampled_from(SOURCES)
texts = st.binary(max_size=30).map(lambda text: text.replace(b"\n", b""))
gaps = st.sampled_from([1, 1000, OVERLAP_NS // 3, 2 * OVERLAP_NS])
writes = st.lists(st.tuples(sources, texts, gaps), max_size=40)


def log_of(lines: Iterable[tuple[str, bytes, int]], *, ended: bool = True) -> list[LogFrame]:
    """The engine's frames for these lines: each with a time of its own, in pieces of `PIECE`."""
    frames = []
    now = START
    for source, text, gap in lines:
        now += gap
        data = text + b"\n"
        frames += [LogFrame(source, timestamp(now), data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    if frames and not ended:
        last = frames[-1]
        frames[-1] = LogFrame(last.source, last.time, last.data.rstrip(b"\n") or b"?")
    return frames


def connect(log: list[LogFrame], marks: Marks) -> list[LogFrame]:
    """What the engine sends to a new connection."""
    since = marks.since()
    return [frame for frame in log if since is None or nanoseconds(frame.time) >= nanoseconds(since)]


def bytes_by_source(pieces: Iterable[LogFrame | LogChunk]) -> dict[str, bytes]:
    found = dict.fromkeys(SOURCES, b"")
    for piece in pieces:
        found[piece.source] += piece.data
    return found


@given(lines=writes, ended=st.booleans(), limit=st.integers(1, 40), takes=st.sets(st.integers(0, 300)))
def test_chunks_keep_the_bytes_and_the_bounds(
    lines: list[tuple[str, bytes, int]], ended: bool, limit: int, takes: set[int]
) -> None:
    log = log_of(lines, ended=ended)
    chunker = Chunker(7, limit)
    chunks: list[LogChunk] = []
    for count, frame in enumerate(log):
        chunker.add(frame.source, frame.time, frame.data)
        if count in takes:
            chunks += chunker.take(final=False)
            assert chunker.pending_bytes <= limit * len(SOURCES)
    chunks += chunker.take(final=True)
    assert chunker.pending_bytes == 0
    assert bytes_by_source(chunks) == bytes_by_source(log)
    assert all(0 < len(chunk.data) <= limit and chunk.attempt == 7 for chunk in chunks)


@given(lines=writes, takes=st.sets(st.integers(0, 300)))
def test_a_line_that_fits_a_chunk_is_not_torn(lines: list[tuple[str, bytes, int]], takes: set[int]) -> None:
    chunker = Chunker(1, 31)
    chunks: list[LogChunk] = []
    for count, frame in enumerate(log_of(lines)):
        chunker.add(frame.source, frame.time, frame.data)
        if count in takes:
            chunks += chunker.take(final=False)
    chunks += chunker.take(final=True)
    assert all(chunk.data.endswith(b"\n") for chunk in chunks)


def runs_of(log: list[LogFrame], ends: set[int]) -> list[LogFrame]:
    """The same, with pieces of one source that follow each other joined, but for those that begin at `ends`."""
    runs: list[list[LogFrame]] = []
    for index, frame in enumerate(log):
        if runs and runs[-1][0].source == frame.source and index not in ends:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return [
        frame_of(
            run[0].source,
            [frame.time for frame in run],
            [len(frame.data) for frame in run],
            b"".join(frame.data for frame in run),
        )
        for run in runs
    ]


def chunks_of(log: Iterable[LogFrame], takes: set[int], chunker: Chunker) -> list[LogChunk]:
    chunks: list[LogChunk] = []
    for count, frame in enumerate(log):
        chunker.add_frame(frame)
        if count in takes:
            chunks += chunker.take(final=False)
    return chunks + chunker.take(final=True)


numbers = st.sets(st.integers(0, 200))


@given(lines=writes, ended=st.booleans(), limit=st.integers(1, 40), takes=numbers, ends=numbers)
def test_runs_of_pieces_become_the_chunks_that_the_pieces_would(
    lines: list[tuple[str, bytes, int]], ended: bool, limit: int, takes: set[int], ends: set[int]
) -> None:
    log = log_of(lines, ended=ended)
    runs = runs_of(log, ends)
    assert chunks_of(runs, set(), Chunker(1, limit)) == chunks_of(log, set(), Chunker(1, limit))
    chunks = chunks_of(runs, takes, Chunker(1, limit))
    assert bytes_by_source(chunks) == bytes_by_source(log)
    assert all(0 < len(chunk.data) <= limit for chunk in chunks)


WORDS = ("abaaba", "aabaab", "bababa")
secrets = st.lists(st.sampled_from(WORDS), min_size=1)
secret_texts = st.lists(st.sampled_from([*(word.encode() for word in WORDS), b"a", b" "]), max_size=20).map(b"".join)
secretive = st.lists(st.tuples(sources, secret_texts, st.sampled_from([0, 1])), max_size=20)


@given(lines=secretive, ended=st.booleans(), words=secrets, limit=st.integers(40, 60), takes=numbers, ends=numbers)
def test_no_part_of_a_secret_is_shown_wherever_lines_and_chunks_are_cut(
    lines: list[tuple[str, bytes, int]], ended: bool, words: list[str], limit: int, takes: set[int], ends: set[int]
) -> None:
    log = log_of(lines, ended=ended)
    mask = Mask(words)
    chunks = chunks_of(runs_of(log, ends), takes, Chunker(1, limit, mask))
    wanted = {source: mask(data) for source, data in bytes_by_source(log).items()}
    assert bytes_by_source(chunks) == wanted
    assert all(0 < len(chunk.data) <= limit for chunk in chunks)


def test_the_two_sources_keep_the_order_in_which_they_wrote() -> None:
    chunker = Chunker(1, 1000)
    for source, text in [("stdout", b"a\n"), ("stdout", b"b\n"), ("stderr", b"c\n"), ("stdout", b"d\n")]:
        chunker.add(source, timestamp(START), text)
    assert [(chunk.source, chunk.data) for chunk in chunker.take(final=True)] == [
        ("stdout", b"a\nb\n"),
        ("stderr", b"c\n"),
        ("stdout", b"d\n"),
    ]


def test_sources_that_take_turns_do_not_make_a_chunk_a_line() -> None:
    chunker = Chunker(1, 64 * 1024)
    for number in range(2000):
        chunker.add(SOURCES[number % 2], timestamp(START + number), b"%d\n" % number)
    chunks = chunker.take(final=True)
    assert len(chunks) == INTERLEAVED_CHUNKS
    assert bytes_by_source(chunks)["stderr"] == b"".join(b"%d\n" % number for number in range(1, 2000, 2))


def test_a_line_in_the_making_is_not_interrupted_by_the_other_source() -> None:
    chunker = Chunker(1, 1000)
    chunker.add("stdout", timestamp(START), b"half ")
    chunker.add("stderr", timestamp(START + 1), b"oops\n")
    assert [chunk.data for chunk in chunker.take(final=False)] == [b"oops\n"]
    chunker.add("stdout", timestamp(START), b"line\n")
    assert [chunk.data for chunk in chunker.take(final=False)] == [b"half line\n"]

    chunker.add("stdout", timestamp(START + 2), b"half ")
    chunker.add("stderr", timestamp(START + 3), b"oops\n")
    chunker.add("stdout", timestamp(START + 2), b"line\n")
    assert [chunk.data for chunk in chunker.take(final=False)] == [b"half line\n", b"oops\n"]


def test_whole_lines_do_not_wait_for_one_in_the_making() -> None:
    chunker = Chunker(1, 1000)
    chunker.add("stdout", timestamp(START), b"whole\n")
    chunker.add("stdout", timestamp(START + 1), b"half ")
    assert [chunk.data for chunk in chunker.take(final=False)] == [b"whole\n"]
    chunker.add("stdout", timestamp(START + 1), b"line\n")
    assert chunker.take(final=False) == [LogChunk("stdout", 1, timestamp(START + 1), b"half line\n")]


@given(lines=writes, ended=st.booleans(), breaks=st.lists(st.integers(0, 200), max_size=8), ends=numbers)
def test_a_broken_connection_doubles_and_loses_nothing(
    lines: list[tuple[str, bytes, int]], ended: bool, breaks: list[int], ends: set[int]
) -> None:
    log = log_of(lines, ended=ended)
    marks = Marks()
    got = dict.fromkeys(SOURCES, b"")
    for count in [*breaks, len(log)]:
        for frame in runs_of(connect(log, marks)[:count], ends):
            if new := marks.unread(frame):
                got[new.source] += new.data
                assert b"".join(piece.data for piece in new.pieces()) == new.data
    assert got == bytes_by_source(log)


@given(lines=writes, ended=st.booleans(), read=st.integers(1, 200), tail=st.integers(1, 200), ends=numbers)
def test_the_end_of_a_log_joins_what_was_read_or_says_that_it_does_not(
    lines: list[tuple[str, bytes, int]], ended: bool, read: int, tail: int, ends: set[int]
) -> None:
    log = log_of(lines, ended=ended)
    marks = Marks()
    for frame in (before := log[:read]):
        marks.unread(frame)
    got = bytes_by_source(before)
    end = runs_of(log[-tail:], ends)
    verdicts = [marks.joins(end[:count]) for count in range(1, len(end) + 1)]
    verdict = next((verdict for verdict in verdicts if verdict is not None), None)
    if verdict:
        marks.seek()
        for frame in end:
            if new := marks.unread(frame):
                got[new.source] += new.data
        assert got == bytes_by_source(log)
    elif len({frame.source for frame in before}) == 1 and tail > len(log) - len(before) + max_pieces(before):
        assert len({frame.time for frame in before}) == 1, "else there is an earlier piece in the log's end"


def max_pieces(log: list[LogFrame]) -> int:
    return max(Counter(frame.time for frame in log).values())


@given(lines=writes, limit=st.integers(1, 40), stored=st.integers(0, 200), lost=st.integers(0, 30), data=st.data())
def test_a_successor_goes_on_at_the_byte_where_its_predecessor_was_stored(
    lines: list[tuple[str, bytes, int]], limit: int, stored: int, lost: int, data: st.DataObject
) -> None:
    log = log_of(lines)
    read = log[: data.draw(st.integers(0, len(log)))]
    takes = data.draw(st.sets(st.integers(0, 200)))
    predecessor = Chunker(1, limit)
    chunks: list[LogChunk] = []
    for count, frame in enumerate(read):
        predecessor.add(frame.source, frame.time, frame.data)
        if count in takes:
            chunks += predecessor.take(final=False)
    chunks = chunks[:stored]

    marks = Marks()
    marks.restore(chunks)
    got = bytes_by_source(chunks)
    # The first connection breaks after `lost` frames, too.
    for count in (lost, len(log)):
        for frame in connect(log, marks)[:count]:
            got[frame.source] += marks.fresh(frame)
    assert got == bytes_by_source(log)


def test_a_stored_chunk_is_found_again_from_its_beginning() -> None:
    late = 2 * OVERLAP_NS
    log = log_of([("stderr", b"a", 1), ("stderr", b"b", late), ("stdout", b"c", 1), ("stderr", b"d", 1)])
    marks = Marks()
    marks.restore([LogChunk("stderr", 1, log[0].time, b"a\nb\n"), LogChunk("stdout", 1, log[2].time, b"c\n")])
    assert [marks.fresh(frame) for frame in connect(log, marks)] == [b"", b"", b"", b"d\n"]


def test_a_log_that_the_engine_has_cut_short_costs_no_more_than_what_is_gone() -> None:
    log = log_of([("stdout", b"%d" % number, 1000) for number in range(10)])
    marks = Marks()
    marks.restore([LogChunk("stdout", 1, log[2].time, b"2\n3\n")])
    assert [marks.fresh(frame) for frame in log[6:] if marks.since()] == [b"6\n", b"7\n", b"8\n", b"9\n"]


def test_the_first_read_starts_where_it_is_told_to() -> None:
    assert Marks().since() is None
    start = timestamp(START)
    marks = Marks(start)
    assert marks.since() == start
    marks.fresh(LogFrame("stdout", timestamp(START + 5), b"x\n"))
    assert marks.since() == start, "the overlap does not reach before it"
