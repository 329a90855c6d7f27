"""How far a pull has come, from what the engine says of each layer, and how that reads.

Pure. The engine tells a layer's size when it begins to fetch it, so the total grows at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.ports import PullProgress
from launch.core.quantity import show_memory

MAX_LAYERS: Final = 1000
"""An image has 127 at most."""

_HERE = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")


class PullMeter:
    """Adds the layers of one pull up."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def feed(self, event: Mapping[str, Any]) -> PullProgress | None:
        """One line of the engine's account; the progress if it changed that."""
        layer, status = event.get("id"), event.get("status")
        detail = event.get("progressDetail")
        if not isinstance(layer, str) or (layer not in self._layers and len(self._layers) >= MAX_LAYERS):
            return None
        before = self._layers.get(layer)
        if status == "Downloading" and isinstance(detail, Mapping):
            current, total = detail.get("current"), detail.get("total")
            if not isinstance(current, int) or not isinstance(total, int) or not 0 <= current <= total:
                return None
            self._layers[layer] = (current, total)
        elif before is not None and status in _HERE:
            self._layers[layer] = (before[1], before[1])
        if self._layers.get(layer) == before:
            return None
        return PullProgress(*(sum(one[part] for one in self._layers.values()) for part in (0, 1)))


def show_pull(reference: str, progress: PullProgress | None) -> str:
    """`pulling python:3.12: 34 % of 1.2Gi`; without the end while nothing is known."""
    if progress is None or not progress.total_bytes:
        return f"pulling {reference}"
    return f"pulling {reference}: {percent(progress)} % of {show_memory(progress.total_bytes)}"


def percent(progress: PullProgress | None) -> int:
    """Whole percent; 0 while nothing is known."""
    return 100 * progress.done_bytes // progress.total_bytes if progress is not None and progress.total_bytes else 0
