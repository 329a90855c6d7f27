"""A secured server as its users have it: each command logs in as its role, a job goes through, the rest is refused."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import Command, World

pytestmark = [pytest.mark.docker, pytest.mark.nats, pytest.mark.slow, pytest.mark.timeout(240)]


class Secured:
    """A running `launch server --secure`, and users of its roles, each with a home of its own."""

    def __init__(self, folder: Path, *queues: str) -> None:
        self._folder = folder
        self.owner = World(folder / "owner")
        self.owner.home.mkdir()
        self._worlds = [self.owner]
        self.server = self.start(*(part for queue in queues for part in ("-q", queue)))

    def start(self, *options: str) -> Command:
        """Start the server; it says who may log in by what, and where it is."""
        server = self.owner.start("server", "--secure", *options)
        self.url = server.until("ready: ").partition("ready: ")[2]
        return server

    def seed(self, user: str) -> Path:
        """The file with the seed of this user."""
        return self.owner.data / "nkeys" / f"{user}.nk"

    def user(self, user: str) -> World:
        """Somebody else who was given this user's seed, and nothing more."""
        world = World(self._folder / user, url=self.url)
        world.home.mkdir(exist_ok=True)
        mine = world.home / "key.nk"
        mine.write_bytes(self.seed(user).read_bytes())
        world.env["NATS_NKEY"] = str(mine)
        self._worlds.append(world)
        return world

    def close(self) -> None:
        for world in reversed(self._worlds):
            world.close()


def denials(command: Command) -> list[str]:
    """What the server did not let it do, as far as it said so."""
    said = re.compile("permissions violation|may not (publish|subscribe|make)", re.IGNORECASE)
    return [line for line in (*command.out, *command.err) if said.search(line)]


@pytest.fixture
def secured(tmp_path: Path, queue_name: str) -> Iterator[Secured]:
    made = Secured(tmp_path, queue_name)
    yield made
    made.close()


def test_a_job_goes_through_and_each_role_does_its_part(
    secured: Secured, queue_name: str, queue_containers: str, busybox_image: str
) -> None:
    per_queue = [f"{role}-{queue_name}" for role in ("publisher", "operator", "agent")]
    for user in ("admin", "scaler", "viewer", *per_queue):
        assert f"launch: {user}: NATS_NKEY={secured.seed(user)}" in secured.server.err
    admin, publisher = secured.user("admin"), secured.user(f"publisher-{queue_name}")
    agent, viewer = secured.user(f"agent-{queue_name}"), secured.user("viewer")
    submit = ("submit", "-q", queue_name, "--image", busybox_image, "--")
    nobody = World(admin.home, url=secured.url).run("jobs", code=1)
    assert "can't connect to NATS" in nobody.err[0]
    assert "log in by NATS_CREDS, NATS_NKEY" in nobody.err[0]
    early = publisher.run(*submit, "true", code=1)
    assert "is not there, and this user may not make it" in early.err[0]
    file = str(admin.queue_file(queue_name, provider={"type": "static"}))
    admin.run("queue", "apply", file)
    assert "may not publish on" in viewer.run("queue", "pause", queue_name, code=1).err[0]
    working = agent.start("agent", "-q", queue_name)
    working.until("agent ready")

    job = publisher.run("submit", "-q", queue_name, "--image", busybox_image, "--follow", "--", "echo", "hello").out
    assert "hello" in job
    assert viewer.json("show", f"{queue_name}/1")["state"] == "succeeded"
    assert viewer.run("logs", f"{queue_name}/1").out == ["hello"]
    assert [found["id"] for found in viewer.json("jobs", "-q", queue_name)] == [f"{queue_name}/1"]
    assert "name a queue that it has a role for: launch jobs -q" in publisher.run("jobs", code=1).err[0]
    assert len(publisher.json("jobs", "-q", queue_name)) == 1
    long = publisher.run(*submit, "sleep", "600").out[0]
    for world in (viewer, publisher):
        refused = world.run("cancel", long, code=1)
        assert f"this user may not publish on $KV.jobs.{long.replace('/', '.')} (use credentials" in refused.err[0]
    refused = viewer.run(*submit, "true", code=1)
    assert f"may not publish on queue.{queue_name}" in refused.err[0]
    secured.user(f"operator-{queue_name}").run("cancel", long)
    assert viewer.run("wait", long, code=None).process.returncode != 0
    assert viewer.json("show", long)["state"] == "cancelled"
    assert denials(working) == []


def test_the_scaler_gives_its_agents_an_agents_login(
    secured: Secured, queue_name: str, queue_containers: str, busybox_image: str
) -> None:
    admin, scaler = secured.user("admin"), secured.user("scaler")
    local = {"type": "local"}
    admin.run("queue", "apply", str(admin.queue_file(queue_name, provider=local)))
    secured.user("viewer").start("scaler", "-q", queue_name).until(
        "not scaled: this user may not publish on $KV.leases"
    )
    scaling = scaler.start("scaler", "-q", queue_name)
    publisher = secured.user(f"publisher-{queue_name}")
    job = publisher.run("submit", "-q", queue_name, "--image", busybox_image, "--", "echo", "scaled").out[0]
    scaling.until("the scaler's own login may not run jobs")
    login = {**local, "credentials": str(secured.seed(f"agent-{queue_name}"))}
    admin.run("queue", "apply", str(admin.queue_file(queue_name, provider=login)))
    assert publisher.run("wait", job).process.returncode == 0
    assert secured.user("viewer").run("logs", job).out == ["scaled"]
    assert denials(scaling) == []


def test_launch_up_gives_agents_of_its_secured_server_their_key(
    tmp_path: Path, queue_name: str, queue_containers: str, busybox_image: str
) -> None:
    secured = Secured(tmp_path)
    owner = secured.owner
    try:
        up = owner.start("up", str(owner.queue_file(queue_name)))
        up.until("ready: ")
        job = owner.run("submit", "-q", queue_name, "--image", busybox_image, "--", "echo", "up").out[0]
        told = up.until(f"there is no key for agents of queue {queue_name}")
        assert f"launch server --secure -q {queue_name}" in told
        for running in (up, secured.server):
            running.signal(signal.SIGTERM)
            running.ended()
        owner.run("queue", "list", code=1)
        secured.start("-q", queue_name)
        owner.start("up", str(owner.queue_file(queue_name))).until("ready: ")
        owner.run("wait", job)
        assert owner.run("logs", job).out == ["up"]
    finally:
        secured.close()
