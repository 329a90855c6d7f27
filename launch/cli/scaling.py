"""What `launch queue show` says of a queue's scaler, and `launch queue cost`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JsonOption, ServerOption, seconds
from launch.cli.output import age, counted, note, write, write_json, write_table
from launch.cli.session import with_client
from launch.core.shown import one_line

if TYPE_CHECKING:
    from launch.client import Client
    from launch.core.cost import Costs, Sum
    from launch.queue import QueueSpec
    from launch.scaling import DecisionReport, InstanceEnd, ScalingReport

INSTANCE_COLUMNS = ("id", "type", "market", "zone", "stage", "since", "jobs")
INSTANCE_SPARE = ("zone", "market", "type")
REASONS_SHOWN = 10


async def scaling_of(client: Client, queue: str) -> ScalingReport | None:
    """What the queue's scaler told last."""
    from launch.waiting import latest_report

    return await latest_report(client.broker, queue)


def write_scaling(spec: QueueSpec, report: ScalingReport | None, now: datetime) -> None:
    """The scaler's part of a queue, for people; nothing for a queue that no scaler has to do with."""
    from launch.core import coming
    from launch.queue import StaticProvider

    if report is None and isinstance(spec.provider, StaticProvider):
        return
    missing = coming.absent(spec.queue_name, report, now)
    if missing is not None:
        write(f"scaler: {missing}")
    if report is None:
        return
    if missing is None:
        write(f"scaler: {one_line(report.leader)}, looked {age(report.at, now)} ago")
    if report.boot_s is not None and report.boot_p99_s is not None:
        usual, longest = coming.show_seconds(report.boot_s), coming.show_seconds(report.boot_p99_s)
        write(f"boots: usually {usual}, 99 of 100 within {longest}")
    if report.trouble:
        write(f"trouble: {one_line(report.trouble)}")
    if failed := coming.never_registered(spec, report, now):
        write(f"trouble: {one_line(str(failed))}")
    for reason in report.reasons[:REASONS_SHOWN]:
        write(f"reason: {one_line(reason)}")
    if len(report.reasons) > REASONS_SHOWN:
        write(f"reason: and {len(report.reasons) - REASONS_SHOWN} more")
    _write_instances(report, now)


def _write_instances(report: ScalingReport, now: datetime) -> None:
    limit = "" if report.max_instances is None else f" of at most {report.max_instances}"
    write(f"instances: {report.count}{limit}" if report.count else f"instances: none{limit}")
    rows = [
        (
            one.id,
            one.instance_type or "",
            one.market,
            one.zone or "",
            str(one.stage),
            age(one.since, now),
            str(one.jobs),
        )
        for one in report.instances
    ]
    rows += [
        (
            f"({group.count} more)",
            group.instance_type or "",
            group.market,
            "",
            str(group.stage),
            age(report.at - timedelta(seconds=group.age_s / max(1, group.count)), now),
            str(group.jobs),
        )
        for group in report.more
    ]
    if rows:
        write_table(INSTANCE_COLUMNS, rows, empty="no instances", spare=INSTANCE_SPARE)


def write_decisions(decisions: list[DecisionReport]) -> None:
    """Past decisions, a line each and one for every further reason, oldest first."""
    write("decisions:" if decisions else "decisions: none yet")
    for made in decisions:
        actions = ", ".join(made.actions) or "nothing to do"
        write(f"  {made.at.astimezone():%Y-%m-%d %H:%M:%S}  {one_line(actions)}")
        for reason in made.reasons:
            write(f"    {one_line(reason)}")


