"""The header block that ends nats-server 2.15.1: what of it an operator has to know, and that no job is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

import nats
import pytest

from launch.adapters.nats import connect
from tests.hostile.lab import GOOD, Wire, queue_spec
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats
ONE_BYTE = b"x"


async def test_a_server_that_a_header_ended_comes_back_with_its_jobs(fresh_nats: Callable[..., NatsServer]) -> None:
    """A server that does not end by it (one with the fault mended) passes as well."""
    server = fresh_nats()
    broker, wire = await connect(server.url, name="test"), await Wire.open(server.url)
    await broker.queues.apply(queue_spec("q"))
    await broker.jobs.publish("q", "train", GOOD)
    with contextlib.suppress(OSError):
        await wire.publish("queue.q.train", GOOD, ONE_BYTE)
        await wire.settled()
    await wire.close()
    await broker.close()
    await asyncio.to_thread(server.stop)  # its end may be under way
    await asyncio.to_thread(server.start)
    broker = await connect(server.url, name="test")
    found = await broker.jobs.peek("q", 10)
    assert found[0].job.seq == 1
    assert {message.body for message in found} == {GOOD}
    assert (await broker.jobs.publish("q", "train", GOOD)).job.seq == len(found) + 1
    await broker.close()


async def test_a_server_that_republishes_nothing_takes_it(fresh_nats: Callable[..., NatsServer]) -> None:
    """So it is the republishing, and nothing else of how the queue's stream is made, that the fault needs."""
    server = fresh_nats()
    broker = await connect(server.url, name="test")
    await broker.queues.apply(queue_spec("q"))
    wire = await Wire.open(server.url)
    plain = await nats.connect(server.url)
    config = json.loads((await plain.request("$JS.API.STREAM.INFO.queue_q", timeout=5)).data)["config"]
    config.pop("republish")
    answer = await plain.request("$JS.API.STREAM.UPDATE.queue_q", json.dumps(config).encode(), timeout=5)
    assert "error" not in json.loads(answer.data)
    await wire.publish("queue.q.train", GOOD, ONE_BYTE)
    await wire.settled()
    published = await broker.jobs.publish("q", "train", GOOD)
    assert (published.job.seq, server.running) == (2, True)
    await plain.close()
    await wire.close()
    await broker.close()
