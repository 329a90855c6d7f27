"""What the Docker Engine answers, cut down to what the port has. Pure: JSON in, values out."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from agent.ports import Container, ImageInfo, PathInfo, Usage

NEVER: Final = "0001-01-01T00:00:00Z"
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


def image_of(found: Mapping[str, Any]) -> ImageInfo:
    """From an image's long account."""
    digests = found.get("RepoDigests") or []
    config = found.get("Config") or {}
    return ImageInfo(
        str(found["Id"]),
        str(digests[0]) if digests else None,
        user=str(config.get("User") or ""),
        workdir=str(config.get("WorkingDir") or ""),
    )


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


def _time(text: str) -> str | None:
    return None if not text or text == NEVER else text
