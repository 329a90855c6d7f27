"""`launch submit --many`: a job a line, from a file or a pipe, however many; what is stored is always told.

The invariant: whatever ends it, stdout has the ids of the jobs that this call stored, and stderr how to go on without a
double. No more than a batch of jobs is held in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from launch.bulk import BulkInterrupted, JobIds, how_to_go_on, submit_all
from launch.cli.asked import warn_of_secrets
from launch.cli.joblines import JobLines, Stop, Stopped, Unusable, laid_over
from launch.cli.output import counted, nobody_reads, note, write, write_json
from launch.cli.session import with_client
from launch.errors import BrokerUnavailable, LaunchError
from launch.job import JobSpec
from launch.ports import NewJob
from launch.queue import QueueSpec
from launch.specfile import build
from launch.subjects import Priority

if TYPE_CHECKING:
    from rich.status import Status

    from launch.client import Client

CHECKED_FIRST_BYTES = 16 * 2**20
"""A file that is not larger is checked as a whole before anything is sent: some seconds at most."""
STOP_S = 5.0
"""How long an interrupted call waits for the answer to what it has sent; asked again, it does not wait."""
METER_AFTER_S = 1.0
METER_EVERY_S = 0.2
NOTE_EVERY_S = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for; `defaults` is what it says of every job, as the tree of a spec."""

    queue: str
    source: Path
    defaults: dict[str, Any]
    priority: Priority
    msg_id: str | None
    skip: int
    as_json: bool
    folder: Path | None
    limit_bytes: int | None


def submit_many(ctx: typer.Context, server: str | None, asked: Asked) -> NoReturn:
    """Submit them all. Raises `LaunchError`, and `typer.Exit` if it was interrupted."""
    from launch.client import check_msg_id

    check_msg_id(asked.msg_id)
    build(JobSpec, {"image": "checked-later", **asked.defaults}, source="the command line")
    with JobLines.opened(asked.source, skip=asked.skip) as lines:
        raise typer.Exit(with_client(ctx, server, lambda client: _Submit(client, asked, lines).run()))


