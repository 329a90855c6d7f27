"""`launch scaler` as a process of its own, with what AWS takes minutes for cut short."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

# The command itself, told that instances are not billed for a minute at least, as EC2's are.
_COMMAND = """
from dataclasses import replace
import scaler.observe
scaler.observe.AWS = replace(scaler.observe.AWS, idle_least_s=0.3, billed_least_s={billed_s})
from launch.cli.main import main
main()
"""


def environment(folder: Path, nats_url: str, aws_url: str) -> dict[str, str]:
    """What a command finds both by; nothing of this process's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "AWS_", "XDG_"))}
    return {
        **kept,
        "HOME": str(folder),
        "LAUNCH_DATA_DIR": str(folder),
        "NATS_URL": nats_url,
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@asynccontextmanager
async def scaler_process(
    folder: Path, env: Mapping[str, str], *queues: str, billed_s: float = 0.0
) -> AsyncIterator[Process]:
    """From its start to the end of the block; what it says is appended to `scaler.log`."""
    named = [word for queue in queues for word in ("-q", queue)]
    with (folder / "scaler.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _COMMAND.format(billed_s=billed_s),
            "scaler",
            *named,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
