"""What reaches the user's screen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.cli.output import age, harmless, plain_table


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
