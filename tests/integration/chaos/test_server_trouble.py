"""The broker goes away: a server that is stopped for longer than the lease, and a cluster that loses its leader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from launch.core.states import State
from launch.subjects import work_stream
from tests.integration.agent_lab import HOLD
from tests.integration.chaos.lab import LEASE_S, Chaos, counting, exact, open_chaos
from tests.support.cluster import Cluster, consumer_info
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow, pytest.mark.timeout(200)]

HELD = 50


async def test_jobs_go_on_without_the_server_and_nobody_takes_over_when_it_is_back(
    lab: Chaos, server: NatsServer
) -> None:
    late = await Proxy(server.port).start()
    lab.stack.push_async_callback(late.cut)
    owner = await lab.started("owner", url=late.url)
    ends, goes_on = [await lab.submit(command=counting()) for _ in range(2)]
    for job in (ends, goes_on):
        await lab.running(job)
        await lab.said(job, b"\n10\n")
    # It has patience: how long the owner takes to find its way back is up to the machine.
    other = await lab.started("other", "--presence-ttl", f"{LEASE_S * 4}s")
    await asyncio.to_thread(server.stop)
    down_at = time.monotonic()
    await lab.told(ends)
    await lab.runs.ended(ends)
    await asyncio.sleep(max(0.0, LEASE_S + 2 - (time.monotonic() - down_at)))  # the fault lasts longer than the lease
    # The owner finds its way back a while after the other one, which is handed the owner's messages meanwhile.
    await late.cut()
    await asyncio.to_thread(server.start)
    await lab.presence(lambda entry: entry is not None, "other")
    await lab.until_said(other, "may only have blinked")
    await late.start()
    assert (await lab.ended(ends)).state is State.SUCCEEDED
    await lab.told(goes_on)
    for job in (ends, goes_on):
        record = await lab.ended(job)
        assert (record.state, record.attempt, record.agent) == (State.SUCCEEDED, 1, owner.agent_id)
        assert exact(await lab.output(job))
        assert len(lab.runs.of(job)) == 1
    # And both take new work.
    again = [await lab.submit(command=["true"]) for _ in range(4)]
    assert [(await lab.ended(job)).state for job in again] == [State.SUCCEEDED] * 4
    await lab.nothing_left()


@asynccontextmanager
async def clustered(folder: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(folder)
    try:
        yield await cluster.start()
    finally:
        await cluster.stop()


async def test_a_killed_leader_hands_everything_out_again_and_nothing_runs_twice(
    tmp_path: Path, queue_name: str, queue_containers: str, busybox_image: str
) -> None:
    async with (
        clustered(tmp_path) as cluster,
        open_chaos(cluster.url, queue_name, busybox_image, tmp_path, replicas=3) as lab,
    ):
        for name in ("a", "b"):
            await lab.started(name, "--max-jobs", str(HELD), "--cpu", "100")
        jobs = [await lab.submit(command=HOLD) for _ in range(HELD)]
        await asyncio.gather(*(lab.running(job) for job in jobs))
        before = {job: (await lab.running(job)).container for job in jobs}
        stream = work_stream(lab.queue)
        # Agents look at the streams as ones that know of a single copy, and must leave the others alone.
        assert {await lab.copies(name) for name in (stream, "KV_jobs", "KV_agents", "logs")} == {3}
        info = await consumer_info(lab.raw, stream, "train")
        assert (info["num_ack_pending"], info["num_redelivered"]) == (HELD, 0)
        await cluster.kill(info["cluster"]["leader"])
        await lab.redelivered(stream, HELD)
        await asyncio.gather(*(lab.told(job) for job in jobs))
        records = await asyncio.gather(*(lab.ended(job) for job in jobs))
        assert {(record.state, record.attempt) for record in records} == {(State.SUCCEEDED, 1)}
        assert {record.id: record.container for record in records} == before
        assert len(lab.runs.all()) == HELD
        assert lab.runs.doubled() == []
        await lab.nothing_left()
