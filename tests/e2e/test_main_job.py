"""The main job with the real commands: a manager, a job, a worker that comes and goes, and nothing left behind."""

import json
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from launch.adapters import nats
from tests.e2e.world import World
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]

WAITS_FOR_AN_AGENT = re.compile("/1 is queued: (no agents are present yet|.* asked for |.* booting since )")
"""How far the scaler is at the first look is not the test's to say."""


def processes_of(home: Path) -> list[str]:
    """Command lines of all processes that live in this data directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(home) in word for word in process.cmdline()):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_from_nothing_to_nothing(world: World, queue_name: str, queue_containers: str, busybox_image: str) -> None:
    up = world.start("--queue", str(world.queue_file(queue_name)))
    ready = up.until("ready: ")
    assert ready.startswith("ready: nats://127.0.0.1:")
    assert ready.endswith(f", queue {queue_name}")
    assert world.json("agents") == []

    script = "echo one; echo oops >&2; echo $0 $N; exit 3"
    job_file = world.home / "job.yaml"
    spec = {"image": busybox_image, "command": ["sh", "-c", script, "0.001"], "env": {"N": 1e3}}
    job_file.write_text(json.dumps(spec))
    submit = world.run("submit", "--queue", queue_name, "--config", str(job_file), "--follow", code=3)
    assert submit.out == ["one", "0.001 1000.0"]
    assert "oops" in submit.err
    assert any(WAITS_FOR_AN_AGENT.search(line) for line in submit.err)
    assert any("failed" in line and "exit_nonzero" in line for line in submit.err)

    # The short form, exactly as the project's description has it.
    typed = world.home / "my_training_job.yaml"
    typed.write_text(f"job_type: train-model\nimage: {busybox_image}\ncommand:\n  - echo\n  - 0.0010\n")
    job = world.run("--job-type", "train-model", "--queue", queue_name, "--config", str(typed)).out
    assert job == [f"{queue_name}/2"]
    assert world.run("wait", job[0]).out == [f"{job[0]} succeeded"]
    assert world.run("logs", job[0]).out == ["0.0010"]

    up.until("has left")
    # That may have been the first job's agent, and the second's has the same name.
    world.json_until(lambda agents: agents == [], "agents")  # idle: scaled to zero
    up.signal(signal.SIGINT)
    assert up.ended() == 0
    assert up.err[-1] == "launch: stopped"
    assert processes_of(world.home) == []
    assert engine.containers(queue_containers) == []


def test_ctrl_c_waits_for_running_jobs_and_takes_everything_along(
    world: World, queue_name: str, queue_containers: str, busybox_image: str
) -> None:
    up = world.start("up", str(world.queue_file(queue_name, idle_timeout="1h")))
    url = up.until("ready: ").split()[1].rstrip(",")
    follower = world.start(
        "submit", "-q", queue_name, "--image", busybox_image, "-f", "--",
        "sh", "-c", "trap 'echo finished; exit 0' USR1; echo started; while :; do sleep 0.05; done",
    )  # fmt: skip
    follower.until("started")
    up.signal(signal.SIGINT)
    up.until("waiting up to")
    (container,) = engine.containers(queue_containers)
    engine.call("POST", f"/containers/{container['Id']}/kill", {"signal": "USR1"})
    assert follower.ended() == 0
    assert follower.out == ["started", "finished"]
    assert up.ended() == 0
    assert processes_of(world.home) == []
    host, port = url.removeprefix("nats://").split(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)


async def test_any_nats_client_may_publish(working: World, nats_url: str, queue_name: str, busybox_image: str) -> None:
    broker = await nats.connect(nats_url, name="raw")
    try:
        body = json.dumps({"image": busybox_image, "command": ["echo", 0.5]}).encode()
        good = await broker.jobs.publish(queue_name, "never-seen-before", body)
        bad = await broker.jobs.publish(queue_name, "never-seen-before", b'{"image": "x", "comand": []}')
    finally:
        await broker.close()
    working.run("wait", str(good.job), "--timeout", "30s")
    assert working.run("logs", str(good.job)).out == ["0.5"]
    working.run("wait", str(bad.job), code=1)
    record = working.json("show", str(bad.job))
    assert (record["state"], record["reason"]) == ("failed", "invalid_spec")
    assert "did you mean 'command'?" in record["message"]
    assert record["raw"] == '{"image": "x", "comand": []}'
