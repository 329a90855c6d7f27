"""Following a job to its end: its output where it belongs, and beside it, on stderr, what it waits for.

The job's stdout goes to stdout and its stderr to stderr; everything that launch itself says is on stderr.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from launch.cli.output import as_json, harmless, note, write
from launch.cli.session import exit_code
from launch.core.shown import one_line
from launch.errors import BrokerUnavailable

if TYPE_CHECKING:
    from rich.status import Status

    from launch.client import Client
    from launch.handle import Job
    from launch.lines import LogLine
    from launch.record import JobRecord

LOOK_AGAIN_S = 1.0
"""Agents renew their presence all the time: look at most this often whether the explanation has changed."""
LOOK_EVERY_S = 5.0
"""Look at least this often while the job waits: what the scaler tells is no event here, and times go on."""

BAR_CELLS = 20
_PERCENT = re.compile(r" pulling \S+: (\d{1,3}) % of ")
_TIMES = re.compile(r"\b\d+(\.\d+)? s\b|\b(\d+[dhm])?\d+(\.\d+)?[hms]\b")


async def follow_job(client: Client, job: Job) -> int:
    """Show output and waiting until the job is over; its exit code."""
    waiting = Waiting()
    async with asyncio.TaskGroup() as group:
        explaining = group.create_task(_explain(client, job, waiting), name="explain")
        async with aclosing(job.logs()) as lines:
            await print_lines(lines, waiting)
        explaining.cancel()
    record = await job.wait()  # known since the output's end: the server may be gone by now
    note(summary(record))
    return exit_code(record)


def summary(record: JobRecord) -> str:
    """How it ended, in one line."""
    from launch.core.quantity import show_duration

    text = f"{record.id} {record.state}"
    if record.started_at and record.finished_at:
        text += f" after {show_duration((record.finished_at - record.started_at).total_seconds())}"
    if record.attempt > 1:
        text += f" in attempt {record.attempt}"
    told = [part for part in (record.reason and str(record.reason), record.message) if part]
    if told and record.state != "succeeded":
        text += f": {': '.join(told)}"
    return harmless(text)


def with_bar(text: str) -> str:
    """The same with a bar in front where it says how far a pull is."""
    match = _PERCENT.search(text)
    if match is None:
        return text
    full = min(100, int(match[1])) * BAR_CELLS // 100
    return f"{'█' * full}{'░' * (BAR_CELLS - full)} {text}"


class Waiting:
    """The note on what a job waits for: a spinner on a terminal, a line for each change otherwise."""

    def __init__(self) -> None:
        self._spinner: Status | None = None
        self._last = ""

    def show(self, text: str) -> None:
        """Say this, unless it was said last."""
        if text == self._last:
            return
        only_time = _TIMES.sub("", text) == _TIMES.sub("", self._last)
        self._last = text
        if not sys.stderr.isatty():
            if not only_time:
                note(text)
            return
        if self._spinner is None:
            from rich.console import Console
            from rich.text import Text

            self._spinner = Console(stderr=True).status(Text(with_bar(text)))
            self._spinner.start()
        else:
            from rich.text import Text

            self._spinner.update(Text(with_bar(text)))

    def hide(self) -> None:
        """Make room for output."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
        self._last = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """Which lines are shown, and how: as they are, after their time, or as JSON objects (all of them on stdout)."""

    grep: re.Pattern[str] | None = None
    timestamps: bool = False
    json: bool = False


async def print_lines(
    lines: AsyncGenerator[LogLine],
    waiting: Waiting | None = None,
    *,
    attempt: int | None = None,
    shown: Shown = Shown(),
) -> bool:
    """Write lines as they come; those of any attempt but the first, or `attempt`, after a line that says so.

    Says whether there was any.
    """
    current = attempt
    coloured = printed = cut = False
    try:
        async for line in lines:
            if shown.grep is not None and shown.grep.search(line.text) is None:
                continue
            if waiting:
                waiting.hide()
            printed = True
            if current is not None and line.attempt != current and not shown.json:
                if cut and sys.stderr.isatty():
                    sys.stderr.write("\n")  # the last attempt's output ended within a line
                note(f"--- attempt {line.attempt} ---")
            current = line.attempt
            if shown.json:
                write(as_json(asdict(line)))
                continue
            stream = sys.stderr if line.source == "stderr" else sys.stdout
            text = f"{line.time} {line.text}" if shown.timestamps else line.text
            if stream.isatty():
                text = harmless(text)
                coloured = coloured or "\x1b" in text
            cut = line.partial and stream.isatty()
            stream.write(text if line.partial else f"{text}\n")
            stream.flush()
    finally:
        if waiting:
            waiting.hide()
            if cut and sys.stderr.isatty():
                sys.stderr.write("\n")  # more is said behind this
        if coloured:
            sys.stderr.write("\x1b[0m")
    return printed


async def _explain(client: Client, job: Job, waiting: Waiting) -> None:
    """Keep the note true while the job is queued or being prepared."""
    changed = asyncio.Event()
    latest: JobRecord | None = None

    async def hear_of_job() -> None:
        nonlocal latest
        async with aclosing(job.changes()) as changes:
            async for record in changes:
                latest = record
                changed.set()

    async def hear_of_agents() -> None:
        async with aclosing(client.broker.agents.watch()) as watch:
            async for _ in watch:
                changed.set()

    async with asyncio.TaskGroup() as group:
        ears = [group.create_task(hear_of_job(), name="job"), group.create_task(hear_of_agents(), name="agents")]
        while latest is None or not latest.state.terminal:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await changed.wait()
            changed.clear()
            record = latest
            if record is None:
                continue
            try:
                why = await job.why(record)
            except BrokerUnavailable:
                continue  # what was said last may still be true; the next look tells
            if record is not latest:
                continue  # it has moved on meanwhile, so this is no longer true; `changed` is set again
            if why is None:
                waiting.hide()
            else:
                waiting.show(f"{job.id} is {record.state}: {one_line(str(why))}")
                await asyncio.sleep(LOOK_AGAIN_S)
        for ear in ears:
            ear.cancel()
