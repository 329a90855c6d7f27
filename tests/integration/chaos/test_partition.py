"""An agent that can't reach the broker, while everybody else can: for less and for longer than its lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from launch.core.states import Reason, State
from tests.integration.chaos.lab import LEASE_S, Chaos, counting, exact
from tests.support.nats_server import NatsServer
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]

DEAF = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
"""Runs until it is killed."""


@pytest.fixture
async def way(server: NatsServer) -> AsyncIterator[Proxy]:
    """The way of one agent to the server."""
    proxy = await Proxy(server.port).start()
    yield proxy
    await proxy.cut()


@pytest.mark.parametrize("fault", ["cut", "black hole", "slow"])
async def test_shorter_than_the_lease_nothing_happens(lab: Chaos, way: Proxy, fault: str) -> None:
    owner = await lab.started("owner", url=way.url)
    job = await lab.submit(command=counting())
    await lab.running(job)
    await lab.said(job, b"\n10\n")
    await lab.started("other")
    match fault:
        case "cut":
            await way.cut()
        case "black hole":
            way.black_hole()
        case _:
            way.delay_s = 0.3
    await asyncio.sleep(LEASE_S / 3)  # the fault itself, not a wait for anything
    if fault == "cut":
        await way.start()
    way.heal()
    way.delay_s = 0.0
    seen = int((await lab.output(job)).split()[-1])
    await lab.said(job, f"\n{seen + 20}\n".encode())
    await lab.told(job)
    record = await lab.ended(job)
    assert (record.state, record.attempt, record.agent) == (State.SUCCEEDED, 1, owner.agent_id)
    assert exact(await lab.output(job))
    assert lab.runs.doubled() == []
    await lab.nothing_left()


@pytest.mark.parametrize("fault", ["cut", "black hole"])
async def test_longer_than_the_lease_both_run_until_contact_is_back(lab: Chaos, way: Proxy, fault: str) -> None:
    """What is not promised (docs/reliability.md): only `--on-lost-contact stop` keeps the two apart."""
    owner = await lab.started("owner", url=way.url)
    job = await lab.submit(command=counting())
    await lab.running(job)
    other = await lab.started("other")
    if fault == "cut":
        await way.cut()
    else:
        way.black_hole()
    record = await lab.running(job, 2)
    assert (record.agent, record.interruptions, record.failures) == (other.agent_id, 1, 0)
    assert lab.runs.of(job)[0].ended_ns == 0
    if fault == "cut":
        await way.start()
    way.heal()
    await lab.runs.ended(job, 1)
    await lab.presence(lambda entry: entry is not None and not entry.holds, "owner")
    assert "fenced" in owner.said()
    await lab.said(job, b"start 2\n")
    await lab.told(job, 2)
    record = await lab.ended(job)
    assert (record.state, record.attempt, record.agent) == (State.SUCCEEDED, 2, other.agent_id)
    ends = [one for one in await lab.client.records.history(job) if one.state.terminal]
    assert len(ends) == 1
    await lab.nothing_left()


async def test_with_stop_the_container_ends_before_another_may_start(lab: Chaos, way: Proxy) -> None:
    owner = await lab.started("owner", "--on-lost-contact", "stop", url=way.url)
    heeds, ignores = await lab.submit(command=counting()), await lab.submit(command=DEAF)
    for job in (heeds, ignores):
        await lab.running(job)
    await lab.said(ignores, b"ready")
    other = await lab.started("other")
    way.black_hole()
    for job in (heeds, ignores):
        await lab.runs.ended(job, 1)
        assert (await lab.running(job, 2)).agent == other.agent_id
        await lab.runs.started(job, 2)
    assert lab.runs.doubled() == []
    way.heal()
    await lab.presence(lambda entry: entry is not None and not entry.holds, "owner")
    await lab.said(heeds, b"start 2\n")
    await lab.told(heeds, 2)
    await lab.told(ignores, 2, "KILL")
    assert ((await lab.ended(heeds)).state, (await lab.ended(heeds)).attempt) == (State.SUCCEEDED, 2)
    # The kill from outside is the infrastructure's doing: it gets a third attempt.
    record = await lab.running(ignores, 3)
    assert (record.interruptions, record.failures) == (2, 0)
    await lab.api.cancel(ignores)
    await lab.told(ignores, 3, "KILL")
    assert (await lab.ended(ignores)).reason is Reason.CANCELLED
    assert lab.runs.doubled() == []
    assert "out of contact" in owner.said()
    await lab.nothing_left()
