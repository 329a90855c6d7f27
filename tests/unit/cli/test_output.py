"""What reaches the user's screen."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launch.cli.output import age, counted, harmless, plain_table
from launch.cli.watch import jobs_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\r", "plain\ttext\r"),
        ("\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[2Jgone\x1b[H", "gone"),
        ("\x1b]0;title\x07x\x1b]8;;http://e\x1b\\y", "xy"),
        ("\x1b]52;c;aGk=\x07stolen", "stolen"),
        ("\x1bPq\x1b\\a\x1bcb\x1b(0c", "abc"),
        ("bell\x07 back\x08 del\x7f csi\x9b2J", "bell back del csi2J"),
        ("ends in\x1b", "ends in"),
        ("\x1b]0;never ended", ""),
    ],
)
def test_control_sequences_are_taken_out_but_for_colours(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(alphabet=st.sampled_from("\x1b[]0;m7HJ\x07\\a\x9b?( \r\t"), max_size=40))
def test_nothing_but_colours_is_left(text: str) -> None:
    rest = harmless(text)
    for part in rest.split("\x1b")[1:]:
        assert part.startswith("[")
        assert part.lstrip("[0123456789;:").startswith("m")
    assert not set(rest) & set("\x07\x08\x9b\x7f")


def test_piped_tables_have_as_many_words_in_each_line() -> None:
    lines = plain_table(("id", "state"), [("q/1", "queued"), ("queue/22", "")])
    assert lines == ["ID        STATE", "q/1       queued", "queue/22  -"]


def test_an_age_that_is_none_is_empty() -> None:
    assert age(None) == ""


def test_numbers_have_their_plural() -> None:
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def watched(number: int, *, width: int, height: int = 24) -> list[str]:
    """What `launch jobs --watch` draws of so many jobs."""
    rows = [
        (f"gpu-training-queue/{index}", "train-a-large-model", "succeeded" if index % 2 else "failed",
         "" if index % 2 else "exit_nonzero", "0" if index % 2 else "137", "1", "agent-0123456789ab", "12m05s", "4m10s")
        for index in range(1, number + 1)
    ]  # fmt: skip
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as shown:
        console.print(jobs_table(rows, console.size))
    return shown.get().splitlines()


def test_a_watch_shows_the_latest_jobs_and_counts_the_older_ones() -> None:
    lines = watched(60, width=160)
    assert len(lines) == 23
    assert lines[0] == "… and 39 older"
    assert lines[2].startswith("gpu-training-queue/40 ")
    assert lines[-1].startswith("gpu-training-queue/60 ")
    assert len(watched(22, width=160)) == 23
    assert "older" not in watched(22, width=160)[0]
    assert watched(23, width=160)[0] == "… and 2 older"
    assert watched(3, width=160, height=2)[-1].startswith("gpu-training-queue/3 ")


@pytest.mark.parametrize("width", [44, 60, 80, 100, 120, 160])
def test_a_narrow_terminal_keeps_id_state_and_exit_code_whole(width: int) -> None:
    header, *rows = watched(12, width=width)
    assert header.split()[0] == "id"
    assert len(rows) == 12
    for index, row in enumerate(rows, start=1):
        assert row.split()[0] == f"gpu-training-queue/{index}"
        assert {"succeeded", "0"} <= set(row.split()) or {"failed", "137"} <= set(row.split())
        assert "…" not in row
    assert ("took" in header) == (width >= 120)
