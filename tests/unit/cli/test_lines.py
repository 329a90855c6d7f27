"""From chunks to lines: nothing lost, nothing invented, whatever the cuts."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from launch.lines import MAX_LINE_BYTES, LineJoiner, LogLine
from launch.ports import LogChunk


def chunk(data: bytes, source: str = "stdout", attempt: int = 1, time: str = "t") -> LogChunk:
    return LogChunk(source=source, attempt=attempt, time=time, data=data)


def joined(*chunks: LogChunk) -> list[LogLine]:
    joiner = LineJoiner()
    lines = [line for piece in chunks for line in joiner.feed(piece)]
    pending = joiner.pending
    rest = list(joiner.flush())
    assert len(rest) == pending
    return lines + rest


@given(st.text(alphabet=st.sampled_from("aä€😀\n\r"), max_size=60), st.lists(st.integers(0, 200), max_size=6))
def test_any_cuts_give_the_same_text(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = joined(*(chunk(data[a:b]) for a, b in pairwise(edges)))
    assert "".join(line.text + ("" if line.partial else "\n") for line in lines) == text


def test_sources_do_not_mix_and_attempts_end_what_was_open() -> None:
    lines = joined(chunk(b"out "), chunk(b"err\n", "stderr"), chunk(b"put"), chunk(b"again\n", attempt=2))
    assert [(line.source, line.attempt, line.text, line.partial) for line in lines] == [
        ("stderr", 1, "err", False),
        ("stdout", 1, "out put", True),
        ("stdout", 2, "again", False),
    ]


def test_a_line_has_the_time_it_began() -> None:
    lines = joined(chunk(b"a", time="1"), chunk(b"b\nc\nd", time="2"), chunk(b"\n", time="3"))
    assert [(line.text, line.time) for line in lines] == [("ab", "1"), ("c", "2"), ("d", "2")]


def test_undecodable_bytes_are_replaced() -> None:
    assert [line.text for line in joined(chunk(b"a\xff\n"))] == ["a\N{REPLACEMENT CHARACTER}"]


def test_a_line_without_end_stays_bounded() -> None:
    piece = "€".encode() * 100_000
    lines = joined(*(chunk(piece) for _ in range(12)))
    assert all(len(line.text.encode()) <= MAX_LINE_BYTES for line in lines)
    assert "".join(line.text for line in lines) == "€" * 1_200_000
    assert all(line.partial for line in lines)
