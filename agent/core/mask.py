"""Secrets' values out of a job's own output: every byte of one becomes a `*`.

Pure. The replacement has the length of what it replaces, so that a byte's position in the output stays what the engine
has it at: caps, resumed streams and "so many bytes after this frame" are counted in those. No form that is looked for
contains a line end, so line ends are never touched, and none is found in more than one line.

What is masked of a value: the value itself and the value without the white space around it, each line of a value of
several lines (a PEM key) that has at least `MIN_LINE` characters, and each of these as JSON and as URLs have them; and
the base64 of the whole value. What is not: a value of fewer than `MIN_VALUE` characters (it would be found in every
other word), a value cut in pieces, compressed, encrypted, hashed, reversed, or wrapped over lines by the job. Masking
keeps a secret from being printed by mistake; it can't keep it from a job that wants to give it away.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, quote_plus

MIN_VALUE: Final = 4
MIN_LINE: Final = 6
SHORT_BYTES: Final = 1024
"""In pieces up to this size one search for all forms is faster than one for each, which in longer ones runs at memory
speed."""
MANY: Final = 100
"""Of more forms than this, as a bundle of certificates has, one search for all is faster in pieces of any size."""
HEAD_BYTES: Final = 16


class Mask:
    """Replaces the given values, and the other forms of them, wherever they occur in a piece of output.

    `longest` is the size of the longest form in bytes (0 if there is nothing to mask): who cuts output into pieces has
    to keep the last `longest - 1` bytes of an unfinished line back, since a value may begin there.
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form.encode() for value in values for form in _forms(value)}
        self.longest: int = max(map(len, forms), default=0)
        # Whatever contains any form contains one of these: the others need not be looked for in clean output.
        self._shortest = tuple(form for form in forms if not any(other in form for other in forms if other != form))
        self._any = _any_of(self._shortest) if forms else None
        # Of several forms that begin at one place the longest is found, and covers the others.
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))

    def __bool__(self) -> bool:
        return self.longest > 0

    def __call__(self, data: bytes) -> bytes:
        """The same number of bytes, without the values."""
        if self._any is None:
            return data
        if len(data) < SHORT_BYTES or len(self._shortest) > MANY:
            return data if self._any.search(data) is None else self._masked(data)
        for form in self._shortest:
            if form in data:
                return self._masked(data)
        return data

    def text(self, text: str) -> str:
        """The same for a sentence: an engine's error may quote what it was given."""
        return self(text.encode(errors="replace")).decode(errors="replace")

    def _masked(self, data: bytes) -> bytes:
        """Cover the union of all occurrences: two values may overlap, and half of one is too much."""
        masked = bytearray(data)
        found = self._pattern.search(data)
        while found is not None:
            start, end = found.span()
            masked[start:end] = b"*" * (end - start)
            found = self._pattern.search(data, start + 1)
        return bytes(masked)


def _any_of(forms: Iterable[bytes]) -> re.Pattern[bytes]:
    """Finds a place where one of them is.

    A plain alternation tries each form at each byte. Here classes of bytes come first, which few places of a text pass,
    the fewer the longer the shortest form is. (Two to three times as fast with ten secrets or a PEM key, and no slower
    with one.)
    """
    sorted_forms = sorted(forms)
    size = min(HEAD_BYTES, *map(len, sorted_forms))
    heads = (sorted({form[at : at + 1] for form in sorted_forms}) for at in range(size))
    classes = b"".join(b"[" + b"".join(map(re.escape, head)) + b"]" for head in heads)
    rests = (b"(?<=%b)%b" % (re.escape(form[:size]), re.escape(form[size:])) for form in sorted_forms)
    return re.compile(classes + b"(?:" + b"|".join(rests) + b")")


def too_short(values: Mapping[str, str]) -> list[str]:
    """The variables whose values are too short to be masked."""
    return sorted(name for name, value in values.items() if len(value.strip()) < MIN_VALUE)


def _forms(value: str) -> Iterator[str]:
    """Every form in which a value is looked for; none contains a line end."""
    whole = value.strip()
    if len(whole) < MIN_VALUE:
        return
    for part in {value, whole, *value.splitlines(), *(line.strip() for line in value.splitlines())}:
        if part not in (value, whole) and len(part) < MIN_LINE:
            continue
        spelled = {part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
        spelled |= {quote(part), quote(part, safe=""), quote(part, safe="!'()*"), quote_plus(part)}
        yield from (form for form in spelled if "\n" not in form and "\r" not in form)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # Some writers leave the padding out; where it is there, it tells nothing.
        yield encode(value.encode()).decode().rstrip("=")