def cost(
    ctx: typer.Context,
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="A queue's name.")],
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back to add up, such as 7d or 12h.")
    ] = "7d",
    as_json: JsonOption = False,
    server: ServerOption = None,
) -> None:
    """Add up what the queue's instances cost: hours by instance type, by job type, idle, and money if prices are known.

    Instances that run count up to now. What instances did is kept for 90 days, also when their queue is deleted.
    """
    since_s = seconds(since, "--since")

    async def main(client: Client) -> None:
        from launch.core.cost import costs
        from launch.queue import AwsProvider

        start = datetime.now(UTC) - timedelta(seconds=since_s)
        ends = await client.broker.scaling.ends(queue, start)
        spec = await _spec(client, queue, ends)
        report = await scaling_of(client, queue)
        provider = spec.provider if spec is not None else None
        prices = provider.prices if isinstance(provider, AwsProvider) else None
        found = costs(ends, report, prices, since=start)
        if as_json:
            write_json(cost_json(queue, found, start))
        else:
            _write_costs(queue, found, since, priced=prices is not None)

    with_client(ctx, server, main)


async def _spec(client: Client, queue: str, ends: list[InstanceEnd]) -> QueueSpec | None:
    """The queue's spec; None for one that is deleted, but has a past. Raises `NotFound` for one that never was."""
    from launch.errors import NotFound

    try:
        return await client.queue(queue)
    except NotFound:
        if not ends:
            raise
        return None


def _write_costs(queue: str, found: Costs, since: str, *, priced: bool) -> None:
    total = found.total
    if not found.counts:
        note(f"no instances of the queue {queue} in the last {since}")
        return
    count = counted(sum(found.counts.values()), "instance")
    money = f", {_money(total)}" if priced else ""
    idle = f"{found.idle_share:.0%} of that idle or booting"
    write(f"queue {queue}, last {since}: {count}, {total.hours:.2f} instance-hours{money}, {idle}")
    last = ("cost",) if priced else ()
    kinds = sorted(found.kinds.items(), key=lambda item: -item[1].hours)
    rows = [
        (kind.instance_type, kind.market, str(found.counts[kind]), *_figures(part, total, priced))
        for kind, part in kinds
    ]
    write_table(("type", "market", "instances", "hours", "share", *last), rows, empty="no instances")
    uses = sorted(found.uses.items(), key=lambda item: (item[0].startswith("("), -item[1].hours))
    rows_of_uses = [(name, *_figures(part, total, priced)) for name, part in uses]
    write_table(("job type", "hours", "share", *last), rows_of_uses, empty="no hours")
    if unpriced := found.unpriced if priced else []:
        write(f"price unknown for {', '.join(unpriced)}: name it under prices, in the queue's provider")
    if found.until is not None:
        write(f"instances that are there count up to {found.until:%Y-%m-%d %H:%M:%S} UTC, when a scaler last told")


def _figures(part: Sum, total: Sum, priced: bool) -> tuple[str, ...]:
    share = part.hours / total.hours if total.hours else 0.0
    return (f"{part.hours:.2f}", f"{share:.0%}", *((_money(part),) if priced else ()))


def _money(part: Sum) -> str:
    if part.unpriced_h <= 0:
        return f"${part.dollars:.2f}"
    return f"${part.dollars:.2f} and {part.unpriced_h:.2f} h unpriced" if part.dollars > 0 else "price unknown"


def cost_json(queue: str, found: Costs, since: datetime) -> dict[str, Any]:
    """The same for `--json`; `dollars` is null where nothing is priced."""

    def figures(part: Sum) -> dict[str, Any]:
        dollars = None if part.unpriced_h > 0 and part.dollars == 0 else part.dollars
        return {"hours": part.hours, "dollars": dollars, "unpriced_hours": part.unpriced_h}

    return {
        "queue_name": queue,
        "since": since.isoformat(),
        "until": found.until.isoformat() if found.until else None,
        "instances": sum(found.counts.values()),
        **figures(found.total),
        "idle_share": found.idle_share,
        "by_instance": [
            {
                "instance_type": kind.instance_type,
                "market": kind.market,
                "instances": found.counts[kind],
                **figures(part),
            }
            for kind, part in found.kinds.items()
        ],
        "by_job_type": [{"job_type": name, **figures(part)} for name, part in found.uses.items()],
        "price_unknown_for": found.unpriced,
    }
