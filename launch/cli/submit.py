"""`launch submit`: a job from a file, from options, or from both, where options win (and lists grow)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.asked import environment, inputs, size
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
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its output, and exit with its exit code.")
    ] = False,
    server: ServerOption = None,
) -> None:
    """Submit a job and print its id."""
    from launch.specfile import load_job_and_code

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
    spec = merged(base, given)
    folder = code or folder
    _submit(
        ctx, server, queue, spec,
        job_type=job_type, priority=priority, msg_id=msg_id, follow=follow, folder=folder, limit_bytes=limit_bytes,
    )  # fmt: skip


def submit_file(ctx: typer.Context, server: str | None, *, queue: str, job_type: str | None, config: Path) -> None:
    """The short form at top level."""
    from launch.specfile import load_job_and_code

    named(queue)
    spec, folder = load_job_and_code(config)
    _submit(ctx, server, queue, spec, job_type=job_type, folder=folder)


def merged(base: JobSpec | None, given: dict[str, Any]) -> JobSpec:
    """`base` with what the command line gives laid over it. Raises `SpecError`.

    Env and resources are laid over key by key, inputs and artifacts are added; all else is replaced.
    """
    from launch.job import JobSpec
    from launch.specfile import build

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
    return build(JobSpec, tree, source="the command line")


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
    folder: Path | None = None,
    limit_bytes: int | None = None,
) -> None:
    submitted = ""
    _warn_of_secrets(spec)

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


def _warn_of_secrets(spec: JobSpec) -> None:
    from launch.core.suspects import suspects

    for name in suspects(spec.env):
        note(
            f"warning: the value of {name} looks like a secret, and whoever reads the queue can read it; write "
            f"--secret {name}=NAME, or in the file {name}: {{secret: NAME}}, and the agent looks NAME up"
        )
