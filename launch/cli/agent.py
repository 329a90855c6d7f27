"""`launch agent`: the process that runs a queue's jobs on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import DataDirOption, DrainOption, named, seconds
from launch.cli.session import data_dir as default_data_dir
from launch.cli.session import endpoint

if TYPE_CHECKING:
    from launch.service import Stop


def agent(
    ctx: typer.Context,
    *,
    queue: Annotated[
        str, typer.Option("--queue", "-q", metavar="QUEUE", callback=named, help="The queue to work for.")
    ],
    job_type: Annotated[
        list[str] | None,
        typer.Option("--job-type", "-t", metavar="TYPE", callback=named, help="Take only this type; repeatable."),
    ] = None,
    agent_id: Annotated[
        str | None, typer.Option("--agent-id", metavar="ID", help="Else the one kept in the data directory.")
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", metavar="ID", help="What its provider calls this machine.")
    ] = None,
    data_dir: DataDirOption = None,
    cpu: Annotated[str | None, typer.Option("--cpu", metavar="N", help="CPUs to offer; else all.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory to offer; else all.")] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="UUID,…|none", help="GPUs to offer; else all of the machine's.")
    ] = None,
    max_jobs: Annotated[
        int | None, typer.Option("--max-jobs", metavar="N", min=1, help="Jobs at once; else the queue's, or one a CPU.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="K=V", help="A mark to be seen by.")] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secrets",
            metavar="SOURCE",
            envvar="LAUNCH_SECRETS",
            help="Where jobs' secrets are looked up: env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/; "
            "repeatable, asked in this order. Else env: the variables LAUNCH_SECRET_<NAME>.",
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            envvar="LAUNCH_AGENT_POLICY",
            help="What jobs may ask for (agent.yaml); else the safe default.",
        ),
    ] = None,
    images_ahead: Annotated[
        int,
        typer.Option(
            "--images-ahead",
            metavar="N",
            envvar="LAUNCH_IMAGES_AHEAD",
            min=0,
            max=8,
            help="How many images of the next jobs to fetch while there is no room for these.",
        ),
    ] = 2,
    container_ahead: Annotated[
        bool,
        typer.Option(
            "--container-ahead/--no-container-ahead",
            envvar="LAUNCH_CONTAINER_AHEAD",
            help="Whether to make the next job's container while there is no room for it.",
        ),
    ] = False,
    keep_disk_free: Annotated[
        str | None,
        typer.Option(
            "--keep-disk-free",
            metavar="SIZE",
            envvar="LAUNCH_KEEP_DISK_FREE",
            help="Remove unused images that this agent has pulled when less of the engine's disk is free; "
            "else a tenth of it, at most 20Gi.",
        ),
    ] = None,
    drain_timeout: DrainOption = "1h",
    on_lost_contact: Annotated[
        str,
        typer.Option(
            "--on-lost-contact",
            metavar="<continue|stop>",
            help="What running jobs do when the broker can't be reached for as long as the lease.",
        ),
    ] = "continue",
    presence_ttl: Annotated[
        str,
        typer.Option(
            "--presence-ttl", metavar="TIME", hidden=True, help="The lease, in whole seconds; for tests and tuning."
        ),
    ] = "15s",
    ack_wait: Annotated[
        str,
        typer.Option(
            "--ack-wait",
            metavar="TIME",
            hidden=True,
            help="How long a held job goes without progress before it is delivered again; for tests and tuning. "
            "Counts for the consumers that this agent makes, so give every agent of a queue the same.",
        ),
    ] = "30s",
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="NATS server, or where its address lies: ssm:NAME or secretsmanager:NAME; "
            "else NATS_URL, a nats context, or the embedded one.",
        ),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(
            "--credentials",
            metavar="FILE",
            help="A .creds file, or where its contents lie: ssm:NAME or secretsmanager:NAME; else NATS_CREDS.",
        ),
    ] = None,
) -> None:
    """Run a queue's jobs on this machine until told to stop."""
    from agent.adapters.imds import metadata_address
    from agent.settings import AgentSettings, OnLostContact
    from launch.core.reference import is_reference
    from launch.logging import set_up_logging
    from launch.policy import AgentPolicy
    from launch.service import run_service
    from launch.specfile import load_policy

    if on_lost_contact not in tuple(OnLostContact):
        raise typer.BadParameter(f"found '{on_lost_contact}'; allowed: continue, stop", param_hint="--on-lost-contact")
    settings = AgentSettings(
        queue=queue,
        job_types=tuple(job_type) if job_type else None,
        data_dir=default_data_dir(data_dir),
        agent_id=agent_id,
        cpu_milli=_amount(cpu, "--cpu"),
        memory_bytes=_amount(memory, "--memory"),
        gpus=_gpus(gpus),
        max_jobs=max_jobs,
        labels=_labels(label or []),
        instance=instance,
        secrets=_secrets(secrets or ["env"]),
        policy=load_policy(policy) if policy is not None else AgentPolicy(),
        images_ahead=images_ahead,
        container_ahead=container_ahead,
        keep_disk_free_bytes=_amount(keep_disk_free, "--keep-disk-free"),
        docker_host=os.environ.get("DOCKER_HOST") or None,
        presence_ttl_s=seconds(presence_ttl, "--presence-ttl"),
        on_lost_contact=OnLostContact(on_lost_contact),
        spot_notices=metadata_address(),
        drain_timeout_s=seconds(drain_timeout, "--drain-timeout"),
    )
    ack_wait_s = seconds(ack_wait, "--ack-wait")
    set_up_logging()
    kept = credentials if credentials is not None and is_reference(credentials) else None
    file = Path(credentials).expanduser() if credentials is not None and kept is None else None
    found = endpoint(ctx, server, credentials=file, references=True)

    async def main(stop: Stop) -> int:
        from agent.lookup import looked_up
        from agent.main import run
        from launch.adapters import nats

        async with looked_up(found.url, kept) as (url, secret):
            broker = await nats.connect(
                url, name=f"launch-agent {queue}", credentials=secret or found.credentials, ack_wait_s=ack_wait_s
            )
            try:
                await run(broker, settings, stop=stop.drain, abort=stop.abort)
            finally:
                await broker.close()
        return 0

    drains = f"taking no new jobs, waiting up to {drain_timeout} for running ones"
    raise typer.Exit(run_service(main, drains=drains, leaves="leaving running containers to the next agent"))


def _amount(text: str | None, option: str) -> int | None:
    from launch.core.quantity import parse_cpu, parse_memory

    if text is None:
        return None
    try:
        return parse_cpu(text) if option == "--cpu" else parse_memory(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _gpus(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    wanted = () if text == "none" else tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
    if wanted:
        from launch.adapters.gpu import gpu_uuids

        present = gpu_uuids()
        if missing := [uuid for uuid in wanted if uuid not in present]:
            has = f"this machine has {', '.join(present) or 'none'}"
            raise typer.BadParameter(f"found {', '.join(missing)}; {has}", param_hint="--gpus")
    return wanted


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"found '{pair}'; allowed: KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels


def _secrets(sources: list[str]) -> tuple[str, ...]:
    from agent.core.secret_source import parse_source

    try:
        return tuple(str(parse_source(source)) for source in sources)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--secrets") from None
