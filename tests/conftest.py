"""Fixtures for every test: a real nats-server, a real Docker Engine, a local image, a Hypothesis profile.

The invariant: what a fixture starts, it ends, by its own handle; what it needs and does not find fails the test with
one line instead of skipping it. Tests share the session's server and engine and keep apart by unique queue names
(`queue_name`); a test that stops or starts a server takes its own (`fresh_nats`).
"""

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import engine, images
from tests.support.moto import MotoServer
from tests.support.nats_server import NatsServer

settings.register_profile("ci", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The session's nats-server; do not stop it, take `fresh_nats` for that."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_url(nats_server: NatsServer) -> str:
    """The address of the session's nats-server."""
    return nats_server.url


@pytest.fixture
def fresh_nats(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """A factory of started servers of one's own, for tests that stop one: `fresh_nats().stop()`.

    Keyword arguments go to `NatsServer`. Each has its own port, kept over restarts, and its own store.
    """
    servers: list[NatsServer] = []

    def start(*, config: str = "") -> NatsServer:
        server = NatsServer(tmp_path / f"nats-{len(servers)}", config=config)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """The session's moto; tests keep apart by unique names."""
    server = MotoServer().start()
    yield server
    server.stop()


@pytest.fixture
def queue_name() -> str:
    """A queue name that no other test uses."""
    return f"q-{secrets.token_hex(5)}"


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """The address of a Docker Engine that answers, as DOCKER_HOST has it; containers of jobs are removed at the end."""
    try:
        url = engine.require_engine()
    except engine.EngineError as error:
        pytest.fail(str(error), pytrace=False)
    yield url
    # The safety net: a test removes what it made, and a failed one may not have.
    engine.remove_containers("launch.test")


@pytest.fixture(scope="session")
def docker_host(engine_url: str) -> str:
    """The same as `engine_url`."""
    return engine_url


@pytest.fixture(scope="session")
def busybox_image(engine_url: str) -> str:
    """The name of a local image with every busybox applet."""
    try:
        return images.ensure_busybox()
    except images.ImageBuildError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def remove_containers(engine_url: str) -> Iterator[Callable[[str], None]]:
    """Say a label (`key` or `key=value`); every container that carries it is removed when the test ends."""
    labels: list[str] = []
    yield labels.append
    for label in labels:
        engine.remove_containers(label)


@pytest.fixture
def queue_containers(queue_name: str, remove_containers: Callable[[str], None]) -> str:
    """The label that this test's job containers carry; they are removed when the test ends."""
    label = f"launch.queue={queue_name}"
    remove_containers(label)
    return label
