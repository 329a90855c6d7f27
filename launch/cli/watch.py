"""Live views: what changes on the broker, seen as it happens. A table on a terminal, a line a change when piped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from launch.cli.output import narrowed, rich_table, write
from launch.core.shown import one_line

if TYPE_CHECKING:
    from rich.console import ConsoleDimensions, Group

    from launch.client import Client
    from launch.core.states import State

REDRAW_S = 0.2
"""However much changes, a view is drawn anew at most this often."""


@asynccontextmanager
async def changes(sources: Sequence[AsyncGenerator[Any]]) -> AsyncGenerator[asyncio.Event]:
    """An event that is set whenever one of the sources yields something."""
    changed = asyncio.Event()

    async def listen(source: AsyncGenerator[Any]) -> None:
        async with aclosing(source):
            async for _ in source:
                changed.set()

    async with asyncio.TaskGroup() as group:
        ears = [group.create_task(listen(source), name=f"watch-{index}") for index, source in enumerate(sources)]
        try:
            yield changed
        finally:
            for ear in ears:
                ear.cancel()


def jobs_table(rows: Sequence[Sequence[str]], size: ConsoleDimensions) -> Group:
    """As much of `launch jobs` as a terminal shows: the latest rows, and how many are older."""
    from rich.console import Group
    from rich.text import Text

    from launch.cli.jobs import JOB_COLUMNS, JOB_SPARE

    rows = [list(map(one_line, row)) for row in rows]
    room = max(1, size.height - 2)  # the header, and the line that the cursor is in
    older = 0 if len(rows) <= room else len(rows) - max(1, room - 1)
    table = rich_table(*narrowed(JOB_COLUMNS, rows[older:], size.width, spare=JOB_SPARE))
    return Group(*([Text(f"… and {older} older", style="dim")] if older else []), table)


async def watch_jobs(client: Client, queue: str | None, state: State | None, limit: int) -> None:
    """The table of `launch jobs`, kept true until the task is cancelled."""
    from rich.live import Live

    from launch.cli.jobs import job_row

    broker = client.broker
    queues = [queue] if queue else [spec.queue_name for spec in await client.queues()]
    sources = [broker.records.watch(queue=queue), *(broker.jobs.notices(name) for name in queues)]
    live = Live(auto_refresh=False) if sys.stdout.isatty() else None
    said: dict[str, tuple[str, ...]] = {}
    async with changes(sources) as changed:
        if live:
            live.start()
        try:
            while True:
                await changed.wait()
                changed.clear()
                rows = [job_row(record) for record in await client.jobs(queue, state, limit=limit)]
                if live:
                    live.update(jobs_table(rows, live.console.size), refresh=True)
                else:
                    # Ages pass by themselves: what counts as a change is id, state, reason, exit code, attempt, agent.
                    for row in rows:
                        if said.get(row[0]) != row[:7]:
                            said[row[0]] = row[:7]
                            write(" ".join(one_line(cell) or "-" for cell in row[:7]))
                await asyncio.sleep(REDRAW_S)
        finally:
            if live:
                live.stop()
