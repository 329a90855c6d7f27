"""What every test of `launch doctor` works with: a server of its own, and a user of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.support.nats_server import NatsServer


@pytest.fixture
def nats(fresh_nats: Callable[..., NatsServer]) -> NatsServer:
    """A server that this test may stop."""
    return fresh_nats()


@pytest.fixture
def world(tmp_path: Path, nats: NatsServer, engine_url: str) -> Iterator[World]:
    """A user of that server."""
    home = tmp_path / "home"
    home.mkdir()
    world = World(home, url=nats.url)
    yield world
    world.close()
