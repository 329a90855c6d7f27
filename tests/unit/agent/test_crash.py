"""The one line about a failure of our own code."""

from __future__ import annotations

import re

import pytest

from agent.core.crash import MESSAGE_KEPT, account_of
from agent.core.tar import TarParser
from launch.job import JobSpec


def raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_it_says_what_and_where_in_our_own_code() -> None:
    with pytest.raises(TypeError) as caught:
        TarParser().feed(3)  # type: ignore[arg-type]
    assert re.fullmatch(r"TypeError: .+, at agent\.core\.tar:\d+", account_of(caught.value))


def test_a_failure_deep_in_a_library_is_placed_where_we_called_it() -> None:
    with pytest.raises(Exception, match="JobSpec") as caught:
        JobSpec.model_validate(object())
    assert re.search(r", at tests\.unit\.agent\.test_crash:\d+$|, at launch\.\S+:\d+$", account_of(caught.value))


def test_a_group_is_its_first_error_and_one_line_is_enough() -> None:
    group = raised(ExceptionGroup("unhandled", [ExceptionGroup("inner", [raised(ValueError("one\ntwo"))])]))
    assert re.fullmatch(r"ValueError: one, at tests\.unit\.agent\.test_crash:\d+", account_of(group))


def test_an_error_without_words_or_trace_and_one_with_too_many() -> None:
    assert account_of(KeyError()) == "KeyError"
    assert account_of(ValueError("x" * 10_000)) == f"ValueError: {'x' * MESSAGE_KEPT}"
