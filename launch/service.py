"""The shell of every long-lived process: one event loop, and a stop in two stages.

The first SIGINT or SIGTERM asks for a drain (`Stop.drain`), the second says to leave now (`Stop.abort`), the third ends
the process on the spot. Each stage says on stderr what happens and what one more signal would do. The invariant: a
service that heeds both events ends by itself, with exit code 0 after a drain and 128 + signal after an abort.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Stop:
    """How far the stop has come. `drain`: finish what is held, take nothing new. `abort`: leave now."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    abort: asyncio.Event = field(default_factory=asyncio.Event)
    signum: int | None = None
    """The signal that came last."""


Main = Callable[[Stop], Awaitable[int]]


def run_service(main: Main, *, drains: str = "finishing what runs", leaves: str = "leaving now") -> int:
    """Run `main` until it returns; the exit code for the process.

    `drains` and `leaves` are the words for what this service does at each stage. `main`'s own code counts unless it is
    0 and the stop was an abort.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(main, drains, leaves))


async def _serve(main: Main, drains: str, leaves: str) -> int:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def heard(signum: int) -> None:
        stop.signum = signum
        if not stop.drain.is_set():
            stop.drain.set()
            _say(f"stopping: {drains} ({_again(signum)} to leave now)")
        elif not stop.abort.is_set():
            stop.abort.set()
            _say(f"stopping: {leaves} ({_again(signum)} to end at once)")
        else:
            _say("ended at once")
            os._exit(128 + signum)

    for signum in SIGNALS:
        loop.add_signal_handler(signum, heard, signum)
    try:
        code = await main(stop)
    finally:
        for signum in SIGNALS:
            loop.remove_signal_handler(signum)
    if code == 0 and stop.abort.is_set() and stop.signum is not None:
        return 128 + stop.signum
    return code


def _again(signum: int) -> str:
    return "Ctrl-C again" if signum == signal.SIGINT and sys.stderr.isatty() else "a second signal"


def _say(text: str) -> None:
    sys.stderr.write(f"launch: {text}\n")
    sys.stderr.flush()
