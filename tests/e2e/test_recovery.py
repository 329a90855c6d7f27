"""What a user sees and types when things end early: kill -9, SIGTERM, drain, cancel and retry, by the real commands."""

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.e2e.world import Command, World
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]

HOLD = "trap 'echo bye; exit 0' USR1; echo started; while :; do sleep 0.05; done"


class Site:
    """A queue, an image, and an agent that can be started again as the same one."""

    def __init__(self, world: World, queue: str, image: str) -> None:
        self.world = world
        self.queue = queue
        self.image = image
        world.run("queue", "apply", str(world.queue_file(queue, provider={"type": "static"})))

    def agent(self, name: str = "a") -> Command:
        agent = self.world.start(
            "agent", "-q", self.queue, "--agent-id", f"{self.queue}-{name}", "--max-jobs", "2",
            "--presence-ttl", "4s", "--ack-wait", "3s",
        )  # fmt: skip
        agent.until("agent ready")
        return agent

    def submit(self, script: str, **keys: object) -> str:
        path = self.world.home / f"job-{time.monotonic_ns()}.yaml"
        path.write_text(json.dumps({"image": self.image, "command": ["sh", "-c", script], **keys}))
        return self.world.run("submit", "-q", self.queue, "-c", str(path)).out[0]

    def follow(self, job: str) -> Command:
        """Follow the job's output; returns once it has begun."""
        follower = self.world.start("logs", job, "-f")
        follower.until("started")
        return follower

    def show(self, job: str) -> dict[str, Any]:
        return dict(self.world.json("show", job))

    def containers(self) -> list[dict[str, Any]]:
        return engine.containers(f"launch.queue={self.queue}")

    def release(self, job: str) -> None:
        (mine,) = [one for one in self.containers() if one["Labels"]["launch.seq"] == job.split("/")[1]]
        engine.call("POST", f"/containers/{mine['Id']}/kill", {"signal": "USR1"})


@pytest.fixture
def site(served: World, queue_name: str, queue_containers: str, busybox_image: str) -> Site:
    return Site(served, queue_name, busybox_image)


def test_kill_9_and_start_again_goes_on_with_the_same_container(site: Site) -> None:
    agent = site.agent()
    job = site.submit(HOLD)
    follower = site.follow(job)
    (before,) = site.containers()
    os.kill(agent.process.pid, signal.SIGKILL)
    agent.process.wait()
    site.agent()
    site.release(job)
    assert follower.ended() == 0
    assert follower.out == ["started", "bye"]
    shown = site.show(job)
    assert (shown["state"], shown["attempt"], shown["container"]) == ("succeeded", 1, before["Id"])


def test_a_second_sigterm_leaves_the_containers_to_the_next_process(site: Site) -> None:
    agent = site.agent()
    job = site.submit(HOLD)
    follower = site.follow(job)
    (before,) = site.containers()
    agent.signal(signal.SIGTERM)
    agent.until("taking no new jobs")
    assert agent.process.poll() is None
    agent.signal(signal.SIGTERM)
    assert agent.ended() == 128 + signal.SIGTERM
    assert [one["State"] for one in site.containers()] == ["running"]
    site.agent()
    site.release(job)
    assert follower.ended() == 0
    shown = site.show(job)
    assert (shown["state"], shown["attempt"], shown["container"]) == ("succeeded", 1, before["Id"])


def test_agents_drain_takes_no_new_jobs_and_ends_the_agent_when_its_own_are_over(site: Site) -> None:
    first = site.agent("a")
    job = site.submit(HOLD)
    site.follow(job)
    drained = site.world.run("agents", "drain", f"{site.queue}-a")
    assert drained.out == [f"{site.queue}-a is draining: it still holds {job}"]
    late = site.submit("true")
    second = site.agent("b")
    site.world.run("wait", late, "--timeout", "30s")
    assert site.show(late)["agent"] == f"{site.queue}-b"
    site.release(job)
    assert first.ended() == 0
    assert site.show(job)["state"] == "succeeded"
    assert [one["agent_id"] for one in site.world.json("agents", "-q", site.queue)] == [f"{site.queue}-b"]
    assert site.world.run("agents", "drain", f"{site.queue}-b").out[0].startswith(f"{site.queue}-b ")
    assert second.ended() == 0
    gone = site.world.run("agents", "drain", f"{site.queue}-b", code=1)
    assert "there is no agent" in gone.err[-1]


def test_a_cancel_needs_no_agent_and_a_retry_makes_a_new_job(site: Site) -> None:
    job = site.submit("exit 3", retries=1)
    assert site.world.run("cancel", job).out == [f"{job} cancelled"]
    assert site.show(job)["state"] == "cancelled"
    refused = site.submit(HOLD)
    assert "not over" in site.world.run("retry", refused, code=1).err[-1]
    site.world.run("cancel", refused)
    again = site.world.run("retry", job).out[0]
    assert again != job
    site.agent()
    assert site.world.run("wait", again, code=3).out == [f"{again} failed"]
    shown = site.show(again)
    assert (shown["attempt"], shown["failures"], shown["reason"]) == (2, 2, "exit_nonzero")
    assert site.show(job)["state"] == "cancelled"
    timeline = "\n".join(site.world.run("show", again).out)
    assert "(attempt 1" in timeline
    assert "(attempt 2" in timeline


def test_a_cancel_stops_a_running_job_that_says_nothing(site: Site) -> None:
    agent = site.agent()
    job = site.submit(f"{HOLD}", stop_grace="5s")
    follower = site.follow(job)
    assert site.world.run("cancel", job).out == [f"{job} cancelling"]
    site.world.run("wait", job, "--timeout", "20s", code=None)
    shown = site.show(job)
    assert (shown["state"], shown["reason"]) == ("cancelled", "cancelled")
    follower.ended()
    # The record ends before the container is removed; a drain waits for both.
    agent.signal(signal.SIGTERM)
    assert agent.ended() == 0
    assert site.containers() == []
