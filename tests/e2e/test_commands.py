"""Each command on a queue with one agent: outputs, exit codes, `--json` shapes, errors."""

import signal

import pytest

from tests.e2e.world import World

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow]


def submit(world: World, queue: str, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """Submit; what a pipe gets is the id and nothing else."""
    done = world.run("submit", "-q", queue, "--image", image, *options, "--", *command)
    (job,) = done.out
    assert job.startswith(f"{queue}/")
    assert done.err == []
    return job


def test_show_and_jobs_as_json(working: World, queue_name: str, busybox_image: str) -> None:
    options = (
        "-t",
        "train",
        "--name",
        "a title",
        "--priority",
        "high",
        "-e",
        "A=1",
        "--cpu",
        "0.5",
        "--memory",
        "64Mi",
    )
    job = submit(working, queue_name, busybox_image, "true", options=options)
    working.run("wait", job)
    record = working.json("show", job)
    assert record["id"] == job
    assert (record["queue"], record["seq"]) == (queue_name, 1)
    assert (record["state"], record["exit_code"], record["reason"], record["why"]) == ("succeeded", 0, None, None)
    assert (record["job_type"], record["priority"], record["attempt"]) == ("train", "high", 1)
    assert record["agent"] == f"agent-{queue_name}"
    assert (record["held"]["cpu_milli"], record["held"]["memory_bytes"]) == (500, 64 * 2**20)
    assert record["spec"]["env"] == {"A": "1"}
    listed = working.json("jobs", "-q", queue_name)
    assert [found["id"] for found in listed] == [job]
    assert {**listed[0], "why": None} == record
    assert working.json("jobs", "-q", queue_name, "--state", "failed") == []


def test_show_for_people_has_the_timeline(working: World, queue_name: str, busybox_image: str) -> None:
    job = submit(working, queue_name, busybox_image, "sh", "-c", "exit 7")
    working.run("wait", job, code=7)
    text = "\n".join(working.run("show", job).out)
    for word in ("submitted", "preparing (attempt 1", "running", "failed: exit_nonzero", "exit code:   7"):
        assert word in text
    header, row = working.run("jobs", "-q", queue_name).out
    assert header.split()[:3] == ["ID", "TYPE", "STATE"]
    assert row.split()[:5] == [job, "default", "failed", "exit_nonzero", "7"]


def test_wait_for_several_gives_the_first_exit_code_that_is_not_0(
    working: World, queue_name: str, busybox_image: str
) -> None:
    jobs = [submit(working, queue_name, busybox_image, "sh", "-c", f"exit {code}") for code in (0, 5)]
    assert working.run("wait", *jobs, code=5).out == [f"{jobs[0]} succeeded", f"{jobs[1]} failed"]


def test_logs_of_a_finished_and_of_a_running_job(working: World, queue_name: str, busybox_image: str) -> None:
    job = submit(working, queue_name, busybox_image, "sh", "-c", "seq 1 100; echo last >&2; printf end")
    working.run("wait", job)
    done = working.run("logs", job)
    assert done.out == [*map(str, range(1, 101)), "end"]
    assert done.err == ["last"]
    assert len(working.run("logs", job, "--tail", "3").out + done.err) <= 4
    other = working.run("logs", job, "--attempt", "2")
    assert (other.out, other.err) == ([], [f"launch: {job} has no attempt 2; there are: 1 to 1"])
    running = submit(working, queue_name, busybox_image, "sh", "-c", "echo now; sleep 300")
    follower = working.start("logs", "-f", running)
    assert follower.until("now") == "now"
    working.run("cancel", running)
    assert follower.ended() == 0
    working.run("wait", running, code=None)
    assert working.json("show", running)["state"] == "cancelled"


def test_ctrl_c_leaves_the_job_running(working: World, queue_name: str, busybox_image: str) -> None:
    follower = working.start(
        "submit", "-q", queue_name, "--image", busybox_image, "--follow", "--", "sh", "-c", "echo on; sleep 300"
    )
    follower.until("on")
    follower.signal(signal.SIGINT)
    assert follower.ended() == 130
    assert f"launch logs -f {queue_name}/1" in follower.err[-1]
    assert working.json("show", f"{queue_name}/1")["state"] == "running"
    working.run("cancel", f"{queue_name}/1")
    working.run("wait", f"{queue_name}/1", code=None)


def test_agents_as_json_and_for_people(working: World, queue_name: str) -> None:
    (agent,) = working.json("agents", "-q", queue_name)
    assert (agent["agent_id"], agent["queue"], agent["state"]) == (f"agent-{queue_name}", queue_name, "ready")
    assert agent["holds"] == []
    assert agent["capacity"]["slots"] == 2
    header, row = working.run("agents", "-q", queue_name).out
    assert header.split()[:3] == ["AGENT", "QUEUE", "STATE"]
    assert row.split()[:3] == [f"agent-{queue_name}", queue_name, "ready"]


def test_an_agent_drains_on_sigterm(served: World, queue_name: str, busybox_image: str, queue_containers: str) -> None:
    served.run("queue", "apply", str(served.queue_file(queue_name, provider={"type": "static"})))
    agent = served.start("agent", "-q", queue_name)
    agent.until("agent ready")
    job = submit(served, queue_name, busybox_image, "sh", "-c", "echo on; sleep 2; echo done")
    follower = served.start("logs", "-f", job)
    follower.until("on")
    agent.signal(signal.SIGTERM)
    assert agent.ended() == 0
    assert follower.ended() == 0
    assert follower.out == ["on", "done"]
    assert served.json("show", job)["state"] == "succeeded"
    assert served.json("agents", "-q", queue_name) == []


def test_queues_are_made_shown_paused_and_deleted(served: World, queue_name: str, busybox_image: str) -> None:
    file = served.queue_file(queue_name, provider={"type": "static"})
    assert f"{queue_name}: queue {queue_name} created" in served.run("queue", "apply", str(file)).out
    assert served.run("queue", "apply", str(file)).out == [f"{queue_name}: unchanged"]
    job = submit(served, queue_name, busybox_image, "true")
    assert "no agents are present" in served.json("show", job)["why"]
    served.run("queue", "pause", queue_name)
    assert "paused" in served.json("show", job)["why"]
    shown = served.json("queue", "show", queue_name)
    assert (shown["queue_name"], shown["paused"], shown["queued"], shown["running"]) == (queue_name, True, 1, 0)
    assert shown["depth"] == [{"job_type": "default", "priority": "medium", "messages": 1}]
    assert shown["spec"]["provider"]["type"] == "static"
    served.run("queue", "resume", queue_name)
    assert queue_name in [found["queue_name"] for found in served.json("queue", "list")]
    assert served.run("cancel", job).out == [f"{job} cancelled"]
    assert served.json("show", job)["reason"] == "cancelled"
    submit(served, queue_name, busybox_image, "true")
    assert served.run("queue", "delete", queue_name, "--yes").out == [f"{queue_name}: deleted, with 1 unfinished job"]
    assert queue_name not in [found["queue_name"] for found in served.json("queue", "list")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("show", "q-none/1"), "there is no job q-none/1"),
        (("logs", "q-none/1"), "there is no job q-none/1"),
        (("wait", "q-none/1"), "there is no job q-none/1"),
        (("cancel", "q-none/1"), "there is no job q-none/1"),
        (("show", "nonsense"), "'nonsense' is not a job id"),
        (("submit", "-q", "q-none", "--image", "x"), "q-none"),
        (("queue", "show", "q-none"), "q-none"),
        (("queue", "pause", "q-none"), "q-none"),
        (("queue", "delete", "q-none", "--yes"), "q-none"),
        (("agent", "-q", "q-none"), "q-none"),
        (("jobs", "-q", "q-none"), "q-none"),
        (("show", "q-none/1"), "there is no queue 'q-none'"),
        (("wait", "q-none/1", "q-none/2"), "there is no queue 'q-none'"),
        (("agents", "-q", "q-none"), "there is no queue 'q-none'"),
    ],
)
def test_what_does_not_exist_is_one_line(served: World, args: tuple[str, ...], said: str) -> None:
    done = served.run(*args, code=1)
    (line,) = done.err
    assert line.startswith("launch: error: ")
    assert said in line
    assert done.out == []


