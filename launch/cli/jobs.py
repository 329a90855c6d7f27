"""`launch jobs`, `show`, `wait`, `cancel`: what became of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JobArgument, JobsArgument, JsonOption, QueueFilter, ServerOption, one_of, seconds
from launch.cli.output import age, counted, note, write, write_json, write_table
from launch.cli.session import exit_code, with_client
from launch.core.shown import lines
from launch.core.states import State

if TYPE_CHECKING:
    from launch.client import Client
    from launch.core.explain import Why
    from launch.record import JobRecord

JOB_COLUMNS = ("id", "type", "state", "reason", "exit", "attempt", "agent", "age", "took")
JOB_SPARE = ("took", "attempt", "age", "agent", "type", "reason")
"""What a narrow terminal goes without, in this order."""

_STATES = ", ".join(State)


def jobs(
    ctx: typer.Context,
    queue: QueueFilter = None,
    state: Annotated[
        State | None,
        typer.Option("--state", metavar="STATE", parser=one_of(State), help=f"Only jobs in this state: {_STATES}."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, help="The N that changed last, and N in line in each queue.")
    ] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them; reads every record.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing changes until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """List jobs, oldest first."""
    if watch and as_json:
        raise typer.BadParameter("--watch and --json don't go together")
    if watch and everything:
        raise typer.BadParameter("--watch and --all don't go together")

    async def main(client: Client) -> None:
        if watch:
            from launch.cli.watch import watch_jobs

            await watch_jobs(client, queue, state, limit)
            return
        found = await client.listing(queue, state, limit=None if everything else limit)
        if as_json:
            write_json([record_json(record) for record in found.jobs])
        else:
            write_table(JOB_COLUMNS, [job_row(record) for record in found.jobs], empty="no jobs", spare=JOB_SPARE)
        if found.more:
            note(f"jobs that changed earlier are left out (--limit {limit}); more: --limit N, or --all")

    with_client(ctx, server, main)


def show(ctx: typer.Context, job: JobArgument, as_json: JsonOption = False, server: ServerOption = None) -> None:
    """Show a job: its record, its timeline, and why it is still queued if it is."""

    async def main(client: Client) -> None:
        handle = client.job(job)
        record = await handle.record()
        why = await handle.why(record)
        if as_json:
            write_json({**record_json(record), "why": str(why) if why else None})
            return
        for label, value in _facts(record, why):
            write(f"{label + ':':<12} {lines(value, 13)}")
        write("timeline:")
        for line in _timeline(await handle.history()):
            write(f"  {lines(line, 31)}")

    with_client(ctx, server, main)


def wait(
    ctx: typer.Context,
    job: JobsArgument,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="TIME", help="Give up after this long.")] = None,
    server: ServerOption = None,
) -> None:
    """Wait until the jobs are over; exit with the first exit code that is not 0."""
    limit_s = seconds(timeout, "--timeout") if timeout is not None else None

    async def main(client: Client) -> int:
        import asyncio

        from launch.errors import LaunchError

        handles = [client.job(text) for text in job]
        try:
            async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(handle.wait(), name=f"wait {handle.id}") for handle in handles]
        except TimeoutError:
            raise LaunchError(f"not over after {timeout}", hint=f"look with: launch show {job[0]}") from None
        records = [task.result() for task in tasks]
        for record in records:
            write(f"{record.id} {record.state}")
        return next((code for code in map(exit_code, records) if code), 0)

    raise typer.Exit(with_client(ctx, server, main))


def cancel(ctx: typer.Context, job: JobsArgument, server: ServerOption = None) -> None:
    """Cancel jobs: queued ones at once, running ones by telling their agents to stop them."""

    async def main(client: Client) -> None:
        for handle in [client.job(text) for text in job]:
            record = await handle.cancel()
            if record.state is State.CANCELLED:
                write(f"{record.id} cancelled")
            elif record.state.terminal:
                note(f"{record.id} is over already: {record.state}")
            else:
                write(f"{record.id} cancelling")

    with_client(ctx, server, main)


def retry(ctx: typer.Context, job: JobsArgument, server: ServerOption = None) -> None:
    """Submit jobs that are over once more, as new jobs; prints their ids."""

    async def main(client: Client) -> None:
        for text in job:
            again = await client.retry(text)
            write(str(again.id))

    with_client(ctx, server, main)


def record_json(record: JobRecord) -> dict[str, Any]:
    """The record as it is stored, with its id."""
    return {"id": str(record.id), **record.model_dump(mode="json")}


def job_row(record: JobRecord) -> tuple[str, ...]:
    """One job in a table of `JOB_COLUMNS`."""
    return (
        str(record.id),
        record.job_type,
        str(record.state),
        str(record.reason or ""),
        "" if record.exit_code is None else str(record.exit_code),
        str(record.attempt or ""),
        record.agent or "",
        age(record.submitted_at),
        age(record.started_at, record.finished_at) if record.started_at else "",
    )


def _facts(record: JobRecord, why: Why | None) -> list[tuple[str, str]]:
    from launch.core.quantity import show_cpu, show_memory

    facts = [("job", str(record.id)), ("type", record.job_type), ("priority", str(record.priority))]
    if record.spec and record.spec.name:
        facts.append(("name", record.spec.name))
    state = str(record.state)
    if record.cancel is not None and not record.state.terminal:
        state += f" (cancel requested by {record.cancel.by})"
    facts.append(("state", state))
    if why:
        facts.append(("why", str(why)))
    optional = {
        "reason": record.reason,
        "message": record.message if not why or record.message not in (why.text, None) else None,
        "exit code": record.exit_code,
        "attempt": record.attempt or None,
        "agent": record.agent,
        "container": record.container and record.container[:12],
        "image": record.image or (record.spec and record.spec.image),
        "digest": record.digest,
        "command": " ".join(record.spec.command) if record.spec else None,
    }
    facts.extend((label, str(value)) for label, value in optional.items() if value not in (None, ""))
    facts.extend(_carried(record))
    if record.held is not None:
        held = f"cpu {show_cpu(record.held.cpu_milli)}, memory {show_memory(record.held.memory_bytes)}"
        facts.append(("holds", f"{held}, gpu {record.held.gpus}"))
    return facts


def _carried(record: JobRecord) -> list[tuple[str, str]]:
    """What went into the job, and what came out of it."""
    from launch.core.quantity import show_memory

    facts = []
    spec, left = record.spec, record.artifacts
    if spec and (code := spec.code):
        state = {True: ", with changes", False: "", None: ""}[code.dirty]
        commit = f", commit {code.commit[:12]}{state}" if code.commit else ""
        facts.append(("code", f"{code.sha256[:12]}, {show_memory(code.size)}{commit}"))
    inputs = spec.inputs if spec else ()
    facts.extend(("input", f"{given.job or given.s3}{f' at {given.path}' if given.path else ''}") for given in inputs)
    if left is not None:
        text = f"{counted(left.files, 'file')}, {show_memory(left.size)}, in {left.where}"
        facts.append(("artifacts", f"{text}; {left.error}" if left.error else text))
    return facts


def _timeline(history: list[JobRecord]) -> list[str]:
    """A line a step, with the time since the submit; what did not change the state is left out."""
    if not history:
        return []
    start = history[0].submitted_at
    lines = [f"{start.astimezone():%Y-%m-%d %H:%M:%S}     +0.0s  submitted"]
    before: tuple[object, ...] = ("queued", 0, False)
    for record in history:
        now = (str(record.state), record.attempt, record.cancel is not None)
        if now == before:
            continue
        text = str(record.state)
        if record.cancel is not None and not before[2] and not record.state.terminal:
            text = f"cancel requested by {record.cancel.by}"
        elif record.attempt and not record.state.terminal:
            text += f" (attempt {record.attempt}{f' on {record.agent}' if record.agent else ''})"
        told = [part for part in (record.reason and str(record.reason), record.message) if part]
        if told:
            text += f": {': '.join(told)}"
        passed_s = (record.updated_at - start).total_seconds()
        lines.append(f"{record.updated_at.astimezone():%Y-%m-%d %H:%M:%S} {f'+{passed_s:.1f}s':>9}  {text}")
        before = now
    return lines
