"""One agent on the real broker and the real engine: what becomes of a job, with its output and its limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from launch.core.states import Reason, State
from tests.integration.agent_lab import HOLD, Lab
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats]


async def test_a_success_is_recorded_with_its_output_to_the_byte_and_leaves_nothing(lab: Lab) -> None:
    out = "seq 1 20000; printf 'no newline at the end'"
    err = "echo 1 >&2; head -c 50000 /dev/zero | tr '\\0' x >&2; echo >&2"
    async with lab.agent():
        job = await lab.submit(command=["sh", "-c", f"{err}; {out}"])
        record = await lab.ended(job)
    assert (record.state, record.reason, record.exit_code, record.attempt) == (State.SUCCEEDED, None, 0, 1)
    assert await lab.output(job, "stdout") == b"".join(b"%d\n" % n for n in range(1, 20001)) + b"no newline at the end"
    assert await lab.output(job, "stderr") == b"1\n" + b"x" * 50000 + b"\n"
    assert record.container is not None
    assert len(record.container) == 64
    assert record.digest is not None
    assert record.digest.startswith("sha256:")
    assert record.agent == lab.agent_id()
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.submitted_at < record.started_at < record.finished_at
    assert [one.state for one in await lab.client.records.history(job)] == [
        State.PREPARING, State.RUNNING, State.SUCCEEDED,
    ]  # fmt: skip
    assert await lab.left() == 0
    assert lab.containers() == []


ENDINGS: list[tuple[dict[str, Any], Reason, int | None, str]] = [
    ({"command": ["sh", "-c", "echo why; exit 3"]}, Reason.EXIT_NONZERO, 3, "exited with code 3; last output: why"),
    (
        {"command": ["tail", "/dev/zero"], "resources": {"memory": "16Mi"}},
        Reason.OOM_KILLED,
        137,
        "out of memory: its limit is 16Mi; raise resources.memory",
    ),
    ({"command": ["no-such-command"]}, Reason.COMMAND_NOT_FOUND, 127, "no-such-command"),
    ({"command": ["/etc"]}, Reason.COMMAND_NOT_FOUND, None, "/etc"),
    ({"command": ["sh", "-c", "no-such-command"]}, Reason.EXIT_NONZERO, 127, "no-such-command: not found"),
    ({"command": ["sleep", "60"], "timeout": "500ms"}, Reason.TIMED_OUT, 143, "stopped at its timeout of 0.5s"),
    ({"command": ["true"], "image": "Not A Name"}, Reason.INVALID_SPEC, None, "Not A Name"),
    ({"command": ["true"], "user": "nobody-here"}, Reason.INVALID_SPEC, None, "nobody-here"),
    ({"command": ["true"], "resources": {"memory": "1Mi"}}, Reason.INVALID_SPEC, None, "memory"),
]


@pytest.mark.parametrize(("spec", "reason", "code", "words"), ENDINGS, ids=[words for *_, words in ENDINGS])
async def test_each_failure_has_its_reason(
    lab: Lab, spec: dict[str, Any], reason: Reason, code: int | None, words: str
) -> None:
    async with lab.agent():
        record = await lab.ended(await lab.submit(**spec))
    assert record.message is not None
    assert words in record.message
    assert (record.state, record.reason) == (State.FAILED, reason), record.message
    if code is not None:
        assert record.exit_code == code
    assert await lab.left() == 0
    assert lab.containers() == []


LOOK = """
echo memory=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
echo cpu=$(cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us)
echo pids=$(cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max)
echo shm=$(df -k /dev/shm | awk 'END {print $2}')
echo user=$(id -u):$(id -g)
echo dir=$(pwd)
echo privileges=$(awk '/NoNewPrivs/ {print $2}' /proc/self/status)
echo init=$(cat /proc/1/comm)
env | grep -E '^(LAUNCH_|A=|NVIDIA)' | sort
"""


async def test_limits_user_and_environment_are_seen_from_inside(lab: Lab) -> None:
    async with lab.agent(cpu_milli=2000):
        job = await lab.submit(
            "look",
            command=["sh", "-c", LOOK],
            resources={"cpu": 0.5, "memory": "64Mi"},
            shm_size="8Mi",
            user="1000:1001",
            workdir="/tmp",
            env={"A": "0.001", "LAUNCH_JOB": "not yours to say"},
        )
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED
    seen = dict(line.split("=", 1) for line in (await lab.output(job)).decode().splitlines())
    assert seen.pop("cpu").split()[0] == "50000"
    assert "init" in seen.pop("init")
    assert seen == {
        "memory": str(64 * 2**20),
        "pids": "4096",
        "shm": str(8 * 1024),
        "user": "1000:1001",
        "dir": "/tmp",
        "privileges": "1",
        "A": "0.001",
        "LAUNCH_JOB": str(job),
        "LAUNCH_QUEUE": lab.queue,
        "LAUNCH_JOB_TYPE": "look",
        "LAUNCH_ATTEMPT": "1",
        "LAUNCH_ARTIFACTS": "/launch/artifacts",
        "LAUNCH_CHECKPOINT": "/launch/checkpoint",
        "LAUNCH_INPUTS": "/launch/inputs",
        "LAUNCH_METRICS": "/launch/metrics/metrics.jsonl",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }


async def test_a_container_says_whose_it_is(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(command=HOLD, resources={"cpu": 0.5, "memory": "32Mi"})
        record = await lab.until(job, State.RUNNING)
        (listed,) = lab.containers()
        found = engine.inspect(listed["Id"])
        await lab.release(job)
        await lab.ended(job)
    labels = found["Config"]["Labels"]
    assert found["Name"] == f"/launch-{lab.queue}-{job.seq}-1"
    assert found["Id"] == record.container
    assert labels["launch.queue"] == lab.queue
    assert labels["launch.seq"] == str(job.seq)
    assert labels["launch.attempt"] == "1"
    assert labels["launch.agent"] == lab.agent_id()
    assert labels["launch.ack"].startswith(f"$JS.ACK.queue_{lab.queue}.train.1.{job.seq}.")
    host = found["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 32 * 2**20, 32 * 2**20)
    assert (host["Privileged"], host["Binds"], host["AutoRemove"]) == (False, None, False)


async def test_a_silent_job_is_cancelled_at_once(lab: Lab) -> None:
    import launch
    from launch.client import Client

    async with lab.agent():
        client = Client(lab.client)
        job = await client.submit(lab.queue, launch.JobSpec(image=lab.image, command=("sleep", "60")))
        await lab.until(job.id, State.RUNNING)
        await job.cancel()
        record = await job.wait(timeout=10)
    assert lab.containers() == []
    assert (record.state, record.reason, record.exit_code) == (State.CANCELLED, Reason.CANCELLED, 143)
    assert record.cancel is not None
    assert record.finished_at is not None
    assert (record.finished_at - record.cancel.requested_at).total_seconds() < 5  # less than its grace


async def test_a_cancel_at_any_moment_of_the_start_leaves_no_container(lab: Lab) -> None:
    from launch.client import Client

    async def cancel_after(delay_s: float) -> None:
        job = Client(lab.client).job(await lab.submit(command=["sleep", "60"]))
        await lab.until(job.id, State.PREPARING)
        await asyncio.sleep(delay_s)  # to hit another step each time, not to wait for one
        await job.cancel()
        assert (await lab.ended(job.id)).state is State.CANCELLED

    async with lab.agent():
        for step in range(8):
            await cancel_after(step * 0.025)
    assert lab.containers() == []
    assert await lab.left() == 0
