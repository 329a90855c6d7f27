"""How every stream and bucket should be, and making it so.

Creation is idempotent. What can be changed in place is repaired and reported; what can't be (retention, storage) is an
error that names it, since repairing would lose jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from launch import subjects
from launch.adapters.nats.connection import Connection
from launch.adapters.nats.failures import STREAM_NOT_FOUND, ApiError
from launch.core.quantity import show_memory
from launch.errors import BrokerError, BrokerUnsuitable, NotPermitted
from launch.logging import Logger
from launch.scaling import DECISIONS_KEPT

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
GIB = 1024**3

WORK_MAX_BYTES = GIB
"""A queue that holds this much refuses more jobs; small specs make about three million of them."""
LOGS_MAX_BYTES = 8 * GIB
LOGS_MAX_AGE = 30 * DAY
METRICS_MAX_BYTES = 2 * GIB
METRICS_MAX_AGE = 90 * DAY
LIVES_MAX_BYTES = GIB // 4
"""About 600,000 instances."""
LIVES_MAX_AGE = 90 * DAY
DECISIONS_MAX_BYTES = GIB // 16
CODE_MAX_BYTES = 4 * GIB
ARTIFACTS_MAX_BYTES = 32 * GIB
STORE_MIN_BYTES = GIB // 4
"""Where a server has less room than an object store wants to reserve, the store gets a part of it, down to this much:
the queues to come need room, too."""
DEDUPE_WINDOW = 120 * SECOND
RECORD_HISTORY = 64
MARKER_TTL_S = 3600
"""How long the mark of an expired or removed key stays: a watch that was cut off for longer does not hear of it, while
the marks of all the agents that ever were would make every listing slower."""

FIXED = ("retention", "storage")
"""What can't be changed in place."""

_log = Logger(__name__)


def work_stream_config(queue: str, replicas: int) -> dict[str, Any]:
    """One queue's stream: a full one refuses (`discard: new`), it never drops.

    Message schedules stay off: the server does not combine them with `discard: new`.
    """
    return {
        "name": subjects.work_stream(queue),
        "subjects": subjects.work_stream_subjects(queue),
        "retention": "workqueue",
        "storage": "file",
        "discard": "new",
        "max_bytes": WORK_MAX_BYTES,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": DEDUPE_WINDOW,
        "num_replicas": replicas,
        "republish": {"src": f"queue.{queue}.>", "dest": subjects.submitted_subject(queue), "headers_only": True},
    }


