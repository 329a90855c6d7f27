"""`launch doctor`: what is wrong, and what to do about it. Changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JsonOption, QueueFilter, ServerOption
from launch.cli.output import harmless, write, write_json
from launch.cli.session import endpoint

if TYPE_CHECKING:
    from launch.core.doctor import Finding
    from launch.doctor.parts import Engine, Server
    from launch.doctor.rounds import World
    from launch.job import JobSpec
    from launch.queue import QueueSpec
    from launch.settings import Endpoint

STYLES = {"ok": "32", "warn": "33", "fail": "1;31"}


def doctor(
    ctx: typer.Context,
    queue: QueueFilter = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Look at this job, such as gpu/42, and at its queue.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """Look at NATS, Docker, queues, images, agents and the scaler, and say what is wrong and what to do about it."""
    import asyncio

    from launch.core.doctor import Level, worst
    from launch.doctor.rounds import examine
    from launch.errors import LaunchError
    from launch.logging import set_up_logging
    from launch.subjects import JobId

    set_up_logging(level="error")  # What goes wrong is told as findings.
    wanted = None
    if job is not None:
        try:
            wanted = JobId.parse(job)
        except LaunchError as error:
            raise typer.BadParameter(str(error), param_hint="--job") from None
        if queue is not None and queue != wanted.queue:
            raise typer.BadParameter(f"found -q {queue} with --job {job[:80]}; allowed: a job of that queue")

    found = asyncio.run(examine(_world(ctx, server), only=queue, job=wanted))
    verdict = worst(found)
    if as_json:
        write_json({"worst": verdict, "findings": [_as_json(finding) for finding in found]})
    else:
        for line in lines(found, coloured=sys.stdout.isatty()):
            write(line)
    raise typer.Exit(1 if verdict is Level.FAIL else 0)


def lines(found: Sequence[Finding], *, coloured: bool) -> list[str]:
    """A line a finding: how bad, of what, what was found, and the cure."""
    width = max((len(finding.check) for finding in found), default=0)
    told = []
    for finding in found:
        level = f"{finding.level:<4}"
        if coloured:
            level = f"\x1b[{STYLES[finding.level]}m{level}\x1b[0m"
        cure = f"  — {finding.cure}" if finding.cure else ""
        told.append(f"{level}  {finding.check:<{width}}  {_line(finding.found)}{_line(cure)}")
    return told


def _line(text: str) -> str:
    """On one line, and harmless: what is told may be others' words."""
    return harmless(text.replace("\r", " ").replace("\n", " ").replace("\x1b", ""))


def _as_json(finding: Finding) -> dict[str, str | None]:
    return {"check": finding.check, "level": finding.level, "found": finding.found, "cure": finding.cure}


def _world(ctx: typer.Context, server: str | None) -> World:
    """The real one."""
    from importlib.metadata import version

    from agent.adapters.host import host_name
    from launch.adapters.clock import SystemClock
    from launch.adapters.gpu import gpu_uuids
    from launch.adapters.nats.failures import shown
    from launch.adapters.nats.look import FIXED, MIN_SERVER, Look
    from launch.cli.doctor_aws import LazyCloud
    from launch.doctor.rounds import World
    from launch.errors import LaunchError

    found: Endpoint | None = None
    trouble: LaunchError | None = None
    try:
        found = endpoint(ctx, server)
    except LaunchError as error:
        trouble = error

    async def open_server() -> Server:
        if found is None:
            raise trouble or LaunchError("no NATS server is named")
        return await Look.open(found.url, credentials=found.credentials)

    def open_engine() -> Engine:
        from agent.adapters.docker_look import EngineLook

        return EngineLook()

    def refusals(policy: Mapping[str, Any], spec: JobSpec, queue: QueueSpec) -> str | None:
        from agent.core.policy import denials
        from launch.policy import AgentPolicy

        try:
            denied = denials(spec, AgentPolicy.model_validate(policy), queue)
        except ValueError:  # it is of another version, and has rules that are not known here
            return None
        return "; ".join(f"{one.rule}: found {one.found}, allowed {one.allowed}" for one in denied) or None

    clock = SystemClock()
    url = found.url if found else ""
    return World(
        open_server=open_server,
        open_engine=open_engine,
        cloud=LazyCloud(server_url=url, clock=clock),
        gpus=gpu_uuids,
        clock=clock,
        refusals=refusals,
        host=host_name(),
        version=version("nats-launch"),
        least=MIN_SERVER,
        fixed=FIXED,
        address=f"{shown(url)} ({found.source})" if found else "",
    )