class _Submit:
    """One call."""

    def __init__(self, client: Client, asked: Asked, lines: JobLines) -> None:
        self.client = client
        self.asked = asked
        self.lines = lines
        self.msg_id = asked.msg_id or secrets.token_hex(8)
        self.stored = JobIds(asked.queue)
        self.warned: set[str] = set()

    @property
    def done(self) -> int:
        """How many of the lines' jobs are stored."""
        return self.asked.skip + len(self.stored)

    def again(self, error: Exception) -> str:
        """What goes on from there."""
        same = "the same command with the same lines" if self.lines.piped else "the same command"
        if not self.done and not isinstance(error, BrokerUnavailable):
            return same
        return f"{same} and --msg-id {self.msg_id} --skip {self.done}"

    async def run(self) -> int:
        """Returns the exit code."""
        asked = self.asked
        queue = await self.client.queue(asked.queue)
        if (size := self.lines.size_bytes) is not None and size <= CHECKED_FIRST_BYTES:
            async for _ in self.jobs(queue, asked.defaults, Stop()):
                pass
            self.lines.rewind()
        defaults = asked.defaults
        if asked.folder is not None:
            from launch.cli.shipping import shipped

            code = await shipped(self.client, asked.folder, asked.limit_bytes)
            defaults = {**defaults, "code": code.model_dump(exclude_unset=True)}
        if asked.msg_id is None:
            note(
                f"message id {self.msg_id}: within two minutes the same jobs with --msg-id {self.msg_id} are "
                "recognised, and not stored twice"
            )
        return await self.send(queue, defaults)

    async def send(self, queue: QueueSpec, defaults: dict[str, Any]) -> int:
        """Returns the exit code; says what is stored, whatever ends it."""
        stop = Stop()
        jobs = self.jobs(queue, defaults, stop)
        try:
            async with asyncio.timeout(None) as patience:
                with _interrupts(stop, patience), _Meter(self.asked.skip) as meter:
                    await submit_all(
                        self.client.broker,
                        self.stored,
                        jobs,
                        msg_id=self.msg_id,
                        skip=self.asked.skip,
                        progress=meter.show,
                    )
        except TimeoutError:
            late = BrokerUnavailable("stopped while NATS did not answer")
            self.tell_as_far_as_heard(late)
            note(
                f"{late}: stored the first {self.done} jobs, and the next ones may be; to go on, within two minutes: "
                f"{self.again(late)}"
            )
            return stop.exit_code
        except BulkInterrupted as interrupted:
            error = interrupted.__cause__ if isinstance(interrupted.__cause__, Exception) else interrupted
            self.tell_as_far_as_heard(error)
            if isinstance(error, Stopped):
                note(f"stopped: stored the first {self.done} jobs; to go on: {self.again(error)}")
                return stop.exit_code
            hint = how_to_go_on(error, self.again(error), done=self.done)
            if isinstance(error, Unusable):
                hint = error.hint or hint
            raise LaunchError(interrupted.message, hint=hint) from error
        self.tell(None)
        return 0

    async def jobs(self, queue: QueueSpec, defaults: dict[str, Any], stop: Stop) -> AsyncGenerator[NewJob]:
        """What is published, line by line; raises `SpecError`, which names the line."""
        from launch.client import new_job

        async for source, tree in self.lines.trees(stop):
            spec = build(JobSpec, laid_over(defaults, tree) if defaults else tree, source=source)
            warn_of_secrets(spec, self.warned)
            yield new_job(queue, spec, None, self.asked.priority, source=source)

    def tell_as_far_as_heard(self, error: Exception) -> None:
        """The same, when there is more to say: whoever reads the ids may have been ended by the same Ctrl-C."""
        try:
            self.tell(error)
        except BrokenPipeError:
            nobody_reads()

    def tell(self, error: Exception | None) -> None:
        """Print the ids of what is stored."""
        if self.stored.repeated:
            had = counted(self.stored.repeated, "job")
            note(f"{had} had been stored before with this message id; they were not stored again")
        spans = self.stored.spans()
        if self.asked.as_json:
            write_json(
                {
                    "queue": self.asked.queue,
                    "complete": error is None,
                    "error": None if error is None else getattr(error, "message", str(error)),
                    "jobs": len(self.stored),
                    "repeated": self.stored.repeated,
                    "done": self.done,
                    "msg_id": self.msg_id,
                    "ids": [{"first": str(a), "last": str(b), "jobs": b.seq - a.seq + 1} for a, b in spans],
                }
            )
        elif sys.stdout.isatty():
            for first, last in spans:
                write(str(first) if first == last else f"{first} to {last}")
            if error is None:
                note(f"submitted {counted(len(self.stored), 'job')}")
        else:
            sys.stdout.writelines(f"{job}\n" for job in self.stored)
            sys.stdout.flush()


@contextlib.contextmanager
def _interrupts(stop: Stop, patience: asyncio.Timeout) -> Iterator[None]:
    """Ctrl-C or SIGTERM lets what has been sent be answered, so that what is stored is known; a second one does not."""
    loop = asyncio.get_running_loop()

    def interrupted(number: int) -> None:
        patience.reschedule(loop.time() + (0.0 if stop.asked else STOP_S))
        stop.ask(128 + number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupted, number)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class _Meter:
    """How many, and how fast, for runs that take longer: on a terminal all the time, elsewhere a line a minute."""

    def __init__(self, skip: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._skip = skip
        self._begun_s = now()
        self._next_s = self._begun_s + (METER_AFTER_S if sys.stderr.isatty() else NOTE_EVERY_S)
        self._spinner: Status | None = None

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def show(self, done: int) -> None:
        """So many are stored."""
        now_s = self._now()
        if now_s < self._next_s:
            return
        text = f"stored {done:,} jobs, {(done - self._skip) / (now_s - self._begun_s):,.0f} a second"
        if not sys.stderr.isatty():
            self._next_s = now_s + NOTE_EVERY_S
            note(text)
            return
        self._next_s = now_s + METER_EVERY_S
        if self._spinner is None:
            from rich.console import Console

            self._spinner = Console(stderr=True).status(text)
            self._spinner.start()
        self._spinner.update(text)
