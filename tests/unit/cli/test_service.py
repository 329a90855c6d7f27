"""A service stops in stages, and its exit code says which."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from launch.service import run_service

async def main(stop):
    print("ready", flush=True)
    await stop.drain.wait()
    print("draining", flush=True)
    if sys.argv[1] == "drains":
        return 0
    await stop.abort.wait()
    print("leaving", flush=True)
    if sys.argv[1] == "leaves":
        return 0
    await asyncio.Event().wait()

sys.exit(run_service(main))
"""


@pytest.mark.parametrize(
    ("stage", "signals", "code"),
    [
        ("drains", [signal.SIGINT], 0),
        ("drains", [signal.SIGTERM], 0),
        ("leaves", [signal.SIGINT, signal.SIGINT], 130),
        ("leaves", [signal.SIGTERM, signal.SIGTERM], 143),
        ("hangs", [signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], 143),
    ],
)
def test_the_stages_of_a_stop(stage: str, signals: list[signal.Signals], code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, stage], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number, word in zip(signals, ("draining\n", "leaving\n", ""), strict=False):
        process.send_signal(number)
        if word:
            assert process.stdout.readline() == word
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert len(said.splitlines()) == len(signals)
    assert "Traceback" not in said
