"""Raw payloads by a seeded generator on the real agent and server: each ends in a record, and the agent goes on.

`LAUNCH_FUZZ_JOBS=5000 LAUNCH_FUZZ_SEED=7` makes it longer, and another.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from launch.adapters.nats import NatsBroker, connect
from launch.subjects import JobId
from tests.hostile.fuzzed import READY, resident_bytes
from tests.hostile.lab import GOOD, IMAGE, Wire, queue_spec

ROOT = Path(__file__).parents[2]

JOBS = int(os.environ.get("LAUNCH_FUZZ_JOBS", "150"))
SEED = int(os.environ.get("LAUNCH_FUZZ_SEED", "1"))
WARM_UP = 50
LARGEST = b"[" * (1024**2 - 512)
"""As much as the server takes in one message."""
SLACK_BYTES = 64 * 1024**2
"""Generous: what is looked for grows with the number of payloads."""
NAMES = [b"Status", b"Description", b"Nats-Msg-Id", b"Nats-Expected-Stream", b"", b"x" * 300, b"\xff"]
VALUES = [
    "1e400",
    "NaN",
    "-0",
    "1e308",
    "1" * 5000,
    str(2**80),
    '"\\u0000"',
    '"\\ud800"',
    "[]",
    "{}",
    "null",
    '"../.."',
]
KEYS = [
    "image",
    "command",
    "env",
    "workdir",
    "user",
    "timeout",
    "retries",
    "resources",
    "labels",
    "inputs",
    "code",
    "x",
]
WHOLE = [
    b"",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xef\xbb\xbf" + GOOD,
    b"\xff\xfe",
    b"null",
    b"x" * 262_145,
    b'{"image":"a","image":"b"}',
]


def body(chance: random.Random) -> bytes:
    """One payload: bytes, a spec with strange values, or a good one with bytes changed."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(WHOLE)
    if kind == 1:
        return chance.randbytes(chance.randrange(300))
    if kind == 2:
        broken = bytearray(GOOD)
        broken[chance.randrange(len(broken))] = chance.randrange(256)
        return bytes(broken)
    pairs = "".join(f',"{chance.choice(KEYS)}":{chance.choice(VALUES)}' for _ in range(chance.randrange(1, 4)))
    return f'{{"image":"{IMAGE}"{pairs}}}'.encode()


def headers(chance: random.Random) -> bytes:
    """One header block, mostly none. Never of one byte: that ends the nats-server itself (2.15.1)."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(2, 200))
    if kind == 1:
        names = [chance.choice(NAMES) for _ in range(chance.randrange(4))]
        return b"NATS/1.0\r\n" + b"".join(b"%b: %b\r\n" % (name, chance.randbytes(8)) for name in names) + b"\r\n"
    return b""


async def waiting(broker: NatsBroker, queue: str) -> list[tuple[JobId, bytes, object]]:
    """What is still there, for who looks into it."""
    there = await broker.jobs.peek(queue, 5)
    known = [await broker.records.get(message.job) for message in there]
    return [
        (message.job, message.body[:300], known and known.value.model_dump(exclude_none=True, exclude={"raw"}))
        for message, known in zip(there, known, strict=True)
    ]


@pytest.mark.nats
@pytest.mark.timeout(120 + JOBS)
async def test_no_payload_ends_the_agent_or_stays_in_its_memory(nats_url: str, queue_name: str) -> None:
    chance = random.Random(SEED)  # noqa: S311  (repeatable, no secret)
    broker, wire = await connect(nats_url, name="test"), await Wire.open(nats_url)
    await broker.queues.apply(queue_spec(queue_name))
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile.fuzzed", nats_url, queue_name, stdout=DEVNULL, stderr=PIPE, cwd=ROOT
    )
    subject = f"queue.{queue_name}.train"
    try:
        assert agent.stderr is not None
        assert (await asyncio.wait_for(agent.stderr.readline(), 30)).strip() == READY.encode()

        async def emptied() -> None:
            until_s = asyncio.get_running_loop().time() + 30 + JOBS / 20
            while (await broker.jobs.depth(queue_name)).messages:
                assert agent.returncode is None, "the agent ended"
                assert asyncio.get_running_loop().time() < until_s, await waiting(broker, queue_name)
                await asyncio.sleep(0.1)

        for _ in range(WARM_UP):
            await wire.publish(subject, body(chance), headers(chance))
        await wire.publish(subject, LARGEST)
        await wire.settled()
        await emptied()
        before = resident_bytes(agent.pid)
        for _ in range(JOBS):
            await wire.publish(subject, body(chance), headers(chance))
        for _ in range(JOBS // 50):
            await wire.publish(subject, LARGEST)
        await wire.settled()
        good = await broker.jobs.publish(queue_name, "train", GOOD)
        await emptied()
        after, most = resident_bytes(agent.pid), resident_bytes(agent.pid, "VmHWM")
        records = await broker.records.list(queue_name)
        agent.terminate()
        assert await asyncio.wait_for(agent.wait(), 20) == 0, "the same process from first to last, and it leaves well"
    finally:
        if agent.returncode is None:
            agent.kill()
        await wire.close()
        await broker.queues.delete(queue_name)
        await broker.close()
    told = f"{JOBS} payloads, seed {SEED}: {before >> 10} KiB before, {after >> 10} after, {most >> 10} at most"
    print(told)  # noqa: T201  (for who runs many)
    assert good.job.seq > JOBS * 0.9, "the server itself refuses few of them"
    assert len(records) == good.job.seq
    assert all(record.state.terminal for record in records)
    assert records[-1].state == "succeeded"
    assert after < before * 1.5 + SLACK_BYTES, told
    assert most < before * 2 + SLACK_BYTES, told