def logs_stream_config(replicas: int) -> dict[str, Any]:
    """The one stream of all jobs' output: the oldest goes first, by age and by size."""
    return {
        "name": subjects.LOG_STREAM,
        "subjects": [subjects.LOG_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": LOGS_MAX_BYTES,
        "max_age": LOGS_MAX_AGE,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def metrics_stream_config(replicas: int) -> dict[str, Any]:
    """The one stream of all jobs' points: the oldest goes first, by age and by size."""
    return {
        "name": subjects.METRICS_STREAM,
        "subjects": [subjects.METRICS_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": METRICS_MAX_BYTES,
        "max_age": METRICS_MAX_AGE,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def lives_stream_config(replicas: int) -> dict[str, Any]:
    """The one stream of what became of instances: the oldest goes first, by age and by size."""
    return {
        "name": subjects.SCALING_STREAM,
        "subjects": [subjects.SCALING_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": LIVES_MAX_BYTES,
        "max_age": LIVES_MAX_AGE,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def decisions_stream_config(replicas: int) -> dict[str, Any]:
    """The one stream of scalers' decisions: the last few of each queue."""
    return {
        "name": subjects.DECISIONS_STREAM,
        "subjects": [subjects.DECISIONS_SUBJECTS],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": DECISIONS_MAX_BYTES,
        "max_msgs_per_subject": DECISIONS_KEPT,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def object_store_config(store: str, replicas: int, *, max_bytes: int) -> dict[str, Any]:
    """An object store as NATS clients know it (ADR-20). A full one refuses; nothing in it grows too old."""
    return {
        "name": subjects.object_stream(store),
        "subjects": [f"$O.{store}.C.>", f"$O.{store}.M.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": max_bytes,
        "duplicate_window": DEDUPE_WINDOW,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def bucket_config(bucket: str, replicas: int, *, history: int = 1, expiring: bool = False) -> dict[str, Any]:
    """A KV bucket as NATS clients know it; `expiring` ones take a TTL a key and leave a marker when it runs out."""
    config: dict[str, Any] = {
        "name": subjects.bucket_stream(bucket),
        "subjects": [subjects.bucket_subject(bucket, ">")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": history,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "num_replicas": replicas,
    }
    if expiring:
        config |= {"allow_msg_ttl": True, "subject_delete_marker_ttl": MARKER_TTL_S * SECOND}
    return config


def base_configs(replicas: int) -> list[dict[str, Any]]:
    """Everything that exists once, whatever the queues."""
    return [
        bucket_config(subjects.QUEUES_BUCKET, replicas),
        bucket_config(subjects.JOBS_BUCKET, replicas, history=RECORD_HISTORY),
        bucket_config(subjects.AGENTS_BUCKET, replicas, expiring=True),
        bucket_config(subjects.LEASES_BUCKET, replicas, expiring=True),
        bucket_config(subjects.SCALER_BUCKET, replicas),
        logs_stream_config(replicas),
        metrics_stream_config(replicas),
        lives_stream_config(replicas),
        decisions_stream_config(replicas),
    ]


def store_configs(replicas: int) -> list[dict[str, Any]]:
    """The object stores, as large as they should be."""
    return [
        object_store_config(subjects.CODE_STORE, replicas, max_bytes=CODE_MAX_BYTES),
        object_store_config(subjects.ARTIFACTS_STORE, replicas, max_bytes=ARTIFACTS_MAX_BYTES),
    ]


async def create_missing(connection: Connection, replicas: int) -> None:
    """Make what exists once, as far as it is not there; leaves what is there as it is."""

    async def create(config: Mapping[str, Any]) -> None:
        try:
            await connection.api(f"STREAM.INFO.{config['name']}")
        except NotPermitted:
            return  # somebody with more rights has made it, or the first use says that it is not there
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            if config["name"].startswith(subjects.object_stream("")):
                await _create_store(connection, config)
            else:
                await _create_stream(connection, config)

    await asyncio.gather(*(create(config) for config in base_configs(replicas)))
    # Last, so that they get only what is left.
    await asyncio.gather(*(create(config) for config in store_configs(replicas)))


async def _create_stream(connection: Connection, config: Mapping[str, Any]) -> None:
    """Make one stream. Raises `NotPermitted`, or `BrokerUnsuitable` where the server has no room for it."""
    name = config["name"]
    try:
        await connection.api(f"STREAM.CREATE.{name}", config)
    except NotPermitted as error:
        raise NotPermitted(
            f"the stream {name} is not there, and this user may not make it",
            hint="connect once as the role admin, such as by `launch queue apply`: that makes what is missing",
        ) from error
    except ApiError as error:
        if not error.no_room:
            raise
        wanted = show_memory(config.get("max_bytes", 0))
        once, each = show_memory(sum(base.get("max_bytes", 0) for base in base_configs(1))), show_memory(WORK_MAX_BYTES)
        raise BrokerUnsuitable(
            f"the nats-server has no room for the stream {name}, which reserves {wanted}: {error.description}",
            hint=f"raise max_file_store in its jetstream block: {once} are reserved once, {each} by each queue, the "
            "rest by files; reserved is not written, so it may be more than the disk has",
        ) from error


async def _create_store(connection: Connection, config: Mapping[str, Any]) -> None:
    """Make an object store that the server has room for; none, if it has not: whoever needs one is told then."""
    wanted = int(config["max_bytes"])
    for size in (wanted, wanted // 16, STORE_MIN_BYTES):
        try:
            await connection.api(f"STREAM.CREATE.{config['name']}", {**config, "max_bytes": size})
            return
        except NotPermitted:
            return  # as with no room: whoever needs it is told then
        except ApiError as error:
            if not error.no_room:
                raise
    _log.warning("no room for an object store: raise max_file_store of the server", stream=config["name"])


async def ensure_stream(connection: Connection, config: Mapping[str, Any]) -> list[str]:
    """Make one stream as `config` says; returns a line for what was created or repaired."""
    name = config["name"]
    try:
        info = await connection.api(f"STREAM.INFO.{name}")
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        await _create_stream(connection, config)
        return [f"stream {name} created"]
    present: dict[str, Any] = info["config"]
    drift = drift_of(present, config)
    fixed = [f"{key} is {present.get(key)}, should be {config[key]}" for key in FIXED if key in drift]
    if fixed:
        raise BrokerError(
            f"stream {name} can't be used: {', '.join(fixed)}",
            hint=f"this can't be changed in place; move its messages, delete the stream {name}, and apply again",
        )
    if not drift:
        return []
    await connection.api(f"STREAM.UPDATE.{name}", {**present, **drift})
    return [f"stream {name} repaired: {', '.join(sorted(drift))}"]


def drift_of(present: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys in which a stream is not as `config` says, with what they should be."""
    kept = {"first_seq"}
    if present.get("num_replicas", 1) > config["num_replicas"]:
        # Somebody wanted more copies than this connection asks for: whoever only looks must not take them away.
        kept.add("num_replicas")
    return {key: value for key, value in config.items() if key not in kept and not _same(present.get(key), value)}


def _same(present: object, wanted: object) -> bool:
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(_same(present.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(present, list):
        return sorted(wanted) == sorted(present)
    return present == wanted or (not present and not wanted)
