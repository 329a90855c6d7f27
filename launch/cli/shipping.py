"""Sending a folder as a job's code, with a progress bar where someone watches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli.output import note
from launch.core.shown import one_line

if TYPE_CHECKING:
    from launch.client import Client
    from launch.code import Shipped
    from launch.job import CodeRef


async def shipped(client: Client, folder: Path, limit_bytes: int | None) -> CodeRef:
    """The folder as it lies in the store; its warnings, and what was sent, are noted."""
    from launch.core.quantity import show_memory

    if sys.stderr.isatty():
        done = await _with_bar(client, folder, limit_bytes)
    else:
        done = await client.ship(folder, limit_bytes=limit_bytes)
    for warning in done.warnings:
        note(f"warning: {one_line(warning)}")
    if done.sent:
        note(f"code sent: {show_memory(done.ref.size)}")
    return done.ref


async def _with_bar(client: Client, folder: Path, limit_bytes: int | None) -> Shipped:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("packing code", total=None)

        def heard(sent: int, whole: int) -> None:
            bar.update(task, description="sending code", completed=sent, total=whole)

        return await client.ship(folder, limit_bytes=limit_bytes, progress=heard)
