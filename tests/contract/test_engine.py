"""Every implementation of the `Engine` port keeps the port's word: the fake one and the Docker Engine."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from agent.adapters.docker import DockerEngine
from agent.core.frames import nanoseconds, timestamp
from agent.ports import Engine, EngineError, EngineUnavailable
from launch.subjects import LABEL_ACK, LABEL_AHEAD, LABEL_SUBMITTED
from tests.contract.engine_world import EXIT_3, FLOOD, IDLE, LONG_LINE, NOT_FOUND, SLEEP, SPEAK, TRAP, TRUE, Lab
from tests.fakes.engine import FakeEngine

pytestmark = pytest.mark.filterwarnings("error")


async def test_tells_its_version_and_size(lab: Lab) -> None:
    info = await lab.engine.info()
    assert info.version
    assert info.cpus >= 1
    assert info.memory_bytes > 2**20


async def test_knows_an_image_that_is_there_and_one_that_is_not(lab: Lab) -> None:
    present = await lab.engine.image(lab.image)
    assert present is not None
    assert present.id.startswith("sha256:")
    assert present.digest is None
    assert await lab.engine.image("no-such-image:1") is None


async def test_a_pull_that_fails_names_the_step(lab: Lab) -> None:
    # A registry on a port where nobody listens: no name to look up, nothing leaves the machine.
    with pytest.raises(EngineError) as caught:
        await lab.engine.pull("127.0.0.1:1/no-such-image:1")
    assert caught.value.step == "pull"


@pytest.mark.parametrize(("command", "code"), [(TRUE, 0), (EXIT_3, 3)])
async def test_an_exit_code_comes_back(lab: Lab, command: tuple[str, ...], code: int) -> None:
    seen = await lab.run(command)
    assert (seen.state, seen.exit_code, seen.oom_killed, seen.error) == ("exited", code, False, "")
    # Which of the two is the later one is not said: Docker stamps a start only after the process may have ended.
    assert seen.started_at is not None
    assert seen.finished_at is not None


async def test_a_container_that_has_not_been_started_has_no_times(lab: Lab) -> None:
    container = await lab.create(TRUE, labels={"colour": "red"})
    seen = await lab.see(container)
    assert (seen.id, seen.name, seen.state) == (container, f"{lab.mark}-one", "created")
    assert (seen.started_at, seen.finished_at, seen.tty) == (None, None, False)
    assert {"launch.test": lab.mark, "colour": "red"}.items() <= seen.labels.items()
    assert await lab.see(seen.name) == seen
    # It does not run, so there is nothing to wait for, and its log is empty.
    await lab.engine.wait(container)
    assert await lab.read(container, follow=True) == []


async def test_a_name_that_is_taken_is_adopted(lab: Lab) -> None:
    first = await lab.create(EXIT_3)
    assert await lab.create(TRUE) == first
    await lab.engine.remove(first)
    assert await lab.create(TRUE) != first


async def test_a_name_of_another_attempt_is_refused(lab: Lab) -> None:
    first = await lab.create(TRUE, labels={LABEL_SUBMITTED: "one life", LABEL_ACK: "a delivery's"})
    with pytest.raises(EngineError, match="another container") as caught:
        await lab.create(TRUE, labels={LABEL_SUBMITTED: "another life", LABEL_ACK: "a delivery's"})
    assert (caught.value.step, caught.value.status) == ("create", 409)
    assert await lab.create(TRUE, labels={LABEL_SUBMITTED: "one life", LABEL_ACK: "a later delivery's"}) == first


async def test_what_was_made_ahead_is_adopted_by_who_has_claimed_it_and_by_no_other_making(lab: Lab) -> None:
    first = await lab.create(TRUE, labels={LABEL_SUBMITTED: "then", LABEL_AHEAD: "once"})
    with pytest.raises(EngineError, match="another container"):
        await lab.create(TRUE, labels={LABEL_SUBMITTED: "then", LABEL_AHEAD: "again"})
    assert await lab.create(TRUE, labels={LABEL_SUBMITTED: "then", LABEL_AHEAD: "once"}) == first
    assert await lab.create(TRUE, labels={LABEL_SUBMITTED: "then"}) == first


async def test_a_container_gets_another_name_and_leaves_its_old_one_free(lab: Lab) -> None:
    container = await lab.create(TRUE, name="before")
    await lab.engine.rename(container, f"{lab.mark}-after")
    seen = await lab.see(f"{lab.mark}-after")
    assert (seen.id, seen.name, seen.state) == (container, f"{lab.mark}-after", "created")
    assert await lab.engine.inspect(f"{lab.mark}-before") is None
    other = await lab.create(TRUE, name="before")
    assert other != container
    with pytest.raises(EngineError) as caught:
        await lab.engine.rename(other, f"{lab.mark}-after")
    assert (caught.value.step, caught.value.status) == ("rename", 409)
    await lab.engine.remove(other)
    with pytest.raises(EngineError) as caught:
        await lab.engine.rename(other, f"{lab.mark}-later")
    assert (caught.value.step, caught.value.status) == ("rename", 404)


async def test_many_creates_of_one_name_make_one_container(lab: Lab) -> None:
    assert len({*await asyncio.gather(*(lab.create(TRUE) for _ in range(8)))}) == 1


async def test_creating_from_an_unknown_image_is_refused(lab: Lab) -> None:
    with pytest.raises(EngineError, match="no-such-image") as caught:
        await lab.engine.create(f"{lab.mark}-one", {"Image": "no-such-image:1", "Cmd": ["true"]})
    assert (caught.value.step, caught.value.status) == ("create", 404)


async def test_a_command_that_is_not_there_leaves_the_container_created(lab: Lab) -> None:
    container = await lab.create(NOT_FOUND)
    with pytest.raises(EngineError, match="executable file not found") as caught:
        await lab.engine.start(container)
    assert (caught.value.step, caught.value.status) == ("start", 400)
    seen = await lab.see(container)
    assert (seen.state, seen.exit_code) == ("created", 127)
    assert "executable file not found" in seen.error


async def test_starting_twice_does_no_harm(lab: Lab) -> None:
    container = await lab.create(SLEEP)
    await lab.engine.start(container)
    started = (await lab.see(container)).started_at
    await lab.engine.start(container)
    assert (await lab.see(container)).started_at == started


async def test_wait_ends_with_the_container(lab: Lab) -> None:
    container = await lab.create(SLEEP)
    await lab.engine.start(container)
    waiting = asyncio.create_task(lab.engine.wait(container))
    assert (await lab.see(container)).state == "running"
    assert not waiting.done()
    await lab.engine.signal(container, "SIGKILL")
    await waiting
    seen = await lab.see(container)
    assert (seen.state, seen.exit_code, seen.oom_killed) == ("exited", 137, False)


async def test_a_signal_reaches_the_process(lab: Lab) -> None:
    container = await lab.create(TRAP)
    await lab.engine.start(container)
    await lab.until_ready(container)
    await lab.engine.signal(container, "SIGTERM")
    await lab.engine.wait(container)
    assert (await lab.see(container)).exit_code == 7


async def test_sigterm_ends_a_program_that_does_not_care(lab: Lab) -> None:
    container = await lab.create(IDLE)
    await lab.engine.start(container)
    await lab.until_ready(container)  # Before it handles signals, the first process of a namespace ignores them.
    await lab.engine.signal(container, "SIGTERM")
    await lab.engine.wait(container)
    assert (await lab.see(container)).exit_code == 143


async def test_a_signal_to_what_does_not_run_does_no_harm(lab: Lab) -> None:
    container = await lab.create(TRUE)
    await lab.engine.signal(container, "SIGTERM")
    await lab.engine.start(container)
    await lab.engine.wait(container)
    await lab.engine.signal(container, "SIGTERM")
    await lab.engine.signal(f"{lab.mark}-none", "SIGTERM")
    assert (await lab.see(container)).exit_code == 0


async def test_lists_what_carries_all_the_labels(lab: Lab) -> None:
    red = await lab.create(TRUE, name="red", labels={"colour": "red"})
    blue = await lab.create(SLEEP, name="blue", labels={"colour": "blue"})
    await lab.engine.start(blue)
    listed = await lab.engine.list({"launch.test": lab.mark})
    assert {(one.id, one.state) for one in listed} == {(red, "created"), (blue, "running")}
    [one] = await lab.engine.list({"launch.test": lab.mark, "colour": "red"})
    assert one == await lab.see(red)
    assert await lab.engine.list({"launch.test": lab.mark, "colour": "green"}) == []


async def test_removing_is_idempotent_and_kills(lab: Lab) -> None:
    container = await lab.create(LONG_LINE)
    await lab.engine.start(container)
    waiting = asyncio.create_task(lab.engine.wait(container))
    async with aclosing(lab.engine.logs(container, since=None, follow=True)) as frames:
        async for frame in frames:
            if b"ready\n" in frame.data:
                await lab.engine.remove(container)
    await lab.engine.remove(container)
    await waiting
    assert await lab.engine.inspect(container) is None


async def test_what_is_not_there_is_an_error_404(lab: Lab) -> None:
    name = f"{lab.mark}-none"
    assert await lab.engine.inspect(name) is None
    for call in (lab.engine.start(name), lab.engine.wait(name), lab.read(name), lab.read(name, follow=True)):
        with pytest.raises(EngineError) as caught:
            await call
        assert caught.value.status == 404


async def test_logs_tell_the_sources_apart_and_keep_the_bytes(lab: Lab) -> None:
    seen = await lab.run(SPEAK)
    frames = await lab.read(seen.id)
    by_source = {
        source: b"".join(frame.data for frame in frames if frame.source == source) for source in ("stdout", "stderr")
    }
    assert by_source == {"stdout": b"one\nthree\nfour", "stderr": b"two\n"}
    assert all(timestamp(nanoseconds(frame.time)) == frame.time for frame in frames)


async def test_since_includes_the_frame_at_that_time(lab: Lab) -> None:
    seen = await lab.run(SPEAK)
    out = [frame for frame in await lab.read(seen.id) if frame.source == "stdout"]
    assert [frame.data for frame in out] == [b"one\n", b"three\n", b"four"]
    later = [frame for frame in await lab.read(seen.id, since=out[1].time) if frame.source == "stdout"]
    assert later == out[1:]
    after = timestamp(nanoseconds(out[1].time) + 1)
    assert [frame for frame in await lab.read(seen.id, since=after) if frame.source == "stdout"] == out[2:]


async def test_the_tail_is_the_last_pieces_of_what_there_is(lab: Lab) -> None:
    seen = await lab.run(SPEAK)
    whole = await lab.read(seen.id)
    for count in (1, 2, 3, 4, 100):
        assert await lab.read(seen.id, tail=count) == whole[-count:]
    assert await lab.read(seen.id, tail=3, since=whole[-1].time) == whole[-1:]


async def test_a_long_line_comes_in_pieces_of_one_time(lab: Lab) -> None:
    container = await lab.create(LONG_LINE)
    await lab.engine.start(container)
    await lab.until_ready(container)
    *pieces, ready = await lab.read(container)
    assert len(pieces) == 3
    assert {piece.time for piece in pieces} == {pieces[0].time}
    assert b"".join(piece.data for piece in pieces) == b"x" * 40000 + b"\n"
    assert ready.data == b"ready\n"


async def test_following_goes_on_until_the_container_stops(lab: Lab) -> None:
    container = await lab.create(LONG_LINE)
    await lab.engine.start(container)
    await lab.until_ready(container)
    reading = asyncio.create_task(lab.read(container, follow=True))
    assert (await lab.read(container))[-1].data == b"ready\n"
    assert not reading.done()
    await lab.engine.signal(container, "SIGKILL")
    assert (await reading)[-1].data == b"ready\n"


async def test_leaving_logs_early_leaves_the_engine_usable(lab: Lab) -> None:
    container = await lab.create(FLOOD)
    await lab.engine.start(container)
    for _ in range(20):
        async with aclosing(lab.engine.logs(container, since=None, follow=True)) as frames:
            assert (await anext(frames)).source == "stdout"
    reading = asyncio.create_task(lab.read(container, follow=True))
    assert (await lab.see(container)).state == "running"
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await lab.see(container)).state == "running"


async def test_two_hundred_waits_do_not_stand_in_each_others_way(lab: Lab) -> None:
    container = await lab.create(SLEEP)
    await lab.engine.start(container)
    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(lab.engine.wait(container))
        # As tasks these come after the waits, and would get no connection if there were a limit to them.
        seen = await asyncio.gather(*(lab.see(container) for _ in range(5)))
        assert {one.state for one in seen} == {"running"}
        await lab.engine.signal(container, "SIGKILL")


async def test_an_engine_that_is_not_there_is_unavailable(lab: Lab, tmp_path: Any) -> None:
    if isinstance(lab.engine, FakeEngine):
        gone: Engine = FakeEngine()
        assert isinstance(gone, FakeEngine)
        gone.stop()
    else:
        gone = DockerEngine(f"unix://{tmp_path}/no.sock")

    async def read() -> None:
        async for _ in gone.logs("x", since=None, follow=True):
            pass

    calls = [
        gone.info(),
        gone.image("x"),
        gone.pull("x"),
        gone.create("x", {"Image": "x"}),
        gone.start("x"),
        gone.wait("x"),
        gone.inspect("x"),
        gone.list({"x": "y"}),
        gone.signal("x", "SIGTERM"),
        gone.remove("x"),
        read(),
    ]
    for call in calls:
        with pytest.raises(EngineUnavailable):
            await call
    await gone.close()
