"""NATS's address and credentials, where an agent is told only where they lie.

So that a machine's first script, which many can read, holds neither. Invariants: neither credentials nor an address's
login get into a log or an error; credentials are in a file of this user alone for as long as the agent runs.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from agent.core.secret_source import Kind, Source
from launch.core.reference import is_reference, parse_reference
from launch.errors import LaunchError

_ADDRESS = re.compile(r"[\x21-\x7e]{1,2000}")
_CREDENTIALS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def looked_up(server: str, credentials: str | None) -> AsyncGenerator[tuple[str, Path | None]]:
    """The address itself, and a file with the credentials while the block lasts, or None if none are to be looked up.

    An address that is no reference stays what it is. Raises `LaunchError`.
    """
    url = await _address(server) if is_reference(server) else server
    if credentials is None:
        yield url, None
        return
    content = await _look_up(credentials)
    if not all(mark in content for mark in _CREDENTIALS):
        raise LaunchError(f"{credentials} holds no credentials of NATS", hint="store what is in a .creds file there")
    folder, file = await asyncio.to_thread(_write, content)
    try:
        yield url, file
    finally:
        folder.cleanup()


def _write(content: bytes) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """In memory, if this machine has a folder there; the one that is made is this user's alone."""
    shared = Path("/dev/shm")  # noqa: S108 - see above
    writable = shared.is_dir() and os.access(shared, os.W_OK)
    folder = tempfile.TemporaryDirectory(dir=shared if writable else None, prefix="nats-launch-")
    file = Path(folder.name) / "nats.creds"
    file.touch(mode=0o600)
    file.write_bytes(content)
    return folder, file


async def _address(reference: str) -> str:
    text = (await _look_up(reference)).decode(errors="replace").strip()
    if not _ADDRESS.fullmatch(text) or is_reference(text):
        raise LaunchError(f"{reference} holds no server's address", hint="store nats://HOST:PORT there")
    return text if "://" in text else f"nats://{text}"


async def _look_up(text: str) -> bytes:
    from agent.adapters.aws_secrets import AwsSecrets

    try:
        reference = parse_reference(text)
    except ValueError as error:
        raise LaunchError(f"where NATS is kept: {error}") from None
    store = await asyncio.to_thread(AwsSecrets.prepared, Source(Kind(reference.kind)))
    try:
        value = await store.get(reference.name)
    finally:
        await store.close()
    if value is None:
        raise LaunchError(f"there is no {text}", hint="check its name, and the region in AWS_REGION")
    _log.debug("looked up", place=text)
    return value
