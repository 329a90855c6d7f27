"""Headers that a publisher made up: only the server speaks for the server, and each job gets its end."""

from __future__ import annotations

import pytest

from launch.subjects import JobId
from tests.hostile.lab import GOOD, open_hostile

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
        await hostile.wire.publish(subject, GOOD)
        await hostile.wire.settled()
        await hostile.emptied(10)
        ends = [record.state for record in await hostile.broker.records.list(queue_name)]
    assert "succeeded" in ends
    assert all(state.terminal for state in ends)


@pytest.mark.parametrize("line", [b"Status: 404", b"Status: x"])
async def test_a_job_with_a_forged_status_is_seen_by_who_looks(nats_url: str, queue_name: str, line: bytes) -> None:
    """The scaler looks at what waits: one message must not hide those behind it."""
    from launch.adapters.nats import connect
    from launch.queue import QueueSpec
    from tests.hostile.lab import Wire

    broker, wire = await connect(nats_url, name="test"), await Wire.open(nats_url)
    await broker.queues.apply(QueueSpec.model_validate({"queue_name": queue_name, "provider": {"type": "local"}}))
    await wire.publish(f"queue.{queue_name}.train", GOOD, b"NATS/1.0\r\n" + line + b"\r\n\r\n")
    await wire.publish(f"queue.{queue_name}.train", GOOD)
    await wire.settled()
    try:
        assert [message.job.seq for message in await broker.jobs.peek(queue_name, 10)] == [1, 2]
        found = await broker.jobs.get(JobId(queue_name, 1))
        assert found is not None
        assert found.body == GOOD
    finally:
        await wire.close()
        await broker.queues.delete(queue_name)
        await broker.close()
