"""What a scaler has told, as commands show it: `queue show`, `queue cost`, and why a job waits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from launch.adapters.nats import NatsBroker, connect
from launch.core.capacity import Amount
from launch.scaling import (
    BootTrouble,
    DecisionReport,
    InstanceEnd,
    InstanceReport,
    InstanceStage,
    ScalingReport,
)
from tests.e2e.world import World

pytestmark = [pytest.mark.nats, pytest.mark.slow]

ROOM = Amount(cpu_milli=4000, memory_bytes=2**34, gpus=1, slots=4)
AWS = {"type": "aws", "region": "us-east-1", "instance_type": "g4dn.xlarge", "prices": {"g4dn.xlarge": 0.5}}


def tell(url: str, what: Callable[[NatsBroker], Awaitable[None]]) -> None:
    """Write what a scaler would."""

    async def main() -> None:
        broker = await connect(url, name="a-scaler")
        try:
            await what(broker)
        finally:
            await broker.close()

    asyncio.run(main())


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def instance(name: str, stage: InstanceStage, since_s: float, **changes: object) -> InstanceReport:
    base = InstanceReport(
        id=name, stage=stage, since=ago(since_s), instance_type="g4dn.xlarge", market="spot", zone="us-east-1a",
        capacity=ROOM,
    )  # fmt: skip
    return base.model_copy(update=changes)


def report(queue: str, *instances: InstanceReport, **changes: object) -> ScalingReport:
    base = ScalingReport(
        queue=queue, at=ago(0), leader="host-7", reasons=("launch 1: 1 pending job found no room",),
        instances=instances, max_instances=5, boot_s=70, boot_p99_s=95,
    )  # fmt: skip
    return base.model_copy(update=changes)


@pytest.fixture
def queue(served: World, queue_name: str) -> str:
    """A queue of EC2 instances."""
    file = served.queue_file(queue_name, provider=AWS, max_instances=5, agent_image="me/agent:1")
    served.run("queue", "apply", str(file))
    return queue_name


def submit(served: World, queue: str, *options: str) -> str:
    (job,) = served.run("submit", "-q", queue, "--image", "x", *options, "--", "true").out
    return job


def test_why_a_job_waits(served: World, nats_url: str, queue: str) -> None:
    first, second, urgent = (submit(served, queue, *more) for more in ((), (), ("--priority", "high")))
    missing = "no scaler has looked at the queue"
    assert missing in served.json("show", first)["why"]
    booting = report(queue, instance("i-0ab", InstanceStage.BOOTING, 41))
    tell(nats_url, lambda broker: broker.scaling.report(booting))
    why = served.json("show", second)["why"]
    assert re.fullmatch(r"2 ahead of it; i-0ab booting since \d+ s, usually 70 s", why)
    assert served.json("show", urgent)["why"].startswith("i-0ab booting since")
    line = next(line for line in served.run("show", first).out if line.startswith("why:"))
    assert "1 ahead of it; i-0ab booting since" in line


def test_why_a_followed_job_waits(served: World, nats_url: str, queue: str) -> None:
    tell(nats_url, lambda broker: broker.scaling.report(report(queue, instance("i-0ab", InstanceStage.BOOTING, 41))))
    follower = served.start("submit", "-q", queue, "--image", "x", "--follow", "--", "true")
    follower.until("is queued: i-0ab booting since")
    failed = BootTrouble(failures=3, why="i-0ab: manifest unknown", retry_at=ago(-60))
    tell(nats_url, lambda broker: broker.scaling.report(report(queue, boots=failed)))
    line = follower.until("3 instances never registered (i-0ab: manifest unknown)")
    assert line.endswith("is agent_image me/agent:1 pullable from there?")
    served.run("cancel", f"{queue}/1")
    follower.ended()


def test_queue_show_tells_how_it_is_scaled(served: World, nats_url: str, queue: str) -> None:
    before = served.run("queue", "show", queue).out
    assert f"scaler: no scaler has looked at the queue {queue} yet; start one: launch scaler" in before
    failed = BootTrouble(failures=3, why="i-7: manifest unknown", retry_at=ago(-60))
    told = report(
        queue,
        instance("i-0ab", InstanceStage.BOOTING, 41),
        instance("i-0cd", InstanceStage.READY, 3700, market="on-demand", jobs=2, zone=None),
        boots=failed,
    )
    decisions = [DecisionReport(at=ago(9 - n), leader="host-7", actions=(f"launch {n}",)) for n in range(3)]

    async def write(broker: NatsBroker) -> None:
        await broker.scaling.report(told)
        for made in decisions:
            await broker.scaling.decided(queue, made)

    tell(nats_url, write)
    out = served.run("queue", "show", queue).out
    text = "\n".join(out)
    assert "scaler: host-7, looked " in text
    assert "boots: usually 70 s, 99 of 100 within 95 s" in out
    assert "trouble: 3 instances never registered (i-7: manifest unknown)" in text
    assert "is agent_image me/agent:1 pullable from there?" in text
    assert "reason: launch 1: 1 pending job found no room" in out
    assert "instances: 2 of at most 5" in out
    rows = {line.split()[0]: line.split() for line in out if line.startswith("i-")}
    assert rows["i-0ab"][1:5] == ["g4dn.xlarge", "spot", "us-east-1a", "booting"]
    assert rows["i-0cd"][1:5] == ["g4dn.xlarge", "on-demand", "-", "ready"]
    assert re.fullmatch(r"1h0\dm 2", " ".join(rows["i-0cd"][5:]))
    assert "decisions:" not in out
    last = served.run("queue", "show", queue, "--decisions", "2").out
    assert [line.split("  ")[-1] for line in last[last.index("decisions:") + 1 :]] == ["launch 1", "launch 2"]
    found = served.json("queue", "show", queue)
    assert [one["id"] for one in found["scaling"]["instances"]] == ["i-0ab", "i-0cd"]
    assert [made["actions"] for made in found["decisions"]] == [["launch 0"], ["launch 1"], ["launch 2"]]
    assert len(served.json("queue", "show", queue, "--decisions", "1")["decisions"]) == 1


def test_queue_cost_adds_up(served: World, nats_url: str, queue: str) -> None:
    nothing = served.run("queue", "cost", queue)
    assert (nothing.out, nothing.err) == ([], [f"launch: no instances of the queue {queue} in the last 7d"])
    now = datetime.now(UTC)  # one for all, or the sums are not even

    def before(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    over = InstanceEnd(
        id="i-1", instance_type="g4dn.xlarge", market="spot", capacity=ROOM, launched_at=before(7200),
        registered_at=before(6840), ended_at=now, busy_s={"train": 3600},
    )  # fmt: skip
    other = over.model_copy(update={"id": "i-2", "instance_type": "p3.2xlarge", "busy_s": {}})

    async def write(broker: NatsBroker) -> None:
        await broker.scaling.ended(queue, over)
        await broker.scaling.ended(queue, other)
        runs = instance(
            "i-3", InstanceStage.READY, 0, since=before(3600), registered_at=before(3600), busy_s={"infer": 1800.0}
        )
        await broker.scaling.report(report(queue, runs, at=now))

    tell(nats_url, write)
    out = served.run("queue", "cost", queue).out
    sums = "3 instances, 5.00 instance-hours, $1.50 and 2.00 h unpriced, 70% of that idle or booting"
    assert out[0] == f"queue {queue}, last 7d: {sums}"
    assert "price unknown for p3.2xlarge: name it under prices, in the queue's provider" in out
    rows = {line.split()[0]: line.split()[1:] for line in out}
    assert rows["g4dn.xlarge"] == ["spot", "2", "3.00", "60%", "$1.50"]
    assert rows["train"] == ["1.00", "20%", "$0.50"]
    found = served.json("queue", "cost", queue)
    assert found["price_unknown_for"] == ["p3.2xlarge"]
    for part in ("by_instance", "by_job_type"):
        assert sum(one["hours"] for one in found[part]) == pytest.approx(found["hours"])
        assert sum(one["dollars"] or 0 for one in found[part]) == pytest.approx(found["dollars"])
    late = served.json("queue", "cost", queue, "--since", "30m")
    since = datetime.fromisoformat(late["since"])
    assert before(1800) <= since <= ago(1800)
    # Of what came after `now` nothing is told.
    assert late["hours"] == pytest.approx(3 * (now - since).total_seconds() / 3600)
    # What was paid stays known when the queue is gone.
    served.run("queue", "delete", "--yes", queue)
    assert served.json("queue", "cost", queue)["hours"] == pytest.approx(4.0)


def test_what_is_wrong_with_a_command_is_one_line(served: World, queue_name: str) -> None:
    unknown = served.run("queue", "cost", queue_name, code=1)
    assert f"there is no queue '{queue_name}'" in unknown.err[0]
    wrong = served.run("queue", "cost", queue_name, "--since", "yesterday", code=2)
    assert any("--since" in line for line in wrong.err)
    assert served.run("queue", "show", queue_name, "--decisions", "-1", code=2).out == []
