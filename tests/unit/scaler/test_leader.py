"""Leadership: one at a time, whatever happens to connections and answers; on a loop with virtual time."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from scaler.leader import Identity, Lease
from tests.fakes.broker import FakeBroker, FakeServer
from tests.unit.agent.worlds import simulated

TTL_S, RENEW_S = 5.0, 1.5


class Scaler:
    """Whoever wants to lead."""

    def __init__(self, server: FakeServer, name: str, me: Identity | None = None) -> None:
        self.broker: FakeBroker = server.connect(name)
        self.followed: list[str] = []
        self.me = me or replace(Identity.mine(), name=name, nonce=name)
        self.lease = Lease(
            self.broker.leases, "q", self.me, ttl_s=TTL_S, renew_s=RENEW_S, follow=self.followed.append
        )  # fmt: skip
        self.keeping: asyncio.Task[None] | None = None

    async def lead(self) -> bool:
        """Try once, and keep what was got."""
        if not await self.lease.try_once():
            return False
        self.keeping = asyncio.create_task(self.lease.keep())
        return True

    async def until_leading(self) -> float:
        """Try as a follower does; how long it took."""
        began = now_s()
        while not await self.lead():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(RENEW_S)
        return now_s() - began

    async def kill(self) -> None:
        """No more word of it."""
        self.broker.disconnect()
        if self.keeping is not None:
            self.keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self.keeping


def now_s() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_one_leads_and_the_others_know_who() -> None:
    server = FakeServer()
    first, second = Scaler(server, "one"), Scaler(server, "two")
    assert await first.lead()
    for _ in range(20):
        assert not await second.lead()
        await asyncio.sleep(RENEW_S)
    assert first.lease.held
    assert not second.lease.held
    assert second.followed == ["one"]
    await first.kill()


@simulated
async def test_a_dead_leader_is_followed_within_seconds_and_one_that_leaves_at_once() -> None:
    server = FakeServer()
    first, second, third = (Scaler(server, name) for name in ("one", "two", "three"))
    assert await first.lead()
    await asyncio.sleep(60)
    await first.kill()
    assert await second.until_leading() <= TTL_S + RENEW_S
    assert second.keeping is not None
    second.keeping.cancel()
    await second.lease.release()
    assert await third.until_leading() <= RENEW_S
    await third.kill()


@simulated
async def test_who_cannot_renew_stops_before_another_can_begin() -> None:
    server = FakeServer()
    first, second = Scaler(server, "one"), Scaler(server, "two")
    assert await first.lead()
    await asyncio.sleep(10)
    first.broker.disconnect()
    while not await second.lead():  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.01)
    assert not first.lease.held
    assert first.lease.lost.is_set()
    await second.kill()


@simulated
async def test_a_lost_answer_to_a_renewal_is_no_loss() -> None:
    server = FakeServer()
    first, second = Scaler(server, "one"), Scaler(server, "two")
    assert await first.lead()
    for _ in range(10):
        await asyncio.sleep(4)
        first.broker.lose_replies(1)
    await asyncio.sleep(10)
    assert first.lease.held
    assert not await second.lead()
    await first.kill()


@simulated
async def test_the_lease_of_a_process_of_this_machine_that_is_dead_is_taken_over_at_once() -> None:
    server = FakeServer()
    dead = Scaler(server, "dead", replace(Identity.mine(), name="dead", pid=2**22 + 1))
    assert await dead.lead()
    await dead.kill()
    second = Scaler(server, "two")
    assert await second.lead()
    assert second.followed == []
    await second.kill()


@pytest.mark.parametrize("change", [{"place": "elsewhere"}, {"place": ""}, {}])
@simulated
async def test_a_process_of_another_machine_or_one_that_lives_is_not_taken_for_dead(change: dict[str, str]) -> None:
    other = replace(Identity.mine(), nonce="other", **change)  # type: ignore[arg-type]
    assert not other.surely_dead(Identity.mine().place)
    if change:
        gone = replace(other, pid=2**22 + 1)
        assert not gone.surely_dead(Identity.mine().place)


def test_a_pid_that_was_given_to_another_process_says_that_the_first_is_dead() -> None:
    me = Identity.mine()
    assert replace(me, started=me.started - 100).surely_dead(me.place)


def test_an_identity_reads_back_and_anything_else_is_none() -> None:
    me = Identity.mine()
    assert Identity.parse(str(me)) == me
    for text in ("", "somebody", "a b c d e", "a b 1 x e"):
        assert Identity.parse(text) is None


@pytest.mark.parametrize("seed", range(30))
@simulated
async def test_never_two_at_a_time(seed: int) -> None:
    """Connections that break, answers that get lost, scalers that are killed and replaced."""
    dice, server = random.Random(seed), FakeServer(latency_s=0.05)  # noqa: S311 - a seed gives the same run
    scalers = [Scaler(server, f"s{number}") for number in range(3)]
    stop = asyncio.Event()

    async def follow(scaler: Scaler) -> None:
        while not stop.is_set():
            with suppress(Exception):
                if await scaler.lead():
                    await scaler.lease.lost.wait()
            await asyncio.sleep(RENEW_S)

    following = [asyncio.create_task(follow(scaler)) for scaler in scalers]
    led = 0
    for _ in range(2000):
        held = [scaler.me.name for scaler in scalers if scaler.lease.held]
        assert len(held) <= 1, held
        led += len(held)
        scaler = dice.choice(scalers)
        match dice.randrange(60):
            case 0:
                scaler.broker.disconnect()
            case 1 | 2 | 3:
                scaler.broker.reconnect()
            case 4:
                scaler.broker.lose_replies(dice.randrange(1, 3))
            case _:
                pass
        await asyncio.sleep(0.1)
    assert led > 1000
    for task in following:
        task.cancel()
    for scaler in scalers:
        await scaler.kill()
