"""What every test of faults works with: a server of its own, and a lab on it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.integration.chaos.lab import Chaos, open_chaos
from tests.integration.chaos.own_engine import OwnEngine, own_engine
from tests.support.nats_server import NatsServer


@pytest.fixture
def server(fresh_nats: Callable[..., NatsServer]) -> NatsServer:
    """A nats-server that this test may stop."""
    return fresh_nats()


@pytest.fixture
async def lab(
    server: NatsServer, queue_name: str, queue_containers: str, busybox_image: str, tmp_path: Path
) -> AsyncIterator[Chaos]:
    """A queue on this test's own server."""
    async with open_chaos(server.url, queue_name, busybox_image, tmp_path) as lab:
        yield lab


@pytest.fixture
async def other_engine(busybox_image: str) -> AsyncIterator[OwnEngine]:
    """An engine that a test may restart, with the image."""
    # Not `tmp_path`: a socket's name may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="e") as folder:
        async with own_engine(Path(folder)) as mine:
            await mine.start()
            await mine.load(busybox_image)
            yield mine
