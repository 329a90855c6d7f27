"""The client of the EC2 metadata service, against a stand-in of its second version; and an agent that heeds it.

Source of the protocol: "Use the Instance Metadata Service" and "Spot Instance interruption notices", EC2 user guide.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from agent.adapters import imds
from agent.adapters.imds import ADDRESS, ADDRESS_VARIABLE, Imds, metadata_address
from launch.core.states import Reason, State
from tests.integration.chaos.agents import AgentProcess
from tests.integration.chaos.lab import open_chaos
from tests.support.nats_server import NatsServer


class Metadata:
    """One instance's metadata service: no notice stands until one is given. Refuses whoever has no valid token."""

    def __init__(self) -> None:
        self.address = ""
        self.notice: str | None = None
        self.tokens: list[str] = []
        self.asked = 0
        self.hang = asyncio.Event()
        self.hang.set()

    def forget_tokens(self) -> None:
        self.tokens = [f"old-{token}" for token in self.tokens]

    async def token(self, request: web.Request) -> web.Response:
        # Required by the protocol: 1 to 21,600 seconds.
        if not 1 <= int(request.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600:
            return web.Response(status=400)
        self.tokens.append(f"token-{len(self.tokens)}")
        return web.Response(text=self.tokens[-1])

    async def action(self, request: web.Request) -> web.Response:
        await self.hang.wait()
        self.asked += 1
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return web.Response(status=401)
        return web.Response(status=404) if self.notice is None else web.Response(text=self.notice)


@asynccontextmanager
async def served() -> AsyncIterator[Metadata]:
    service = Metadata()
    app = web.Application()
    app.router.add_put("/latest/api/token", service.token)
    app.router.add_get("/latest/meta-data/spot/instance-action", service.action)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        service.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield service
    finally:
        service.hang.set()
        await runner.cleanup()


@pytest.fixture
async def metadata() -> AsyncIterator[Metadata]:
    async with served() as service:
        yield service


@pytest.fixture
async def client(metadata: Metadata) -> AsyncIterator[Imds]:
    client = Imds(metadata.address)
    yield client
    await client.close()


async def test_without_a_notice_there_is_none_and_one_token_serves_many_questions(
    metadata: Metadata, client: Imds
) -> None:
    for _ in range(5):
        assert await client.interruption() is None
    assert (len(metadata.tokens), metadata.asked) == (1, 5)


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
async def test_a_notice_says_when(metadata: Metadata, client: Imds, action: str) -> None:
    metadata.notice = json.dumps({"action": action, "time": "2026-03-01T08:22:00Z"})
    assert await client.interruption() == datetime(2026, 3, 1, 8, 22, tzinfo=UTC)


async def test_a_token_that_has_run_out_is_replaced(metadata: Metadata, client: Imds) -> None:
    assert await client.interruption() is None
    metadata.forget_tokens()
    metadata.notice = json.dumps({"action": "terminate", "time": "2026-03-01T08:22:00Z"})
    assert await client.interruption() is None
    assert await client.interruption() is not None
    assert len(metadata.tokens) == 2


@pytest.mark.parametrize(
    "notice", ["", "no json", "[]", "{}", '{"action": "reboot", "time": "2026-03-01T08:22:00Z"}', '{"action": "stop"}',
               '{"action": "stop", "time": "soon"}', '"stop"', '{"action": "stop", "time": 5}']
)  # fmt: skip
async def test_what_makes_no_sense_is_no_notice(metadata: Metadata, client: Imds, notice: str) -> None:
    metadata.notice = notice
    assert await client.interruption() is None


async def test_who_does_not_answer_has_nothing_to_say(
    metadata: Metadata, client: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imds, "TIMEOUT_S", 0.2)
    metadata.hang.clear()
    assert await client.interruption() is None
    metadata.hang.set()
    monkeypatch.setattr(imds, "TIMEOUT_S", 20)
    metadata.notice = json.dumps({"action": "stop", "time": "2026-03-01T08:22:00Z"})
    assert await client.interruption() is not None


async def test_nobody_there_is_no_notice() -> None:
    client = Imds("http://127.0.0.1:9")
    assert await client.interruption() is None
    await client.close()
    await client.close()


def test_where_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vendor = tmp_path / "sys_vendor"
    monkeypatch.setattr(imds, "_VENDOR", vendor)
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert metadata_address() is None
    vendor.write_text("QEMU\n")
    assert metadata_address() is None
    vendor.write_text("Amazon EC2\n")
    assert metadata_address() == ADDRESS
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://127.0.0.1:1338/")
    assert metadata_address() == "http://127.0.0.1:1338"


@pytest.mark.docker
@pytest.mark.nats
@pytest.mark.slow
async def test_an_agent_that_is_told_gives_its_jobs_back_and_leaves(
    metadata: Metadata,
    fresh_nats: Callable[..., NatsServer],
    queue_name: str,
    queue_containers: str,
    busybox_image: str,
    tmp_path: Path,
) -> None:
    async with open_chaos(fresh_nats().url, queue_name, busybox_image, tmp_path) as lab:
        spot = await lab.started("spot", **{ADDRESS_VARIABLE: metadata.address})
        job = await lab.submit(command=["sh", "-c", "trap '' TERM; echo ready; sleep 3600"], stop_grace="1s")
        await lab.running(job)
        await lab.said(job, b"ready")
        other: AgentProcess = await lab.started("other")
        told_at = time.monotonic()
        metadata.notice = json.dumps(
            {"action": "terminate", "time": f"{datetime.now(UTC) + timedelta(seconds=120):%Y-%m-%dT%H:%M:%SZ}"}
        )
        record = await lab.running(job, 2)
        assert time.monotonic() - told_at < 30
        assert (record.agent, record.failures, record.interruptions) == (other.agent_id, 0, 1)
        before = next(one for one in await lab.client.records.history(job) if one.state is State.QUEUED)
        assert before.reason is Reason.PREEMPTED
        assert await spot.ended() == 0
        assert lab.runs.doubled() == []
        await lab.api.cancel(job)
        assert (await lab.ended(job)).state is State.CANCELLED
        await lab.nothing_left()
