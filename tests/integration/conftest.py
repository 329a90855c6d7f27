"""What the tests with an agent in their own process share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from launch.subjects import LABEL_AGENT
from tests.integration.agent_lab import Lab, open_lab


@pytest.fixture
async def lab(
    nats_url: str,
    queue_name: str,
    queue_containers: str,
    busybox_image: str,
    tmp_path: Path,
    remove_containers: Callable[[str], None],
) -> AsyncIterator[Lab]:
    """One queue on the shared server; whatever containers its jobs and agent `a` leave are removed."""
    async with open_lab(nats_url, queue_name, busybox_image, tmp_path) as made:
        remove_containers(f"{LABEL_AGENT}={made.agent_id()}")
        yield made
