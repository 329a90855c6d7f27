"""The connection to NATS where something is wrong with the server, its addresses or what one may do there."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from launch.adapters.nats import connect
from launch.adapters.nats.dial import Dial
from launch.adapters.nats.failures import Complaints, translated
from launch.errors import BrokerUnavailable
from launch.ports import LogChunk
from launch.subjects import JobId
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

pytestmark = pytest.mark.nats


def uvloop_run(scenario: Callable[[], Any]) -> None:
    """Run it on the loop that the programs have: its dead transports raise what asyncio's do not."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_a_client_of_a_killed_server_can_be_closed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()

    async def scenario() -> None:
        broker = await connect(server.url, name="test")
        server.stop(kill=True)
        async with asyncio.timeout(20):
            while broker.connected_since is not None:  # noqa: ASYNC110  (the port does not tell when that changes)
                await asyncio.sleep(0)
            await broker.cancels.announce(JobId("q", 1))  # lies in the client's buffer until there is a server
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await broker.queues.list()

    uvloop_run(scenario)


def test_a_dead_transport_means_that_the_broker_is_unavailable() -> None:
    dead = "unable to perform operation on <TCPTransport closed=True>; the handler is closed"  # uvloop's words
    with pytest.raises(BrokerUnavailable, match=r"publish: .*the handler is closed"), translated("publish"):
        raise RuntimeError(dead)


async def test_one_server_of_several_is_enough(nats_url: str) -> None:
    for _ in range(10):  # the client tries them in a random order
        for url in (f"nats://127.0.0.1:1,{nats_url}", f"{nats_url},nats://127.0.0.1:1,nats://127.0.0.1:2"):
            broker = await connect(url, name="test")
            assert await broker.leases.holder("nobody") is None
            await broker.close()


async def test_a_refusal_is_told_at_once(fresh_nats: Callable[..., NatsServer]) -> None:
    server = fresh_nats(config="authorization { user: a, password: b }")
    async with asyncio.timeout(5):
        # Usually "Authorization Violation"; sometimes the server has hung up before the client has read that.
        with pytest.raises(BrokerUnavailable, match="can't connect") as error:
            await connect(server.url.replace("//", "//a:secret@"), name="test", timeout_s=30)
    assert "secret" not in str(error.value)
    broker = await connect(server.url.replace("//", "//a:b@"), name="test")
    await broker.close()


async def test_a_dial_ends_with_a_refusal_or_when_all_have_failed() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    for errors in (["nats: 'Authorization Violation'"], ["down", "down", "still down"]):
        dial = Dial("nats://a,b,c", 3)
        for text in errors:
            assert not dial._hopeless.is_set()
            dial.failed(OSError(text))
        async with asyncio.timeout(5):
            with pytest.raises(BrokerUnavailable, match=errors[-1]):
                await dial.done(never(), 60)
    dial = Dial("nats://a,b,c", 3)
    dial.failed(OSError("down"))
    with pytest.raises(BrokerUnavailable, match="down"):
        await dial.done(never(), 0.01)


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # how the client calls aiohttp
@pytest.mark.parametrize("scheme", ["nats", "ws"])
async def test_a_server_that_says_nothing_leaves_nothing_open(scheme: str) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    accepted: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            await connect(f"{scheme}://127.0.0.1:{port}", name="test", timeout_s=0.3)
        gc.collect()
        for writer in accepted:
            writer.close()
    assert complaints == []


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # how the client calls aiohttp
@pytest.mark.parametrize("scheme", ["nats", "ws"])
async def test_a_server_that_hangs_up_leaves_nothing_open(scheme: str) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="can't connect"):
            await connect(f"{scheme}://127.0.0.1:{port}", name="test", timeout_s=5)
        gc.collect()
    assert complaints == []


@pytest.mark.parametrize("url", ["nats://[::1", "nats://127.0.0.1:many", "nats://127.0.0.1:99999", "", " , "])
async def test_what_is_no_address_is_one_clear_error(url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"no address|no NATS server"):
        await connect(url, name="test")


async def test_a_bad_address_beside_a_good_one_is_named(nats_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match=re.escape("no address of a NATS server")):
        await connect(f"{nats_url},nats://[::1", name="test")


async def test_what_one_may_not_do_is_logged(fresh_nats: Callable[..., NatsServer]) -> None:
    users = '{ user: a, password: b, permissions: { publish: { deny: "cancel.>" } } }'
    server = fresh_nats(config=f"authorization {{ users: [ {users} ] }}")
    broker = await connect(server.url.replace("//", "//a:b@"), name="test")
    with capture_logs() as logs:
        for _ in range(3):
            await broker.cancels.announce(JobId("q", 1))
            await broker.queues.list()
    await broker.close()
    [entry] = [log for log in logs if log["log_level"] == "warning"]
    assert "permissions violation" in entry["error"].lower()
    assert "cancel.q.1" in entry["error"]


def test_every_text_is_told_once_a_while() -> None:
    complaints = Complaints()
    with capture_logs() as logs:
        for n in range(300):
            complaints.note(OSError("refused"))
            complaints.note(OSError(f"text {n % 3}"))
    assert [log["error"] for log in logs] == ["refused", "text 0", "text 1", "text 2"]


async def test_a_read_that_is_cut_off_in_the_middle_ends(nats_server: NatsServer, queue_name: str) -> None:
    job = JobId(queue_name, 1)
    proxy = await Proxy(nats_server.port).start()
    broker = await connect(proxy.url, name="test")
    await broker.logs.append(job, [LogChunk("stdout", 1, "2026-03-01T12:00:00Z", b"line\n") for _ in range(400)])
    async with asyncio.timeout(20), aclosing(broker.logs.read(job)) as chunks:
        await anext(chunks)
        proxy.black_hole()
        with pytest.raises(BrokerUnavailable):
            async for _ in chunks:
                pass
    await proxy.cut()
    await broker.close()
