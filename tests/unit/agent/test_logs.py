"""The pump: every byte once and in order, whatever breaks, in bounded memory; and it never hangs on what is final."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.log_sender import ANCHOR_BYTES
from agent.logs import CHUNK_BYTES, HIGH_WATER_BYTES, LAST_PIECES, TAIL_BYTES, LogPump
from agent.ports import EngineError, LogFrame
from launch.errors import BrokerError
from launch.ports import LogChunk, Logs
from launch.subjects import JobId
from tests.fakes.broker import FakeBroker, FakeServer
from tests.fakes.engine import FakeEngine, Script

JOB = JobId("q", 1)


class Rig:
    """A fake engine with one container, and a fake broker."""

    def __init__(self) -> None:
        self.engine = FakeEngine(images=["x"])
        self.engine.scripts["hold",] = Script(hold=True)
        server = FakeServer()
        self.broker: FakeBroker = server.connect()
        self.reader = server.connect("reader").logs
        self.container = ""
        self.delays: list[float] = []
        self.paused = asyncio.Event()
        self.written = {"stdout": b"", "stderr": b""}

    def pump(self, logs: Logs | None = None, **options: Any) -> LogPump:
        settings: dict[str, Any] = {"max_bytes": 2**40, "linger_s": 0.0, "sleep": self.pause, **options}
        return LogPump(self.engine, logs or self.broker.logs, JOB, 1, self.container, **settings)

    async def pause(self, delay_s: float) -> None:
        """Time passes as fast as the loop turns."""
        self.delays.append(delay_s)
        self.paused.set()
        await asyncio.sleep(0)

    async def until_paused(self, count: int) -> None:
        """Wait until the pump has paused `count` times more."""
        count += len(self.delays)
        while len(self.delays) < count:
            self.paused.clear()
            await self.paused.wait()

    def write(self, source: str, data: bytes) -> None:
        self.written[source] += data
        self.engine.write(self.container, source, data)

    async def stored(self, attempt: int = 1) -> list[LogChunk]:
        return [chunk async for chunk in self.reader.read(JOB) if chunk.attempt == attempt]

    async def output(self) -> dict[str, bytes]:
        found = {"stdout": b"", "stderr": b""}
        for chunk in await self.stored():
            found[chunk.source] += chunk.data
        return found

    async def until_stored(self, size: int) -> None:
        """Wait until so many bytes have come to the broker."""
        async for chunk in self.reader.read(JOB, follow=True):
            size -= len(chunk.data)
            if size <= 0:
                return

    @asynccontextmanager
    async def following(self, pump: LogPump) -> AsyncIterator[asyncio.Task[None]]:
        async with asyncio.TaskGroup() as group:
            yield group.create_task(pump.run())


@pytest.fixture
async def rig() -> Rig:
    made = Rig()
    made.container = await made.engine.create("c", {"Image": "x", "Cmd": ["hold"]})
    await made.engine.start(made.container)
    return made


async def test_output_comes_live_and_whole(rig: Rig) -> None:
    pump = rig.pump()
    async with rig.following(pump) as task:
        rig.write("stdout", b"epoch 1\n")
        await rig.until_stored(8)
        rig.write("stderr", "Grüße\n".encode())
        rig.write("stdout", b"epoch 2\nunfinished")
        await rig.until_stored(8 + 8 + 8)
        assert not task.done()
        rig.engine.exit(rig.container)
        counts = await pump.finish()
        assert task.done()
    assert await rig.output() == rig.written
    assert (counts.size_bytes, counts.cut, counts.error) == (34, False, None)
    assert counts.tail.endswith(b"epoch 2\nunfinished")
    assert [chunk.time for chunk in await rig.stored()] == sorted(chunk.time for chunk in await rig.stored())


async def test_what_following_misses_is_read_at_the_end(rig: Rig) -> None:
    rig.engine.follow_misses = 3
    pump = rig.pump()
    async with rig.following(pump) as task:
        for number in range(10):
            rig.write("stdout", b"%d\n" % number)
        rig.engine.exit(rig.container)
        await task
        assert await rig.output() != rig.written
        await pump.finish()
    assert await rig.output() == rig.written


async def test_finish_alone_reads_everything(rig: Rig) -> None:
    rig.write("stdout", b"x" * 200_000 + b"\nend\n")
    rig.engine.exit(rig.container)
    pump = rig.pump()
    counts = await pump.finish()
    assert await rig.output() == rig.written
    assert max(len(chunk.data) for chunk in await rig.stored()) == CHUNK_BYTES
    assert await pump.finish() == counts, "it may be called again"
    await pump.run()
    assert await rig.output() == rig.written


async def test_chunks_are_as_large_as_the_broker_takes(rig: Rig) -> None:
    class Small(Refusing):
        max_chunk_bytes = 100

    rig.write("stdout", b"".join(b"line %d\n" % number for number in range(100)))
    rig.engine.exit(rig.container)
    await rig.pump(Small(rig.broker.logs, BrokerError("no"), times=0)).finish()
    assert await rig.output() == rig.written
    assert all(len(chunk.data) <= 100 and chunk.data.endswith(b"\n") for chunk in await rig.stored())


async def test_an_engine_that_goes_away_is_waited_for(rig: Rig) -> None:
    pump = rig.pump()
    async with rig.following(pump) as task:
        rig.write("stdout", b"before\n")
        await rig.until_stored(7)
        rig.engine.stop(kill=False)
        rig.write("stdout", b"meanwhile\n")
        await rig.until_paused(12)
        assert not task.done()
        rig.engine.start_again()
        await rig.until_stored(17)
        assert rig.delays[:3] == sorted(rig.delays[:3])
        assert max(rig.delays) <= 5.0
        rig.engine.exit(rig.container)
        rig.engine.stop()
        finishing = asyncio.create_task(pump.finish())
        await rig.until_paused(20)
        assert not finishing.done()
        rig.engine.start_again()
        assert (await finishing).error is None
    assert await rig.output() == rig.written


async def test_a_stream_that_ends_while_the_container_runs_is_taken_up_again(rig: Rig) -> None:
    rig.engine.fail("logs", EngineError("logs", 500, "the stream was cut"), times=3)
    pump = rig.pump()
    async with rig.following(pump):
        rig.write("stdout", b"one\n")
        await rig.until_stored(4)
        rig.engine.exit(rig.container)
        await pump.finish()
    assert await rig.output() == rig.written


async def test_following_may_begin_before_the_container_is_started() -> None:
    rig = Rig()
    rig.container = await rig.engine.create("c", {"Image": "x", "Cmd": ["hold"]})
    pump = rig.pump()
    async with rig.following(pump):
        await rig.until_paused(1)
        await rig.engine.start(rig.container)
        rig.write("stdout", b"one\n")
        await rig.until_stored(4)
        rig.engine.exit(rig.container)
        await pump.finish()


async def test_a_slow_broker_stops_the_reader_not_the_container(rig: Rig) -> None:
    rig.broker.disconnect()
    pump = rig.pump()
    async with rig.following(pump):
        line = b"x" * 999 + b"\n"
        for _ in range(10):
            rig.write("stdout", line * 1000)
        await rig.until_paused(50)
        held = pump._chunker.pending_bytes + sum(len(chunk.data) for chunk in pump._sender._outgoing)
        assert HIGH_WATER_BYTES <= held <= 2 * HIGH_WATER_BYTES + CHUNK_BYTES
        assert max(rig.delays) <= 5.0
        rig.broker.reconnect()
        rig.engine.exit(rig.container)
        counts = await pump.finish()
    assert counts.size_bytes == 10_000_000
    assert await rig.output() == rig.written


async def test_an_append_without_an_answer_is_not_repeated(rig: Rig) -> None:
    pump = rig.pump()
    async with rig.following(pump):
        # The same bytes every time: only their number can tell whether they were stored.
        for number in range(1, 30):
            if number % 3 == 0:
                rig.broker.lose_replies(1)
            rig.write("stdout", b"same\n")
            await rig.until_stored(5 * number)
        rig.engine.exit(rig.container)
        rig.broker.lose_replies(2)
        await pump.finish()
    assert await rig.output() == rig.written


async def test_little_is_read_back_to_learn_whether_an_append_was_stored(rig: Rig) -> None:
    class Watched(Refusing):
        def __init__(self) -> None:
            super().__init__(rig.broker.logs, BrokerError("no"), times=0)
            self.read = self._read
            self.read_from: list[int] = []

        def _read(self, job: JobId, *, after_seq: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk]:
            self.read_from.append(after_seq)
            return self.logs.read(job, after_seq=after_seq, follow=follow)

    logs = Watched()
    pump = rig.pump(logs)
    async with rig.following(pump):
        for _ in range(12):
            rig.write("stdout", b"x" * 999_999 + b"\n")
        await rig.until_stored(12_000_000)
        rig.broker.lose_replies(1)
        rig.write("stdout", b"last\n")
        await rig.until_stored(12_000_005)
        rig.engine.exit(rig.container)
        await pump.finish()
    assert await rig.output() == rig.written
    [after] = logs.read_from
    stored = await rig.stored()
    assert sum(len(chunk.data) for chunk in stored if chunk.seq > after) < ANCHOR_BYTES + 2 * HIGH_WATER_BYTES


async def test_a_run_that_is_cancelled_in_the_middle_of_an_append_doubles_nothing(rig: Rig) -> None:
    class Hanging(Refusing):
        async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
            await super().append(job, chunks)
            if self.hang:
                await asyncio.Event().wait()

        hang = True

    logs = Hanging(rig.broker.logs, BrokerError("no"), times=0)
    pump = rig.pump(logs)
    task = asyncio.create_task(pump.run())
    rig.write("stdout", b"one\n")
    await rig.until_stored(4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    logs.hang = False
    rig.write("stdout", b"two\n")
    rig.engine.exit(rig.container)
    await pump.finish()
    assert await rig.output() == rig.written


class Refusing:
    """Logs of a broker that answers, and refuses the first `times` appends."""

    def __init__(self, logs: Logs, error: BrokerError, *, times: int) -> None:
        self.logs = logs
        self.error = error
        self.times = times
        self.last_seq, self.read, self.before, self.tail = logs.last_seq, logs.read, logs.before, logs.tail

    @property
    def max_chunk_bytes(self) -> int:
        return self.logs.max_chunk_bytes

    async def append(self, job: JobId, chunks: Sequence[LogChunk]) -> None:
        if self.times > 0:
            self.times -= 1
            raise self.error
        await self.logs.append(job, chunks)


async def test_a_broker_that_refuses_for_a_while_is_asked_again(rig: Rig) -> None:
    rig.write("stdout", b"one\n")
    rig.engine.exit(rig.container)
    counts = await rig.pump(Refusing(rig.broker.logs, BrokerError("stream is full"), times=5)).finish()
    assert counts.error is None
    assert await rig.output() == rig.written


async def test_a_broker_that_refuses_for_good_ends_the_pump_not_the_job(rig: Rig) -> None:
    pump = rig.pump(Refusing(rig.broker.logs, BrokerError("stream is full"), times=1000))
    async with rig.following(pump) as task:
        for _ in range(10):
            rig.write("stdout", b"x" * 999_999 + b"\n")
        rig.engine.exit(rig.container)
        await task
        counts = await pump.finish()
    assert counts.error is not None
    assert "stream is full" in counts.error
    assert len(rig.delays) < 20


async def test_an_engine_that_refuses_to_read_its_log_is_given_up(rig: Rig) -> None:
    rig.engine.exit(rig.container)
    rig.engine.fail("logs", EngineError("logs", 500, "configured logging driver does not support reading"), times=1000)
    counts = await rig.pump().finish()
    assert counts.error is not None
    assert "does not support reading" in counts.error


async def test_a_container_that_is_gone_has_no_more_to_say(rig: Rig) -> None:
    pump = rig.pump()
    async with rig.following(pump) as task:
        rig.write("stdout", b"one\n")
        await rig.until_stored(4)
        await rig.engine.remove(rig.container)
        await task
        counts = await pump.finish()
    assert counts.size_bytes == 4
    assert counts.error is not None
    assert "No such container" in counts.error
    assert rig.delays == [], "there is nothing to wait for"


async def test_output_beyond_the_limit_is_cut_with_a_line_that_says_so(rig: Rig) -> None:
    pump = rig.pump(max_bytes=100 * 1024)
    async with rig.following(pump) as task:
        line = b"x" * 1023 + b"\n"
        rig.write("stdout", line * 150)
        await task
        rig.write("stdout", line * 150)
        rig.engine.exit(rig.container)
        counts = await pump.finish()
    output = await rig.output()
    assert output["stdout"] == line * 100
    assert output["stderr"] == b"[log cut at 100Ki: max_log_bytes]\n"
    assert (counts.size_bytes, counts.cut, counts.error) == (100 * 1024, True, None)
    assert b"log cut" not in counts.tail

    successor = rig.pump(max_bytes=100 * 1024)
    await successor.resume()
    assert (await successor.finish()).cut
    assert await rig.output() == output, "it is cut once"


async def test_exactly_the_limit_is_not_cut(rig: Rig) -> None:
    rig.write("stdout", b"x" * 99 + b"\n")
    rig.engine.exit(rig.container)
    assert not (await rig.pump(max_bytes=100).finish()).cut


async def test_a_successor_goes_on_where_its_predecessor_was_killed(rig: Rig) -> None:
    predecessor = rig.pump()
    task = asyncio.create_task(predecessor.run())
    rig.write("stdout", b"one\n" + b"x" * 300_000 + b"\n")
    rig.write("stderr", b"two\n")
    await rig.until_stored(150_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # A chunk of an earlier attempt is none of its business.
    await rig.broker.logs.append(JOB, [LogChunk("stdout", 0, "2020-01-01T00:00:00.000000000Z", b"old\n")])
    successor = rig.pump()
    rig.broker.disconnect()
    resuming = asyncio.create_task(successor.resume())
    await rig.until_paused(3)
    rig.broker.reconnect()
    await resuming
    async with rig.following(successor):
        rig.write("stdout", b"three\n")
        rig.engine.exit(rig.container)
        counts = await successor.finish()
    assert await rig.output() == rig.written
    assert counts.size_bytes == sum(map(len, rig.written.values()))
    assert counts.tail.endswith(b"three\n")
    assert len(counts.tail) == TAIL_BYTES


async def test_lines_that_come_together_are_sent_together(rig: Rig) -> None:
    pump = rig.pump(linger_s=3600.0)
    async with rig.following(pump):
        for number in range(100):
            rig.write("stdout", b"%d\n" % number)
            await asyncio.sleep(0)
        rig.engine.exit(rig.container)
        await pump.finish()
    assert await rig.output() == rig.written
    assert len(await rig.stored()) == 1


async def test_a_line_without_company_is_sent_after_a_while(rig: Rig) -> None:
    pump = rig.pump(linger_s=0.005)
    async with rig.following(pump):
        rig.write("stdout", b"alone\n")
        await rig.until_stored(6)
        rig.engine.exit(rig.container)
        await pump.finish()
    assert await rig.output() == rig.written


async def test_a_read_can_start_at_a_given_time(rig: Rig) -> None:
    rig.write("stdout", b"one\n")
    rig.write("stdout", b"two\n")
    rig.engine.exit(rig.container)
    since = rig.engine.containers[rig.container].frames[1].time
    await rig.pump(since=since).finish()
    assert (await rig.output())["stdout"] == b"two\n"


async def test_the_end_is_read_from_the_end(rig: Rig) -> None:
    rig.engine.follow_misses = 3
    asked: list[tuple[str | None, int | None]] = []
    logs = rig.engine.logs

    def watched(
        container: str, *, since: str | None, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[LogFrame]:
        asked.append((since, tail))
        return logs(container, since=since, follow=follow, tail=tail)

    rig.engine.logs = watched  # type: ignore[method-assign]
    pump = rig.pump()
    async with rig.following(pump) as task:
        for number in range(1000):
            rig.write("stderr" if number % 7 == 0 else "stdout", b"%d\n" % number)
        rig.engine.exit(rig.container)
        await task
        await pump.finish()
    assert await rig.output() == rig.written
    assert asked == [(None, None), (None, LAST_PIECES[0])]


@pytest.mark.parametrize("missed", [0, 1, 255, 256, 257, 5000])
async def test_an_end_that_does_not_reach_back_far_enough_is_read_from_further_back(rig: Rig, missed: int) -> None:
    rig.engine.follow_misses = missed
    pump = rig.pump()
    async with rig.following(pump) as task:
        rig.write("stderr", b"once\n")
        rig.write("stdout", b"".join(b"%d\n" % number for number in range(6000)))
        rig.write("stdout", b"x" * 100_000)
        rig.engine.exit(rig.container)
        await task
        await pump.finish()
    assert await rig.output() == rig.written


class Stars:
    """A mask for one word."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.longest = len(secret)

    def __call__(self, data: bytes) -> bytes:
        return data.replace(self.secret, b"*" * self.longest)


