"""One agent as a process of its own, whose memory can be measured: `python -m tests.hostile.fuzzed URL QUEUE`.

All of it is the real thing but the engine: thousands of payloads are about what comes before a container.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from launch.adapters.nats import connect
from tests.hostile.lab import agent_of, queue_spec

READY = "ready"


async def main(url: str, queue: str) -> None:
    """Work until SIGTERM."""
    own = await connect(url, name="agent", ack_wait_s=5.0)
    agent, _ = await agent_of(own, queue_spec(queue))
    stop, abort = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, abort.set)
    # Its log goes to stdout, which nobody may be reading.
    sys.stderr.write(f"{READY}\n")
    sys.stderr.flush()
    await agent.run(stop, abort)
    await own.close()


def resident_bytes(pid: int, what: str = "VmRSS") -> int:
    """What a process holds of memory (Linux); `VmHWM`: the most that it held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {what} of process {pid}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
