"""`launch agents`: who is there to run jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.options import JsonOption, QueueFilter, ServerOption
from launch.cli.output import age, write, write_json, write_table
from launch.cli.session import with_client
from launch.core.shown import one_line

if TYPE_CHECKING:
    from launch.client import Client
    from launch.core.capacity import Amount
    from launch.presence import AgentPresence

app = typer.Typer(rich_markup_mode=None, help="List agents, and drain them.")


@app.callback(invoke_without_command=True)
def agents(
    ctx: typer.Context, queue: QueueFilter = None, as_json: JsonOption = False, server: ServerOption = None
) -> None:
    """List the agents that are present."""
    if ctx.invoked_subcommand is not None:
        return

    async def main(client: Client) -> None:
        found = await client.agents(queue)
        if queue and not found:
            await client.queue(queue)  # raises if there is none
        if as_json:
            write_json([agent.model_dump(mode="json") for agent in found])
            return
        columns = ("agent", "queue", "state", "holds", "cpu", "memory", "gpu", "jobs", "up", "idle")
        write_table(columns, [_row(agent) for agent in found], empty="no agents are present")

    with_client(ctx, server, main)


@app.command("drain")
def drain(
    ctx: typer.Context,
    agent_id: Annotated[list[str], typer.Argument(metavar="AGENT...", help="The agents' ids.")],
    server: ServerOption = None,
) -> None:
    """Tell agents to take no more jobs and to leave when what they run is over."""

    async def main(client: Client) -> None:
        from launch.errors import LaunchError

        for one in agent_id:
            try:
                presence = await client.drain_agent(one)
            except TimeoutError:
                raise LaunchError(f"{one} did not react", hint="look at its log; SIGTERM drains it, too") from None
            if presence is None:
                write(f"{one} has left")
            elif presence.holds:
                write(f"{one} is draining: it still holds {one_line(', '.join(presence.holds))}")
            else:
                write(f"{one} is drained")

    with_client(ctx, server, main)


def _row(agent: AgentPresence) -> tuple[str, ...]:
    from launch.core.quantity import show_cpu, show_memory

    used: Amount = agent.capacity - agent.free
    whole = agent.capacity
    return (
        agent.agent_id,
        agent.queue,
        str(agent.state),
        ",".join(agent.holds),
        f"{show_cpu(used.cpu_milli)}/{show_cpu(whole.cpu_milli)}",
        f"{show_memory(used.memory_bytes)}/{show_memory(whole.memory_bytes)}",
        f"{used.gpus}/{whole.gpus}",
        f"{used.slots}/{whole.slots}",
        age(agent.started_at),
        age(agent.idle_since),
    )
