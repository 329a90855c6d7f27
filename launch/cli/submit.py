"""`launch submit`: a job from a file, from options, or from both, where options win."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import ServerOption, named, one_of
from launch.cli.output import note, write
from launch.cli.session import with_client
from launch.subjects import Priority

if TYPE_CHECKING:
    from launch.client import Client
    from launch.job import JobSpec

_PRIORITIES = ", ".join(Priority)


def submit(
    ctx: typer.Context,
    *,
    queue: Annotated[str, typer.Option("--queue", "-q", metavar="QUEUE", callback=named, help="The queue.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD...", help="The command and its arguments.", show_default=False)
    ] = None,
    job_type: Annotated[
        str | None, typer.Option("--job-type", "-t", metavar="TYPE", callback=named, help="The job's type.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="The job's YAML file; options win over it.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="The container image.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="K=V", help="An environment variable; K alone takes its value from here."),
    ] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", metavar="N", help="CPUs, such as 2 or 0.5.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="N", help="Whole GPUs.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory, such as 8Gi.")] = None,
    priority: Annotated[
        Priority,
        typer.Option(
            "--priority", metavar="PRIORITY", parser=one_of(Priority), help=f"How urgent it is: {_PRIORITIES}."
        ),
    ] = Priority.MEDIUM,
    name: Annotated[str | None, typer.Option("--name", help="A title for people.")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Time limit, such as 2h.")] = None,
    retries: Annotated[str | None, typer.Option("--retries", metavar="N", help="More tries if the job fails.")] = None,
    msg_id: Annotated[
        str | None, typer.Option("--msg-id", metavar="ID", help="Makes a repeat of this submit the same job.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its output, and exit with its exit code.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Submit a job and print its id."""
    from launch.specfile import load_job

    given = {
        "image": image,
        "command": command,
        "env": _environment(env or []),
        "resources": {"cpu": cpu, "gpu": gpu, "memory": memory},
        "name": name,
        "timeout": timeout,
        "retries": retries,
    }
    spec = merged(load_job(config) if config else None, given)
    _submit(ctx, server, queue, spec, job_type=job_type, priority=priority, msg_id=msg_id, follow=follow)


def submit_file(ctx: typer.Context, server: str | None, *, queue: str, job_type: str | None, config: Path) -> None:
    """The short form at top level."""
    from launch.specfile import load_job

    named(queue)

    _submit(ctx, server, queue, load_job(config), job_type=job_type)


def merged(base: JobSpec | None, given: dict[str, Any]) -> JobSpec:
    """`base` with what the command line gives laid over it: env and resources key by key. Raises `SpecError`."""
    from launch.job import JobSpec
    from launch.specfile import build

    tree: dict[str, Any] = base.model_dump(exclude_unset=True) if base else {}
    for key, value in given.items():
        if isinstance(value, dict):
            over = {inner: text for inner, text in value.items() if text is not None}
            if over:
                tree[key] = {**tree.get(key, {}), **over}
        elif value is not None and value != []:
            tree[key] = value
    return build(JobSpec, tree, source="the command line")


def _environment(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and key not in os.environ:
            raise typer.BadParameter(f"'{key}' is not set here; write {key}=VALUE", param_hint="--env")
        found[key] = value if equals else os.environ[key]
    return found


def _submit(
    ctx: typer.Context,
    server: str | None,
    queue: str,
    spec: JobSpec,
    *,
    job_type: str | None,
    priority: Priority = Priority.MEDIUM,
    msg_id: str | None = None,
    follow: bool = False,
) -> None:
    submitted = ""

    async def main(client: Client) -> int:
        nonlocal submitted
        job = await client.submit(queue, spec, job_type=job_type, priority=priority, msg_id=msg_id)
        submitted = str(job.id)
        if job.duplicate:
            note(f"{job.id} has been submitted before with this --msg-id; nothing was added")
        if not follow:
            write(submitted)
            if sys.stdout.isatty():
                note(f"see it run: launch logs -f {job.id}")
            return 0
        from launch.cli.follow import follow_job

        note(f"submitted {job.id}")
        return await follow_job(client, job)

    try:
        code = with_client(ctx, server, main)
    except KeyboardInterrupt:
        if follow and submitted:
            note(f"left {submitted}, which goes on; see it again: launch logs -f {submitted}")
        raise typer.Exit(130) from None
    raise typer.Exit(code)
