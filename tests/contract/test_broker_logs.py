"""Job output, by the text of `launch.ports.Logs`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from launch.ports import Broker, LogChunk
from launch.subjects import JobId
from tests.contract.broker_world import chunk


async def read(broker: Broker, job: JobId, *, after_seq: int = 0) -> list[LogChunk]:
    """What is stored now."""
    async with asyncio.timeout(10), aclosing(broker.logs.read(job, after_seq=after_seq)) as chunks:
        return [stored async for stored in chunks]


def unnumbered(chunks: Sequence[LogChunk]) -> list[LogChunk]:
    """The chunks as they were before they were stored."""
    return [replace(stored, seq=0) for stored in chunks]


async def test_a_job_without_output(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    assert await read(broker, job) == []
    assert await broker.logs.tail(job, 10) == []
    assert await broker.logs.last_seq(job) == 0


async def test_chunks_come_back_exactly_and_in_order(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    written = [
        chunk(b"one\ntwo\r\n"),
        chunk(bytes(range(256)) + b"\n", source="stderr"),
        chunk(b"\n", attempt=2),
        chunk("\u00e4\U0001f680".encode()[:-1], attempt=2),
        chunk(b"\x00\xff no end of line", source="stderr", attempt=2),
    ]
    await broker.logs.append(job, written[:2])
    await other.logs.append(JobId(queue, 11), [chunk(b"of another job\n")])
    await broker.logs.append(job, written[2:])
    stored = await read(other, job)
    assert unnumbered(stored) == written
    assert [c.seq for c in stored] == sorted({c.seq for c in stored})
    assert stored[0].seq > 0
    assert await other.logs.last_seq(job) == stored[-1].seq


async def test_nothing_to_append_is_fine(broker: Broker, queue: str) -> None:
    await broker.logs.append(JobId(queue, 1), [])
    assert await broker.logs.last_seq(JobId(queue, 1)) == 0


async def test_reading_goes_on_after_a_sequence(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    await broker.logs.append(job, [chunk(b"%d\n" % n) for n in range(10)])
    stored = await read(broker, job)
    assert await read(broker, job, after_seq=stored[3].seq) == stored[4:]
    assert await read(broker, job, after_seq=stored[-1].seq) == []
    assert await read(broker, job, after_seq=stored[-1].seq + 100) == []


async def test_the_largest_chunk_fits(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    data = b"x" * broker.logs.max_chunk_bytes
    await broker.logs.append(job, [chunk(data, source="stderr", attempt=999)])
    assert [c.data for c in await read(broker, job)] == [data]


async def test_many_chunks_keep_their_order(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    lines = [b"%05d\n" % n for n in range(1500)]
    for start in range(0, len(lines), 500):
        await broker.logs.append(job, [chunk(line) for line in lines[start : start + 500]])
    assert [c.data for c in await read(broker, job)] == lines


async def test_following_sees_what_was_and_what_comes(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    await other.logs.append(job, [chunk(b"before\n")])
    async with asyncio.timeout(10), aclosing(broker.logs.read(job, follow=True)) as following:
        assert (await anext(following)).data == b"before\n"
        await other.logs.append(JobId(queue, 2), [chunk(b"of another job\n")])
        await other.logs.append(job, [chunk(b"after\n"), chunk(b"more\n")])
        first, second = await anext(following), await anext(following)
        assert [first.data, second.data] == [b"after\n", b"more\n"]
        assert first.seq < second.seq


async def test_following_may_begin_before_the_output_does(broker: Broker, other: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    async with asyncio.timeout(10), aclosing(broker.logs.read(job, follow=True)) as following:
        first = asyncio.ensure_future(anext(following))
        await other.logs.append(job, [chunk(b"first\n")])
        assert (await first).data == b"first\n"


async def test_following_from_a_sequence_skips_what_is_known(broker: Broker, queue: str) -> None:
    job = JobId(queue, 1)
    await broker.logs.append(job, [chunk(b"1\n"), chunk(b"2\n"), chunk(b"3\n")])
    known = (await read(broker, job))[1].seq
    async with asyncio.timeout(10), aclosing(broker.logs.read(job, after_seq=known, follow=True)) as following:
        assert (await anext(following)).data == b"3\n"
        await broker.logs.append(job, [chunk(b"4\n")])
        assert (await anext(following)).data == b"4\n"


async def test_tail_holds_at_least_the_last_lines(broker: Broker, queue: str) -> None:
    job, noise = JobId(queue, 1), JobId(queue, 2)
    await broker.logs.append(job, [chunk(b"a1\na2\na3\n"), chunk(b"b1\nb2\n"), chunk(b"c1\nc2 without end")])
    await broker.logs.append(noise, [chunk(b"noise\n") for _ in range(20)])
    everything = await read(broker, job)
    assert await broker.logs.tail(job, 0) == []
    for lines in range(1, 12):
        tail = await broker.logs.tail(job, lines)
        assert tail == everything[-len(tail) :]
        text = b"".join(c.data for c in tail)
        wanted = b"".join(c.data for c in everything).splitlines(keepends=True)[-lines:]
        assert text.endswith(b"".join(wanted))


async def test_tail_finds_a_quiet_job_behind_a_loud_one(broker: Broker, queue: str) -> None:
    quiet, loud = JobId(queue, 1), JobId(queue, 2)
    await broker.logs.append(quiet, [chunk(b"quiet\n")])
    await broker.logs.append(loud, [chunk(b"loud\n") for _ in range(600)])
    await broker.logs.append(quiet, [chunk(b"again\n")])
    assert b"".join(c.data for c in await broker.logs.tail(quiet, 2)) == b"quiet\nagain\n"


@settings(max_examples=15)
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_any_bytes_survive_the_fake(pieces: list[bytes]) -> None:
    # The real thing is shown all 256 byte values above; this is about the fake being no simpler than that.
    from tests.fakes.broker import FakeServer

    async def scenario() -> None:
        broker = FakeServer().connect()
        await broker.logs.append(JobId("q", 1), [chunk(piece) for piece in pieces])
        assert [c.data async for c in broker.logs.read(JobId("q", 1))] == pieces

    asyncio.run(scenario())
