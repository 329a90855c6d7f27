"""`launch artifacts`: what a job left, and how to get it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JobArgument, JsonOption, ServerOption
from launch.cli.output import counted, note, write_json, write_table
from launch.cli.session import with_client
from launch.core.quantity import show_memory
from launch.core.shown import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launch.artifacts import Artifacts
    from launch.client import Client
    from launch.fetch import Fetched, Fetching
    from launch.files import ArtifactFile


def artifacts(
    ctx: typer.Context,
    job: JobArgument,
    pattern: Annotated[
        list[str] | None, typer.Argument(metavar="PATTERN", help="Only these: shell wildcards, or a folder.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", metavar="N", min=1, help="Of this attempt; else the last that left any.")
    ] = None,
    get: Annotated[
        Path | None, typer.Option("--get", metavar="DIR", file_okay=False, help="Fetch them into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --get: overwrite files that differ.")] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """List what a job left in $LAUNCH_ARTIFACTS, or fetch it."""
    if force and get is None:
        raise typer.BadParameter("--force goes with --get DIR")

    async def main(client: Client) -> None:
        from launch.artifacts import matching, open_artifacts
        from launch.fetch import fetch

        record = await client.job(job).record()
        async with open_artifacts(client.broker, record, attempt) as found:
            files = matching(found.manifest.files, pattern or ())
            fetched = None
            if get is not None:
                with progress_bar(files) as progress:
                    fetched = await fetch(found.store, files, get, force=force, progress=progress)
            if as_json:
                write_json(artifacts_json(found, files, fetched))
            elif fetched is not None:
                note(_summary(fetched))
            else:
                rows = [(file.path, show_memory(file.size)) for file in files]
                write_table(("path", "size"), rows, empty=f"attempt {found.manifest.attempt} left no files")
            _remarks(found)

    with_client(ctx, server, main)


def artifacts_json(found: Artifacts, files: Sequence[ArtifactFile], fetched: Fetched | None) -> dict[str, Any]:
    """The manifest with only these files, where they lie, and what was fetched."""
    manifest = found.manifest.model_copy(update={"files": tuple(files)})
    value = {**manifest.model_dump(mode="json"), "where": found.store.where, "error": found.error}
    if fetched is not None:
        value["folder"] = str(fetched.folder)
        value["fetched"] = [file.path for file in fetched.files]
        value["kept"] = [file.path for file in fetched.kept]
    return value


def _summary(fetched: Fetched) -> str:
    size = sum(file.size for file in fetched.files)
    text = f"{counted(len(fetched.files), 'file')} ({show_memory(size)}) fetched into {fetched.folder}"
    return f"{text}; {len(fetched.kept)} were there already" if fetched.kept else text


def _remarks(found: Artifacts) -> None:
    if found.error:
        note(f"not everything could be stored: {one_line(found.error)}")
    if found.manifest.left_out:
        some = ", ".join(map(one_line, found.manifest.left_out[:5]))
        more = ", …" if len(found.manifest.left_out) > 5 else ""
        note(f"left out, being neither file nor folder, or refused by the store: {some}{more}")


@contextmanager
def progress_bar(files: Sequence[ArtifactFile]) -> Iterator[Fetching | None]:
    """How far a fetch is, on stderr; None where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(counted(len(files), "file"), total=sum(file.size for file in files))

        def advance(file: ArtifactFile, size: int) -> None:
            bar.update(task, advance=size, description=one_line(file.path)[-40:])

        yield advance
