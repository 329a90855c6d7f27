"""Which images may be removed from a worker, and when its disk is short of room.

Pure. Only images that the agent itself has pulled are ever named here: what somebody else has put on the machine stays.
References are compared in the one form that `launch.core.registry` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from agent.ports import DiskSpace, PullProgress
from launch.core.registry import parse_image

KEPT: Final = 1000
"""So many images are remembered; the one used longest ago is forgotten first, and then stays on the disk."""
SPARE_PERCENT: Final = 10
MOST_SPARE_BYTES: Final = 20 * 1024**3
UNPACKED: Final = 4
"""A layer lies on the disk twice while it is unpacked, packed and (two or three times as large) unpacked."""


def key_of(reference: str) -> str:
    """The one form of a reference; the reference itself if it is none."""
    return str(parse_image(reference) or reference)


def spare_bytes(disk: DiskSpace, wanted: int | None) -> int:
    """How much of the disk is to be free: what was asked for, else a tenth of it and at most 20 GiB."""
    if wanted is not None:
        return wanted
    return min(MOST_SPARE_BYTES, disk.total_bytes * SPARE_PERCENT // 100)


def room_for(progress: PullProgress | None) -> int | None:
    """How much an image needs that did not fit, as far as its pull got to know its layers; None if it did not."""
    return UNPACKED * progress.total_bytes if progress is not None and progress.total_bytes else None


def removable(pulled: Mapping[str, float], in_use: Iterable[str]) -> list[str]:
    """Of the images in `pulled` (key: when it was last used) those that no reference in `in_use` names, oldest first.

    Who uses an image by its digest may have it from a pull by a tag, and would lose it with that.
    """
    used = {key_of(reference) for reference in in_use}
    whole = {name for name, at, _ in (key.partition("@") for key in used) if at}
    free = (key for key in pulled if key not in used and _name(key) not in whole)
    return sorted(free, key=lambda key: (pulled[key], key))


def parse_pulled(text: str) -> dict[str, float]:
    """What `show_pulled` wrote. Raises `ValueError`."""
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(images := found.get("pulled"), dict):
        raise ValueError("no list of images")
    for key, used in images.items():
        if not isinstance(used, int | float) or key_of(key) != key:
            raise ValueError(f"an entry that makes no sense: {key[:100]!r}")
    return {key: float(used) for key, used in images.items()}


def show_pulled(pulled: Mapping[str, float]) -> str:
    """The images and when each was last used (Unix time, seconds), to be kept on the disk."""
    return json.dumps({"pulled": pulled}, indent=1) + "\n"


def _name(key: str) -> str:
    """Host and path of a reference in its one form."""
    name, at, _ = key.partition("@")
    return name if at else key.rpartition(":")[0]
