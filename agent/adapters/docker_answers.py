"""What the Docker Engine answers, cut down to what the port has. Pure: JSON in, values out."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from agent.ports import Container, DiskSpace, ImageInfo, PathInfo, Usage
from launch.core.registry import parse_image

NEVER: Final = "0001-01-01T00:00:00Z"
CONTAINERD_ROOT: Final = "/var/lib/containerd"
"""Where an engine keeps images that has containerd keep them; it does not say where that is, if not there."""
_DIR_BIT: Final = 1 << 31
"""In a mode as Go writes it."""


def container_of(found: Mapping[str, Any]) -> Container:
    """From a container's long account."""
    state, config = found["State"], found["Config"]
    return Container(
        id=str(found["Id"]),
        name=str(found["Name"]).removeprefix("/"),
        state=str(state["Status"]),
        exit_code=int(state["ExitCode"]),
        oom_killed=bool(state["OOMKilled"]),
        error=str(state["Error"]),
        started_at=_time(state["StartedAt"]),
        finished_at=_time(state["FinishedAt"]),
        labels=dict(config.get("Labels") or {}),
        tty=bool(config.get("Tty")),
        env=tuple(config.get("Env") or ()),
    )


def image_of(found: Mapping[str, Any], reference: str) -> ImageInfo:
    """From an image's long account.

    Of its digests the one of the repository that `reference` names: the same image may lie in others, too, which have
    nothing to do with the job. An id names none, and gets any.
    """
    digests = [str(digest) for digest in found.get("RepoDigests") or ()]
    wanted = parse_image(reference)
    if wanted is not None:
        digests = [digest for digest in digests if (one := parse_image(digest)) and one.name == wanted.name]
    config = found.get("Config") or {}
    return ImageInfo(
        str(found["Id"]),
        next(iter(digests), None),
        user=str(config.get("User") or ""),
        workdir=str(config.get("WorkingDir") or ""),
    )


def roots_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that images and containers lie in, from the engine's account of itself."""
    root = str(found.get("DockerRootDir") or "")
    kept_by_containerd = dict(_pairs(found)).get("driver-type", "").startswith("io.containerd.snapshotter")
    return tuple(path for path in (root, CONTAINERD_ROOT if kept_by_containerd else "") if path.startswith("/"))


def space_of(found: Mapping[str, Any]) -> DiskSpace | None:
    """The room that the engine itself tells of: of all storage drivers, only that for ZFS does."""
    said = dict(_pairs(found))
    free, used = said.get("Space Available", ""), said.get("Space Used By Parent", "")
    if not (free.isascii() and free.isdigit() and used.isascii() and used.isdigit()):
        return None
    return DiskSpace(int(free), int(free) + int(used))


def path_of(header: str) -> PathInfo:
    """From the header `X-Docker-Container-Path-Stat`."""
    found = json.loads(base64.b64decode(header))
    is_dir = bool(int(found["mode"]) & _DIR_BIT)
    return PathInfo(str(found["name"]), int(found["size"]), is_dir, str(found["mtime"]))


def usage_of(found: Mapping[str, Any]) -> Usage | None:
    """From one sample of a container's statistics; of one that does not run they are empty."""
    if found.get("read", NEVER) == NEVER or not (found.get("memory_stats") or {}).get("usage"):
        return None
    memory = found["memory_stats"]
    details = memory.get("stats") or {}
    # The kernel gives these back by itself when somebody needs the memory. The names are those of cgroups v2 and v1.
    caches = int(details.get("inactive_file", details.get("total_inactive_file", 0)))
    networks = (found.get("networks") or {}).values()
    return Usage(
        cpu_s=int(found["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9,
        memory_bytes=max(0, int(memory["usage"]) - caches),
        received_bytes=sum(int(one["rx_bytes"]) for one in networks),
        sent_bytes=sum(int(one["tx_bytes"]) for one in networks),
    )


def message_of(body: str) -> str:
    """The message in an error's body; the body itself where it is not the usual JSON."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        return body.strip()


def _pairs(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the storage driver says."""
    return [(str(pair[0]), str(pair[1])) for pair in found.get("DriverStatus") or () if len(pair) == 2]


def _time(text: str) -> str | None:
    return None if not text or text == NEVER else text
