r"""Text that others wrote, as people can safely look at it: what can't be seen is written out.

Pure. Escapes are Python's: a line break becomes `\n`, a mark that turns the direction of writing `\u202e`.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Marks that turn the direction of writing, break lines, or take no room; not joiners, which scripts and emoji need."""


def one_line(text: str) -> str:
    """On one line, and nothing in it that can't be seen: a name shows what it is made of."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def lines(text: str, indent: int = 0) -> str:
    """The same line by line, each but the first moved in by so many spaces: none can pass for another fact."""
    return f"\n{' ' * indent}".join(one_line(line.replace("\t", " ")) for line in text.split("\n"))


def unturned(text: str) -> str:
    """`text` with the marks written out that turn the direction of writing or take no room."""
    return text if text.isascii() else _UNSEEN.sub(lambda found: _escaped(found[0]), text)


def json_text(text: str) -> str:
    """JSON that means the same, with nothing in it that does something to a terminal.

    What is not printable stands within strings there, where an escape says the same.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_json_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else repr(char)[1:-1]


def _json_escaped(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
