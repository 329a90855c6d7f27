"""One user with a running `launch up` for the tests that only need jobs to run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A user with an empty home and no server."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def served(tmp_path: Path, nats_url: str) -> Iterator[World]:
    """A user of the session's server, with no workers."""
    world = World(tmp_path, url=nats_url)
    yield world
    world.close()


@pytest.fixture
def working(served: World, queue_name: str, queue_containers: str, busybox_image: str) -> World:
    """A user of the session's server with an agent that works for `queue_name`."""
    served.run("queue", "apply", str(served.queue_file(queue_name, provider={"type": "static"})))
    agent = served.start("agent", "-q", queue_name, "--agent-id", f"agent-{queue_name}", "--max-jobs", "2")
    agent.until("agent ready")
    return served
