"""Raw payloads by a seeded generator on the real agent and server: each ends in a record, and the agent goes on.

`LAUNCH_FUZZ_JOBS=5000 LAUNCH_FUZZ_SEED=7` makes it longer, and another.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.hostile.lab import GOOD, IMAGE, open_hostile

JOBS = int(os.environ.get("LAUNCH_FUZZ_JOBS", "150"))
SEED = int(os.environ.get("LAUNCH_FUZZ_SEED", "1"))
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


@pytest.mark.nats
@pytest.mark.timeout(60 + JOBS)
async def test_no_payload_ends_the_agent(nats_url: str, queue_name: str) -> None:
    chance = random.Random(SEED)  # noqa: S311  (repeatable, no secret)
    async with open_hostile(nats_url, queue_name) as hostile:
        for _ in range(JOBS):
            await hostile.wire.publish(f"queue.{queue_name}.train", body(chance))
        await hostile.wire.publish(f"queue.{queue_name}.train", GOOD)
        await hostile.wire.settled()
        await hostile.emptied(20 + JOBS / 5)
        records = await hostile.broker.records.list(queue_name)
    assert len(records) == JOBS + 1
    assert all(record.state.terminal for record in records)
    assert records[-1].state == "succeeded"
