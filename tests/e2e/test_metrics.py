"""What a job reports, by the real commands on the real engine and server: shown live, each once, whatever dies."""

import csv
import json
import os
import signal
from typing import Any

import pytest

from tests.e2e.test_recovery import Site
from tests.e2e.world import World

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]

COUNT = """
trap 'go=1' USR1
i=0
while [ $i -lt 2000 ]; do
    printf 'working\\r@metrics {"n": %d, "step": %d}\\n' $i $i
    echo "{\\"f\\": $i}" >> $LAUNCH_METRICS
    [ $((i % 20)) = 0 ] && sleep 0.01
    i=$((i+1))
done
until [ "$go" ]; do sleep 0.05; done
printf '@metrics {"e": 1}' >&2
"""


@pytest.fixture
def site(served: World, queue_name: str, queue_containers: str, busybox_image: str) -> Site:
    return Site(served, queue_name, busybox_image)


def reported(points: list[dict[str, Any]], name: str) -> list[float]:
    return [point["values"][name] for point in points if name in point["values"]]


def test_points_are_shown_live_and_each_is_there_once_after_kill_9(site: Site) -> None:
    agent = site.agent()
    job = site.submit(COUNT)
    live = site.world.start("metrics", job, "--follow", "--json", "--no-usage")
    live.until('"n": 300')
    os.kill(agent.process.pid, signal.SIGKILL)  # in the middle of it
    agent.process.wait()
    site.agent()
    live.until('"n": 1999')
    usage = site.world.start("metrics", job, "--follow", "--name", "cpu")
    usage.until("cpu=")
    site.release(job)
    assert live.ended() == 0
    assert usage.ended() == 0
    assert site.show(job)["state"] == "succeeded"

    points = site.world.json("metrics", job)
    for name, found in (("n", range(2000)), ("f", range(2000)), ("e", [1])):
        assert reported(points, name) == list(found), name
    assert [point["step"] for point in points if "n" in point["values"]] == list(range(2000))
    assert {point["attempt"] for point in points} == {1}
    assert {point["source"] for point in points} == {"stdout", "stderr", "file", "usage"}
    used = next(point["values"] for point in points if "cpu" in point["values"])
    assert set(used) == {"cpu", "memory_bytes", "net_rx_bytes_per_s", "net_tx_bytes_per_s"}
    assert 0 < used["memory_bytes"] < 2**30
    followed = [json.loads(line) for line in live.out]
    assert followed == [point for point in points if point["source"] != "usage"]

    rows = list(csv.DictReader(site.world.run("metrics", job, "--csv", "--name", "n", "--attempt", "1").out))
    assert [(row["step"], row["name"], row["value"]) for row in rows] == [(str(n), "n", str(n)) for n in range(2000)]
    table = [line.split() for line in site.world.run("metrics", job, "--no-usage").out]
    assert ["n", "1999", "0", "1999", "2000", "1999"] in table
    lines = site.world.run("logs", job).out
    assert '@metrics {"n": 1999, "step": 1999}' in lines  # a point stays in the log


def test_a_job_that_reports_nothing_is_told_how(site: Site) -> None:
    job = site.submit("true")
    said = site.world.run("metrics", job)
    assert said.out == []
    assert "has reported nothing" in said.err[0]
    assert site.world.json("metrics", job) == []
    assert "there is no job" in site.world.run("metrics", f"{site.queue}/99", code=1).err[-1]


def test_wandbs_variables_reach_the_container_as_they_are(site: Site) -> None:
    given = {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "a project, with spaces=and signs",
        "WANDB_RUN_ID": "0001",
        "WANDB_DIR": "/tmp/w",
        "WANDB_TAGS": "a,b",
    }
    site.agent()
    job = site.submit("env | grep ^WANDB_ | sort", env=given)
    assert site.world.run("logs", job, "-f").out == sorted(f"{name}={value}" for name, value in given.items())
