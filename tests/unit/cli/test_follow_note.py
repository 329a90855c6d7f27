"""The note on what a followed job waits for."""

import pytest

from launch.cli.follow import Waiting, with_bar


def said(capsys: pytest.CaptureFixture[str], *texts: str) -> list[str]:
    waiting = Waiting()
    for text in texts:
        waiting.show(text)
    return [line.removeprefix("launch: ") for line in capsys.readouterr().err.splitlines()]


def test_a_time_that_goes_on_is_no_news_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    first = "q/1 is queued: 2 ahead of it; i-0ab booting since 9.8 s, usually 70 s"
    later = "q/1 is queued: 2 ahead of it; i-0ab booting since 41 s, usually 70 s"
    minutes = "q/1 is queued: 2 ahead of it; i-0ab booting since 3m20s, usually 70 s"
    nearer = "q/1 is queued: 1 ahead of it; i-0ab booting since 3m25s, usually 70 s"
    other = "q/1 is queued: 1 ahead of it; i-1 booting since 3m25s, usually 70 s"
    assert said(capsys, first, later, minutes, nearer, nearer, other) == [first, nearer, other]


def test_a_pull_has_a_bar_and_nothing_else_has() -> None:
    text = "q/1 is preparing: pulling ghcr.io/x/tool:1: 34 % of 1.2Gi"
    assert with_bar(text) == "█" * 6 + "░" * 14 + " " + text
    assert with_bar("q/1 is preparing: pulling x:1") == "q/1 is preparing: pulling x:1"
