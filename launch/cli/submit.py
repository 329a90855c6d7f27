"""`launch submit`: a job from a file, from options, or from both, where options win (and lists grow)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.asked import environment, inputs, size, warn_of_secrets
from launch.cli.options import JsonOption, ServerOption, named, one_of
from launch.cli.output import note, write, write_json
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
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="K[=NAME]", help="An environment variable whose value the agent looks up."),
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option("--code", metavar="DIR", help="A folder to unpack in the job's working directory."),
    ] = None,
    code_limit: Annotated[
        str | None, typer.Option("--code-limit", metavar="SIZE", help="What it may take, packed; else 256Mi.")
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="SOURCE[:/PATH]", help="Another job's artifacts (JOB), or s3://BUCKET/PREFIX, at PATH."
        ),
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option("--artifact", metavar="/PATH", help="A path to keep, beside what is in $LAUNCH_ARTIFACTS."),
    ] = None,
    tty: Annotated[bool, typer.Option("--tty", help="Give the job a terminal.")] = False,
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
    many: Annotated[
        Path | None,
        typer.Option(
            "--many", metavar="FILE|-", help="Submit a job for each line of JSON; other options are their defaults."
        ),
    ] = None,
    skip: Annotated[
        int, typer.Option("--skip", metavar="N", min=0, help="With --many: leave out the first N, which are stored.")
    ] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its output, and exit with its exit code.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """Submit a job, or many, and print their ids."""
    from launch.specfile import load_job_and_code

    if follow and (many or as_json):
        other = "--many; see how the queue gets on with: launch queue show QUEUE" if many else "--json"
        raise typer.BadParameter(f"it does not go with {other}", param_hint="--follow")
    if skip and not many:
        raise typer.BadParameter("it goes with --many", param_hint="--skip")

    given = {
        "image": image,
        "command": command,
        "env": environment(env or [], secret or []),
        "resources": {"cpu": cpu, "gpu": gpu, "memory": memory},
        "name": name,
        "timeout": timeout,
        "retries": retries,
        "tty": tty or None,
        "inputs": inputs(input_ or []),
        "artifacts": artifact or [],
    }
    base, folder = load_job_and_code(config) if config else (None, None)
    limit_bytes = size(code_limit, "--code-limit") if code_limit is not None else None
    folder = code or folder
    if many:
        from launch.cli.many import Asked, submit_many

        defaults = overlaid(base, {**given, "job_type": job_type})
        submit_many(ctx, server, Asked(queue, many, defaults, priority, msg_id, skip, as_json, folder, limit_bytes))
    _submit(
        ctx, server, queue, merged(base, given), job_type=job_type, priority=priority, msg_id=msg_id,
        follow=follow, as_json=as_json, folder=folder, limit_bytes=limit_bytes,
    )  # fmt: skip


def submit_file(ctx: typer.Context, server: str | None, *, queue: str, job_type: str | None, config: Path) -> None:
    """The short form at top level."""
    from launch.specfile import load_job_and_code

    named(queue)
    spec, folder = load_job_and_code(config)
    _submit(ctx, server, queue, spec, job_type=job_type, folder=folder)


def merged(base: JobSpec | None, given: dict[str, Any]) -> JobSpec:
    """`base` with what the command line gives laid over it. Raises `SpecError`."""
    from launch.job import JobSpec
    from launch.specfile import build

    return build(JobSpec, overlaid(base, given), source="the command line")


def overlaid(base: JobSpec | None, given: dict[str, Any]) -> dict[str, Any]:
    """The same as the tree of a spec, which may lack what a spec needs.

    Env and resources are laid over key by key, inputs and artifacts are added; all else is replaced.
    """
    tree: dict[str, Any] = base.model_dump(exclude_unset=True) if base else {}
    for key, value in given.items():
        if isinstance(value, dict):
            over = {inner: text for inner, text in value.items() if text is not None}
            if over:
                tree[key] = {**tree.get(key, {}), **over}
        elif key in ("inputs", "artifacts"):
            if value:
                tree[key] = [*tree.get(key, ()), *value]
        elif value is not None and value != []:
            tree[key] = value
    return tree


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
    as_json: bool = False,
    folder: Path | None = None,
    limit_bytes: int | None = None,
) -> None:
    submitted = ""
    warn_of_secrets(spec, set())

    async def main(client: Client) -> int:
        nonlocal submitted
        asked = spec
        if folder is not None:
            from launch.cli.shipping import shipped

            await client.queue(queue)  # before anything is sent
            asked = spec.model_copy(update={"code": await shipped(client, folder, limit_bytes)})
        job = await client.submit(queue, asked, job_type=job_type, priority=priority, msg_id=msg_id)
        submitted = str(job.id)
        if job.duplicate:
            note(f"{job.id} has been submitted before with this --msg-id; nothing was added")
        if as_json:
            write_json({"id": submitted, "duplicate": job.duplicate})
            return 0
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
