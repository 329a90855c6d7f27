"""`launch queue …`: apply, list, show, cost, pause, resume, delete."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JsonOption, ServerOption
from launch.cli.output import counted, note, write, write_json, write_table
from launch.cli.scaling import cost, scaling_of, write_decisions, write_scaling
from launch.cli.session import with_client
from launch.core.shown import one_line

if TYPE_CHECKING:
    from launch.client import Client
    from launch.ports import QueueStatus
    from launch.presence import AgentPresence
    from launch.queue import QueueSpec

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, look at, pause and delete queues.")

QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue's name.")]


@app.command("apply")
def apply(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Queue files.")],
    server: ServerOption = None,
) -> None:
    """Make queues as their files say, new or changed."""
    from launch.specfile import load_queue

    specs = [load_queue(file) for file in files]

    async def main(client: Client) -> None:
        for spec in specs:
            for line in await applied(client, spec):
                write(line)

    with_client(ctx, server, main)


async def applied(client: Client, spec: QueueSpec) -> list[str]:
    """Apply one queue; what that did, a line each."""
    changes = await client.apply_queue(spec)
    return [f"{spec.queue_name}: {change}" for change in changes or ["unchanged"]]


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonOption = False, server: ServerOption = None) -> None:
    """List the queues."""

    async def main(client: Client) -> None:
        agents = await client.agents()
        found = [(spec, await client.queue_status(spec.queue_name)) for spec in await client.queues()]
        if as_json:
            write_json([queue_json(spec, status, agents) for spec, status in found])
            return
        columns = ("queue", "state", "provider", "instances", "queued", "running", "agents")
        write_table(columns, [_row(spec, status, agents) for spec, status in found], empty="no queues")

    with_client(ctx, server, main)


@app.command("show")
def show(
    ctx: typer.Context,
    queue: QueueArgument,
    decisions: Annotated[
        int | None, typer.Option("--decisions", metavar="N", min=0, help="Also the scaler's last N decisions.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """Show one queue: its spec, what lies in it, who works for it, and how it is scaled and why."""

    async def main(client: Client) -> None:
        spec, status = await client.queue(queue), await client.queue_status(queue)
        agents = await client.agents(queue)
        report = await scaling_of(client, queue)
        made = await client.broker.scaling.decisions(queue) if decisions or (as_json and decisions is None) else []
        made = made[-decisions:] if decisions else made
        if as_json:
            scaling = report.model_dump(mode="json") if report is not None else None
            told = [decision.model_dump(mode="json") for decision in made]
            write_json({**queue_json(spec, status, agents), "scaling": scaling, "decisions": told})
            return
        import yaml

        from launch.fields import AS_WRITTEN
        from launch.queue import JobDefaults

        waiting, running = counts(status, agents)
        write(f"queue {queue}: {'paused' if status.paused else 'active'}, {waiting} queued, {running} running")
        write("spec:")
        tree = spec.model_dump(mode="json", exclude_none=True, context=AS_WRITTEN)
        if spec.defaults == JobDefaults():
            del tree["defaults"]
        for line in yaml.safe_dump(tree, sort_keys=False).splitlines():
            write(f"  {line}")
        write("jobs by type and priority:")
        for consumer, count in sorted(status.depth.subjects.items()):
            write(f"  {one_line(consumer.job_type)} {consumer.priority}: {count}")
        write(f"agents: {', '.join(one_line(agent.agent_id) for agent in agents) or 'none'}")
        write_scaling(spec, report, datetime.now(UTC))
        if decisions:
            write_decisions(made)

    with_client(ctx, server, main)


app.command("cost")(cost)


@app.command("pause")
def pause(ctx: typer.Context, queue: QueueArgument, server: ServerOption = None) -> None:
    """Stop handing out the queue's jobs; running jobs go on."""
    _set_paused(ctx, server, queue, paused=True)


@app.command("resume")
def resume(ctx: typer.Context, queue: QueueArgument, server: ServerOption = None) -> None:
    """Hand out the queue's jobs again."""
    _set_paused(ctx, server, queue, paused=False)


@app.command("delete")
def delete(
    ctx: typer.Context,
    queue: QueueArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: ServerOption = None,
) -> None:
    """Delete a queue with every job that lies in it."""

    async def look(client: Client) -> int:
        return (await client.queue_status(queue)).depth.messages

    async def main(client: Client) -> int:
        return await client.delete_queue(queue)

    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"this deletes the queue {queue} and its jobs: say --yes", param_hint="--yes")
        lying = with_client(ctx, server, look)
        if not typer.confirm(f"Delete the queue {queue} with {counted(lying, 'unfinished job')}?", err=True):
            raise typer.Exit(1)
    lost = with_client(ctx, server, main)
    write(f"{queue}: deleted, with {counted(lost, 'unfinished job')}" if lost else f"{queue}: deleted")


def _set_paused(ctx: typer.Context, server: str | None, queue: str, *, paused: bool) -> None:
    async def main(client: Client) -> None:
        await client.pause_queue(queue, paused=paused)

    with_client(ctx, server, main)
    write(f"{queue}: {'paused' if paused else 'resumed'}")
    if paused:
        note(f"running jobs go on; to go on with the rest: launch queue resume {queue}")


def counts(status: QueueStatus, agents: list[AgentPresence]) -> tuple[int, int]:
    """How many of the queue's jobs wait and how many are with an agent; `agents` are those of this queue."""
    held = min(sum(len(agent.holds) for agent in agents), status.depth.messages)
    return status.depth.messages - held, held


def queue_json(spec: QueueSpec, status: QueueStatus, agents: list[AgentPresence]) -> dict[str, Any]:
    """One queue for `--json`."""
    mine = [agent for agent in agents if agent.queue == spec.queue_name]
    queued, running = counts(status, mine)
    return {
        "queue_name": spec.queue_name,
        "paused": status.paused,
        "queued": queued,
        "running": running,
        "agents": [agent.agent_id for agent in mine],
        "depth": [
            {"job_type": consumer.job_type, "priority": str(consumer.priority), "messages": count}
            for consumer, count in sorted(status.depth.subjects.items())
        ],
        "spec": spec.model_dump(mode="json"),
    }


def _row(spec: QueueSpec, status: QueueStatus, agents: list[AgentPresence]) -> tuple[str, ...]:
    mine = [agent for agent in agents if agent.queue == spec.queue_name]
    queued, running = counts(status, mine)
    return (
        spec.queue_name,
        "paused" if status.paused else "ready",
        spec.provider.type,
        f"{spec.min_instances}-{spec.max_instances}",
        str(queued),
        str(running),
        str(len(mine)),
    )