async def test_a_secret_is_masked_wherever_the_engine_cuts_the_line_it_is_in(rig: Rig) -> None:
    secret = b"s3cr3t-s3cr3t"
    line = b"".join(b"%d %s " % (number, secret) for number in range(15_000)) + b"\n"
    rig.write("stdout", line)
    rig.write("stderr", b"of no use: " + secret)
    rig.engine.exit(rig.container)
    counts = await rig.pump(mask=Stars(secret)).finish()
    stars = Stars(secret)
    assert await rig.output() == {"stdout": stars(line), "stderr": b"of no use: " + b"*" * 13}
    assert counts.tail.endswith(b"of no use: *************")
    assert counts.size_bytes == len(line) + 24


async def test_a_secret_is_masked_over_a_restart(rig: Rig) -> None:
    secret = b"s3cr3t-s3cr3t"
    pump = rig.pump(mask=Stars(secret))
    task = asyncio.create_task(pump.run())
    line = b"".join(b"%d %s " % (number, secret) for number in range(15_000)) + b"\n"
    rig.write("stdout", line[:200_000])
    await rig.until_stored(100_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rig.write("stdout", line[200_000:])
    rig.engine.exit(rig.container)
    successor = rig.pump(mask=Stars(secret))
    await successor.resume()
    await successor.finish()
    assert (await rig.output())["stdout"] == Stars(secret)(line)


async def test_a_cut_does_not_show_the_beginning_of_a_secret(rig: Rig) -> None:
    secret = b"s3cr3t" * 1000
    rig.write("stdout", b"whole\n" + b"x" * 14_000 + secret + b"\n")
    rig.engine.exit(rig.container)
    counts = await rig.pump(mask=Stars(secret), max_bytes=16_500).finish()
    output = await rig.output()
    assert b"s3" not in output["stdout"]
    assert output["stdout"].startswith(b"whole\nxxxx")
    assert counts.size_bytes == len(output["stdout"])
    assert b"log cut" in output["stderr"]


async def test_the_line_that_tells_of_a_cut_is_a_chunk_of_its_own(rig: Rig) -> None:
    rig.write("stderr", b"x" * 40 + b"\n" + b"y" * 100 + b"\n")
    rig.engine.exit(rig.container)
    await rig.pump(max_bytes=100).finish()
    successor = rig.pump(max_bytes=100)
    await successor.resume()
    counts = await successor.finish()
    assert counts.cut
    assert counts.size_bytes == 41
    assert (await rig.output())["stderr"] == b"x" * 40 + b"\n[log cut at 100B: max_log_bytes]\n"


async def test_who_listens_hears_every_byte_with_its_place_before_it_is_stored(rig: Rig) -> None:
    heard = {"stdout": b"", "stderr": b""}

    async def hear(chunk: LogChunk, offset: int) -> None:
        assert offset <= len(heard[chunk.source]), "nothing is skipped"
        assert len((await rig.output())[chunk.source]) <= offset, "it is not stored yet"
        heard[chunk.source] = heard[chunk.source][:offset] + chunk.data

    pump = rig.pump(heard=hear, max_bytes=1_000_000)
    task = asyncio.create_task(pump.run())
    rig.write("stdout", b"one\n" + b"x" * 300_000 + b"\n")
    rig.write("stderr", b"two\n")
    await rig.until_stored(150_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    successor = rig.pump(heard=hear, max_bytes=1_000_000)
    await successor.resume()
    async with rig.following(successor):
        rig.write("stderr", b"three\n")
        rig.write("stdout", b"y" * 999_999 + b"\n")
        rig.engine.exit(rig.container)
        await successor.finish()
    output = await rig.output()
    assert heard["stdout"] == output["stdout"]
    assert output["stderr"] == heard["stderr"] + b"[log cut at 976.6Ki: max_log_bytes]\n"