def test_a_repeat_by_message_id_prints_the_same_id(served: World, queue_name: str, busybox_image: str) -> None:
    served.run("queue", "apply", str(served.queue_file(queue_name)))
    args = ("submit", "-q", queue_name, "--image", busybox_image, "--msg-id", "once")
    assert served.run(*args).out == served.run(*args).out == [f"{queue_name}/1"]


def test_a_message_id_that_fits_in_no_header_is_refused(served: World, queue_name: str, busybox_image: str) -> None:
    served.run("queue", "apply", str(served.queue_file(queue_name)))
    done = served.run("submit", "-q", queue_name, "--image", busybox_image, "--msg-id", "a\r\nb: c", code=1)
    assert done.err == ["launch: error: 'a\\r\\nb: c' can't be a message id (allowed: text without control characters)"]
    assert served.json("jobs", "-q", queue_name) == []


def test_a_queue_that_can_not_be_scaled_is_said_once(world: World) -> None:
    aws = {"type": "aws", "region": "eu-west-1", "instance_type": "g4dn.xlarge"}
    for key in [key for key in world.env if key.startswith("AWS_")]:
        del world.env[key]
    world.env |= {"AWS_EC2_METADATA_DISABLED": "true", "LAUNCH_SCALER_RESYNC_S": "0.2"}
    up = world.start("up", str(world.queue_file("some-queue", provider=aws)))
    refused = "can't look at the instances: NoCredentialsError"
    up.until(f"not scaled: {refused}")
    # The line comes first, then the report.
    told = world.json_until(lambda found: bool(found["scaling"]), "queue", "show", "some-queue")
    assert told["scaling"]["trouble"].startswith(refused)
    up.signal(signal.SIGINT)
    assert up.ended() == 0
    assert sum("not scaled" in line for line in (*up.out, *up.err)) == 1


def test_a_watch_says_each_change_when_piped(working: World, queue_name: str, busybox_image: str) -> None:
    watch = working.start("jobs", "-q", queue_name, "--watch")
    job = submit(working, queue_name, busybox_image, "true")
    watch.until(f"{job} default succeeded")
    watch.signal(signal.SIGINT)
    assert watch.ended() == 130
    assert watch.err == []


def test_the_server_command_serves_until_told(world: World) -> None:
    server = world.start("server", "--port", "0")
    url = server.until("ready: ").split()[1]
    world.run("queue", "apply", str(world.queue_file("some-queue")))
    assert [found["queue_name"] for found in world.json("--server", url, "queue", "list")] == ["some-queue"]
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    world.run("--server", url, "jobs", code=1)


def test_two_ups_share_one_server_and_the_last_ends_it(world: World) -> None:
    first = world.start("up", str(world.queue_file("one")))
    url = first.until("ready: ").split()[1].rstrip(",")
    second = world.start("up", str(world.queue_file("two")))
    assert second.until("ready: ").split()[1].rstrip(",") == url
    first.signal(signal.SIGINT)
    assert first.ended() == 0
    assert any("goes on: another process uses it" in line for line in first.err)
    assert {found["queue_name"] for found in world.json("queue", "list")} == {"one", "two"}
    second.signal(signal.SIGINT)
    assert second.ended() == 0
    world.run("--server", url, "jobs", code=1)
