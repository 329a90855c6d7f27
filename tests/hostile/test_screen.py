"""What others wrote, on the user's terminal."""

from __future__ import annotations

import io

from launch.cli.output import write

BAD = "agent\x1b]52;c;aGk=\x07\x1b[2J\x9b1A"


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_line_is_made_harmless_on_a_terminal_and_kept_in_a_pipe() -> None:
    screen, pipe = _Screen(), io.StringIO()
    write(BAD, screen)
    write(BAD, pipe)
    assert screen.getvalue() == "agent1A\n"
    assert pipe.getvalue() == f"{BAD}\n"
