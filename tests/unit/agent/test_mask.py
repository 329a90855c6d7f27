"""The mask on secrets: nothing of a value is left, nothing else is touched, no byte moves."""

import base64
import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.mask import Mask, too_short

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"
KEY = 'p/a+s s"wö\trd'

# Few letters, so that values occur, overlap and contain one another; no '*', which stays what it is.
letters = st.text(alphabet="ab", min_size=0, max_size=9)
values = st.lists(letters, max_size=4)
outputs = st.lists(st.text(alphabet="ab\n\r x", max_size=40) | values.map("".join), max_size=60).map("".join)


def covered(value: str, output: str) -> set[int]:
    """The places of every occurrence, overlapping ones too."""
    starts = [at for at in range(len(output)) if output.startswith(value, at)]
    return {place for at in starts for place in range(at, at + len(value))}


@given(values, outputs)
def test_exactly_the_values_are_covered(given_values: list[str], output: str) -> None:
    masked = Mask(given_values)(output.encode()).decode()
    long_enough = [value for value in given_values if len(value) >= 4]
    hidden = {place for value in long_enough for place in covered(value, output)}
    assert masked == "".join("*" if at in hidden else letter for at, letter in enumerate(output))


@given(st.lists(st.text(max_size=20), max_size=3), st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_any_text_in_any_bytes_is_gone_and_no_byte_has_moved(texts: list[str], around: list[bytes]) -> None:
    output = b"".join(piece + text.encode() for piece, text in zip(around, [*texts, *[""] * 4], strict=False))
    masked = Mask(texts)(output)
    assert len(masked) == len(output)
    assert [at for at, byte in enumerate(masked) if byte in b"\r\n"] == [
        at for at, byte in enumerate(output) if byte in b"\r\n"
    ]
    assert all(new in (old, ord("*")) for old, new in zip(output, masked, strict=True))
    for text in texts:
        if len(text.strip()) >= 4 and "*" not in text and len(text.splitlines()) == 1:
            assert text.strip().encode() not in masked


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=4, max_size=30))
def test_other_spellings_of_a_value_are_covered(value: str) -> None:
    if len(value.strip()) < 4 or len(value.splitlines()) != 1:
        return
    mask = Mask([value])
    spelled = {
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        urllib.parse.quote(value),
        urllib.parse.quote(value, safe=""),
        urllib.parse.quote_plus(value),
        base64.b64encode(value.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(value.encode()).decode().rstrip("="),
    }
    for form in spelled:
        assert mask(f"<{form}>".encode()) == b"<%b>" % (b"*" * len(form.encode()))
        assert len(form.encode()) <= mask.longest


def test_each_line_of_a_key_is_covered_on_its_own() -> None:
    mask = Mask([PEM])
    assert mask(b"x hkiG9w0BAQEFAASC y\r\n") == b"x **************** y\r\n"
    shown = mask(PEM.encode())
    assert [set(line) for line in shown.splitlines()] == [{ord("*")}] * 4
    assert [len(line) for line in shown.split(b"\n")] == [len(line) for line in PEM.encode().split(b"\n")]
    assert mask(json.dumps({"key": PEM}).encode()).strip(b'{}key": *') == b""


def test_a_short_line_of_a_value_is_left_alone() -> None:
    assert Mask(["begin\nthe-secret-line\nend"])(b"begin the-secret-line end") == b"begin *************** end"


def test_two_values_that_overlap_are_covered_together() -> None:
    assert Mask(["abcdef", "defghi"])(b"<abcdefghi>") == b"<*********>"
    assert Mask(["abcd", "abcdefgh"])(b"abcd abcdefgh") == b"**** ********"


def test_long_pieces_are_looked_through_as_short_ones_are() -> None:
    mask = Mask([KEY, "abcdefgh"])
    for size in (0, 500, 1020, 1024, 5000):
        assert mask(b"." * size + KEY.encode()) == b"." * size + b"*" * len(KEY.encode())


def test_without_values_nothing_is_touched() -> None:
    for mask in (Mask([]), Mask(["", "abc", " ab "])):
        assert not mask
        assert mask.longest == 0
        assert mask(b"abc ab") == b"abc ab"


def test_values_too_short_to_mask_are_named() -> None:
    assert too_short({"B": "abc", "A": "", "C": "abcd", "D": " abc\n"}) == ["A", "B", "D"]


def test_a_sentence_is_masked_too() -> None:
    assert Mask(["s3cret-ö"]).text("can't start: s3cret-ö") == "can't start: *********"


KEYS = [hashlib.sha256(name).hexdigest() for name in (b"one", b"two", b"three")]
BUNDLE = ["\n".join(base64.b64encode(hashlib.sha384(b"%d" % line).digest()).decode() for line in range(300))]

EVERY_BYTE = re.compile(rb"[0-9][^\x00-\xff]")
"""Looked for at every byte, and found nowhere."""
TIMES_AS_LONG = 6
"""As a search for that. Where this was written: the keys 0.7 times in lines and 0.1 in chunks, the bundle twice in
both, and a search of chunks for one form after the other 10 times."""


def took_s(look: Callable[[bytes], object], pieces: list[bytes]) -> float:
    began = time.thread_time()
    for piece in pieces:
        look(piece)
    return time.thread_time() - began


@pytest.mark.parametrize("piece_bytes", [100, 64 * 1024])
@pytest.mark.parametrize("secrets", [KEYS, BUNDLE], ids=["three keys", "a bundle of certificates"])
def test_clean_output_passes_about_as_fast_as_one_search_through_it(secrets: list[str], piece_bytes: int) -> None:
    text = b"2024-01-01 12:00:00 epoch 12 step 3456 loss=0.123456 accuracy=0.98765 learning_rate=0.00100 eta 5:31\n"
    output = text * 20_000
    pieces = [output[at : at + piece_bytes] for at in range(0, len(output), piece_bytes)]
    mask = Mask(secrets)
    # In turn, and the best of some, so that the machine's speed, which may change, is the same for both.
    rounds = [(took_s(mask, pieces), took_s(EVERY_BYTE.search, pieces)) for _ in range(5)]
    mask_s, search_s = map(min, zip(*rounds, strict=True))
    assert mask_s < TIMES_AS_LONG * search_s
    assert mask(secrets[0].encode() + text).endswith(text)
    assert set(mask(secrets[0].encode())) <= set(b"*\n")
