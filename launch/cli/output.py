"""What goes to stdout and stderr: tables, JSON, a job's own lines, notes beside them.

On a terminal tables are coloured by rich; piped they are plain aligned columns. A job's output is passed on as it is
when piped; on a terminal its control sequences are taken out, but for colours, so that no log can rewrite the screen.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from launch.core.shown import json_text, one_line, unturned

if TYPE_CHECKING:
    from rich.table import Table

STATE_STYLES = {
    "queued": "yellow", "preparing": "cyan", "running": "bold cyan", "succeeded": "green", "failed": "bold red",
    "cancelled": "magenta", "ready": "green", "draining": "yellow", "drained": "magenta", "paused": "yellow",
}  # fmt: skip

_ESCAPES = re.compile(
    r"(\x1b\[[0-9;:]*m)"  # colours: kept
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # other control sequences
    r"|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links, device strings
    r"|\x1b[ -/]*[0-~]?"  # other escapes
    r"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)


def harmless(text: str) -> str:
    """`text` without the control sequences that do more than colour; tabs and carriage returns stay.

    Marks that turn the direction of writing, or can't be seen, are written out.
    """
    return unturned(_ESCAPES.sub(lambda match: match[1] or "", text))


def write(text: str, stream: TextIO | None = None) -> None:
    """One line, at once. On a terminal nothing in it does more than colour; piped it is as it is."""
    stream = stream or sys.stdout
    stream.write(f"{harmless(text) if stream.isatty() else text}\n")
    stream.flush()


def note(text: str) -> None:
    """A line for people, on stderr, beside what a command prints."""
    write(f"launch: {text}", sys.stderr)


def nobody_reads() -> None:
    """After a `BrokenPipeError`: keep the interpreter from complaining at its exit of what it can't write any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_json(value: Any) -> None:
    """Indented, as UTF-8 text; on a terminal, too, it means exactly what it is."""
    write(as_json(value, indent=2))


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as UTF-8 text, with all that can't be seen as escapes."""
    return json_text(json.dumps(value, indent=indent, ensure_ascii=False))


def write_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, spare: Sequence[str] = ()
) -> None:
    """A table on stdout; `empty` goes to stderr if there are no rows. `spare`: as in `narrowed`."""
    rows = [list(map(one_line, row)) for row in rows]
    if not rows:
        note(empty)
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(rich_table(*narrowed(columns, rows, console.width, spare=spare)))
    else:
        for line in plain_table(columns, rows):
            write(line)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned by spaces, header first; an empty cell is `-`, so that every line has as many words."""
    cells = [[name.upper() for name in columns], *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """The same for a terminal; states are coloured."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        folds = name in ("id", "job", "queue", "agent")
        table.add_column(name, overflow="fold" if folds else "ellipsis", no_wrap=name in ("state", "exit"))
    for row in rows:
        table.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    return table


def narrowed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, spare: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """As much of a table as is `width` wide: the columns in `spare` are left out, the first first, where it is not."""
    from rich.cells import cell_len

    cells = [list(columns), *map(list, rows)]
    for name in spare:
        widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
        index = cells[0].index(name)
        cells = [[*row[:index], *row[index + 1 :]] for row in cells]
    return cells[0], cells[1:]


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(then: datetime | None, now: datetime | None = None) -> str:
    """How long ago, for people; empty if never."""
    from launch.core.quantity import show_duration

    if then is None:
        return ""
    return show_duration(max(0.0, ((now or datetime.now(UTC)) - then).total_seconds()))
