"""What goes on in the queues of `launch up`: a live table on a terminal, a line for each change when piped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from launch.cli.output import harmless, rich_table, write
from launch.cli.queue import counts
from launch.cli.watch import REDRAW_S, changes
from launch.errors import BrokerUnavailable, NotFound

if TYPE_CHECKING:
    from rich.live import Live

    from launch.client import Client

COLUMNS = ("queue", "state", "queued", "running", "agents")


class Status:
    """Counts of some queues, renewed whenever a job or an agent comes or goes; and a place to say lines above them."""

    def __init__(self, client: Client, queues: Sequence[str]) -> None:
        self._client = client
        self._queues = queues
        self._live: Live | None = None
        self._said: dict[str, tuple[str, ...]] = {}

    def say(self, line: str) -> None:
        """One line, above the table if there is one."""
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(harmless(line)))
        else:
            write(line)

    async def run(self) -> None:
        """Keep showing until cancelled."""
        broker = self._client.broker
        sources = [broker.agents.watch(), *(broker.jobs.notices(queue) for queue in self._queues)]
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()
        try:
            async with changes(sources) as changed:
                while True:
                    await changed.wait()
                    changed.clear()
                    with suppress(BrokerUnavailable):
                        self._draw([await self._row(queue) for queue in self._queues])
                    await asyncio.sleep(REDRAW_S)
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None

    async def _row(self, queue: str) -> tuple[str, ...]:
        try:
            status = await self._client.queue_status(queue)
        except NotFound:
            return queue, "deleted", "0", "0", "0"
        agents = await self._client.agents(queue)
        queued, running = counts(status, agents)
        return queue, "paused" if status.paused else "ready", str(queued), str(running), str(len(agents))

    def _draw(self, rows: list[tuple[str, ...]]) -> None:
        if self._live is not None:
            self._live.update(rich_table(COLUMNS, rows), refresh=True)
            return
        for row in rows:
            if self._said.get(row[0]) != row:
                self._said[row[0]] = row
                queue, state, queued, running, agents = row
                mood = "" if state == "ready" else f"{state}, "
                write(f"{queue}: {mood}queued {queued}, running {running}, agents {agents}")
