"""Points on a server whose stream somebody has deleted: told as a refusal, so that nobody waits for it for ever."""

from __future__ import annotations

from collections.abc import Callable

import nats
import pytest

from launch.adapters.nats import connect
from launch.errors import BrokerError, BrokerUnavailable
from launch.points import Point, PointSource
from launch.subjects import METRICS_STREAM, JobId
from tests.contract.broker_world import NOW
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.nats


async def test_a_stream_that_is_gone_refuses(fresh_nats: Callable[..., NatsServer]) -> None:
    server = fresh_nats()
    broker = await connect(server.url, name="test")
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream(METRICS_STREAM)
    await client.close()
    job = JobId("q", 1)
    try:
        with pytest.raises(BrokerError) as refused:
            await broker.metrics.append(job, [Point(NOW, PointSource.STDOUT, 1, 0, {"n": 1.0})])
        assert not isinstance(refused.value, BrokerUnavailable)
        assert "stream not found" in str(refused.value)
        assert [point async for point in broker.metrics.read(job)] == []
    finally:
        await broker.close()
