"""Headers that a publisher made up: only the server speaks for the server, and each job gets its end."""

from __future__ import annotations

import asyncio

import pytest

from launch.adapters.nats import connect
from launch.adapters.nats.tolerant import TolerantClient
from launch.subjects import JobId
from tests.hostile.lab import GOOD, Wire, open_hostile, queue_spec

pytestmark = pytest.mark.nats

FORGED = [
    b"Status: 503",
    b"Status: 404",
    b"Status: 409",
    b"Status: 100",
    b"Status: not a number",
    "Status: ٤٠٤".encode(),
    b"Status: " + b"9" * 5000,
    b"Nats-Sequence: x",
    b"Nats-Subject: queue.other.train",
    b"Nats-Rollup: all",
    b"Nats-Schedule: @every 1s",
    b"KV-Operation: DEL",
    b"Nats-Marker-Reason: MaxAge",
    b"Launch-Attempt: 7",
    b"no colon",
    b": no name",
    b"\xff\xfe: \xff",
]
FIRST_LINES = [
    b"NATS/1.0 503",
    b"NATS/1.0 404 No Messages",
    b"NATS/1.0 \xff\xff\xff",
    b"NATS/1.0 \xd9\xa1\xd9\xa2\xd9\xa3",
]
BLOCKS = [
    *(b"NATS/1.0\r\n" + line + b"\r\n\r\n" for line in FORGED),
    *(line + b"\r\n\r\n" for line in FIRST_LINES),
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"\xff" * 12,
]
"""A block of one byte is left out: it ends the nats-server itself (2.15.1) where a stream republishes."""


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: repr(block[:40]))
async def test_a_job_with_forged_headers_gets_its_end_and_hides_no_other(
    nats_url: str, queue_name: str, block: bytes
) -> None:
    subject = f"queue.{queue_name}.train"
    async with open_hostile(nats_url, queue_name) as hostile:
        await hostile.wire.publish(subject, GOOD, block)
        await hostile.wire.settled()
        # The stream stores in turn, so what was sent before this answer is stored, too.
        await hostile.broker.jobs.publish(queue_name, "train", GOOD)
        await hostile.emptied(10)
        ends = [record.state for record in await hostile.broker.records.list(queue_name)]
    assert "succeeded" in ends
    assert all(state.terminal for state in ends)


ODD = [
    *(block for block in BLOCKS if b"Rollup" not in block and b"Schedule" not in block),  # those the server refuses
    b"NATS/1.0x\r\nStatus: 404\r\n\r\n",
    b"NATS/1.0abStatus: 404\r\n\r\n",
    b"NATS/1.0abStatus: 404\r\na: b\r\n\r\n",
    b"NATS/1.0 404\r\n\r\nx: y\r\n\r\nz\r\n",
    b"NATS/1.0\r\nNats-Subject: queue.other.train\r\nNats-Sequence: 1\r\nNats-Time-Stamp: x\r\n\r\n",
    b"xy",
    b"\r\n\r\n",
    bytes(range(256)),
]


async def test_no_header_hides_a_job_from_who_looks_or_listens(nats_url: str, queue_name: str) -> None:
    """The scaler looks at what waits, and is told of what comes: no message may hide itself or those behind it."""
    broker, wire = await connect(nats_url, name="test"), await Wire.open(nats_url)
    await broker.queues.apply(queue_spec(queue_name))
    notices = broker.jobs.notices(queue_name)
    first = asyncio.create_task(anext(notices))
    try:
        assert await asyncio.wait_for(first, 10) is None, "listening"
        for block in ODD:
            await wire.publish(f"queue.{queue_name}.train", GOOD, block)
        await wire.settled()
        last = await broker.jobs.publish(queue_name, "train", GOOD)  # stored behind all of them
        numbers = list(range(1, len(ODD) + 2))
        assert last.job.seq == numbers[-1]
        found = await broker.jobs.peek(queue_name, 100)
        assert [message.job.seq for message in found] == numbers
        assert {message.consumer.job_type for message in found} == {"train"}
        assert all(message.published_at.year > 2000 for message in found)
        for number in numbers:
            one = await broker.jobs.get(JobId(queue_name, number))
            assert one is not None
            assert (one.job.seq, one.body) == (number, GOOD)
        heard = [await asyncio.wait_for(anext(notices), 10) for _ in numbers]
        assert [job and job.seq for job in heard] == numbers
    finally:
        await notices.aclose()
        await wire.close()
        await broker.queues.delete(queue_name)
        await broker.close()


@pytest.mark.parametrize("block", [b"NATS/1.0abStatus: 404\r\n\r\n", b"NATS/1.0x\r\nStatus: 404\r\n\r\n", *BLOCKS])
async def test_a_status_stands_in_the_first_line_or_nowhere(block: bytes) -> None:
    found = await TolerantClient()._process_headers(block) or {}
    assert ("Status" in found) == block.startswith((b"NATS/1.0 503", b"NATS/1.0 404"))
