"""How a command gets from its options to a connected client, and what it exits with."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from launch.client import Client
    from launch.errors import LaunchError
    from launch.ports import Broker
    from launch.record import JobRecord
    from launch.settings import Endpoint

T = TypeVar("T")


def server_option(ctx: typer.Context, server: str | None) -> str | None:
    """`--server` of the command, or the one given before it (`launch --server URL jobs`)."""
    chosen = server or ctx.find_root().params.get("server")
    return str(chosen) if chosen else None


def data_dir(chosen: Path | None = None) -> Path:
    """The data directory, by option or environment."""
    from launch import settings

    return chosen.expanduser().absolute() if chosen else settings.data_dir(os.environ)


def endpoint(
    ctx: typer.Context, server: str | None, *, credentials: Path | None = None, references: bool = False
) -> Endpoint:
    """Where to connect to. `credentials` and `references` are as in `launch.settings.find_server`."""
    from launch import server as embedded
    from launch import settings
    from launch.client import usable

    running = embedded.find_running(data_dir())
    chosen = server_option(ctx, server)
    return usable(
        settings.find_server(
            chosen,
            os.environ,
            embedded_url=running.url if running else None,
            credentials=credentials,
            references=references,
        )
    )


def with_client(ctx: typer.Context, server: str | None, main: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, run `main`, disconnect."""
    import asyncio

    from launch.adapters import nats
    from launch.client import Client
    from launch.errors import BrokerUnavailable, LoginRefused, NotFound

    found = endpoint(ctx, server)

    async def session() -> T:
        try:
            broker = await nats.connect(found.url, name="launch-cli", credentials=found.credentials)
        except LoginRefused:
            raise
        except BrokerUnavailable as error:
            if found.named:
                raise BrokerUnavailable(error.message, hint=f"the address is from {found.source}") from None
            raise BrokerUnavailable(
                error.message, hint="start one with `launch up QUEUE.yaml` or `launch server`, or name one by --server"
            ) from None
        try:
            return await main(Client(broker))
        except (NotFound, ExceptionGroup) as error:
            if of_queue := await _of_queue(broker, error):
                raise of_queue from None
            raise
        finally:
            await broker.close()

    return asyncio.run(session())


async def _of_queue(broker: Broker, error: Exception) -> LaunchError | None:
    """If it is that there is no job, since there is no such queue: what says so."""
    from launch.errors import NotFound
    from launch.subjects import JobId

    while isinstance(error, ExceptionGroup) and error.split(NotFound)[1] is None:
        error = error.exceptions[0]
    found = re.fullmatch("there is no job ([^ ]+)", error.message) if isinstance(error, NotFound) else None
    if found is None:
        return None
    try:
        await broker.queues.get(JobId.parse(found[1]).queue)
    except NotFound as unknown:
        return NotFound(f"there is no job {found[1]}: {unknown.message}", hint=unknown.hint)
    return None


def exit_code(record: JobRecord) -> int:
    """The container's exit code; 1 for a job that did not succeed and has none (or 0)."""
    from launch.core.states import State

    if record.state is State.SUCCEEDED:
        return 0
    return record.exit_code or 1
