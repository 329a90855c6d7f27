"""`launch simulate`: what the scaler would do with a trace of jobs, beside what others would do; touches nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.options import JsonOption, seconds
from launch.cli.output import note, write, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from launch.core.capacity import Amount
    from scaler.core.snapshot import Policy
    from scaler.simulate.compare import Run, Variant
    from scaler.simulate.trace import Trace
    from scaler.simulate.world import World

KINDS = "short, long, bursty, steady"


def simulate(  # noqa: PLR0917  (typer reads the options from here)
    trace: Annotated[Path | None, typer.Argument(metavar="[FILE.csv]", help="The trace to replay.")] = None,
    synthetic: Annotated[str | None, typer.Option(metavar="KIND", help=f"Make a trace up instead: {KINDS}.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Only so many jobs (made up: 5000).")] = None,
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Jobs a second of a made-up trace.")] = None,
    longest: Annotated[str, typer.Option(metavar="TIME", help="Leave out jobs that run longer.")] = "24h",
    queue: Annotated[
        Path | None, typer.Option("--queue", "-q", metavar="FILE", help="Take bounds and idle_timeout from its YAML.")
    ] = None,
    cpu: Annotated[str, typer.Option(help="CPUs of one instance.")] = "48",
    memory: Annotated[str, typer.Option(help="Memory of one instance.")] = "192Gi",
    gpu: Annotated[int, typer.Option(min=0, help="GPUs of one instance.")] = 4,
    slots: Annotated[int | None, typer.Option(min=1, help="Jobs at a time on one instance; else one a CPU.")] = None,
    max_instances: Annotated[int, typer.Option(min=1, max=10_000, help="Never more than this many.")] = 1000,
    boot: Annotated[str, typer.Option(metavar="TIME", help="Median from launch to registration.")] = "60s",
    boot_sigma: Annotated[float, typer.Option(min=0, max=3, help="Spread of boots (sigma, lognormal).")] = 0.25,
    shortage_every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Mean time between spells without capacity.")
    ] = None,
    shortage_for: Annotated[str, typer.Option(metavar="TIME", help="Mean length of such a spell.")] = "10m",
    spot_loss: Annotated[float, typer.Option(min=0, help="Share of instances lost an hour, such as 0.05.")] = 0.0,
    api_burst: Annotated[int, typer.Option(min=1, help="Launches that the provider takes at once.")] = 1000,
    api_rate: Annotated[float, typer.Option(min=0.1, help="... and how many more a second.")] = 2.0,
    price: Annotated[float | None, typer.Option(min=0, help="Of one instance, an hour.")] = None,
    settle: Annotated[str, typer.Option(metavar="TIME", help="Least time between two of our decisions.")] = "100ms",
    tune: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="Change our tuning, such as idle_factor=2.")
    ] = None,
    ours_only: Annotated[bool, typer.Option("--ours-only", help="Leave the other policies out.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Run each policy with many parameters.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it, as .svg, .png or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a trace of jobs through the scaler's own decisions, and through those of others, on a simulated cloud."""
    import time

    from scaler.simulate import compare, draw
    from scaler.simulate.cloud import Cloud
    from scaler.simulate.trace import fitting

    if (trace is None) == (synthetic is None):
        raise typer.BadParameter("give a trace: FILE.csv, or --synthetic KIND")
    if out is not None:
        draw.check(out)
    settle_s, longest_s = seconds(settle, "--settle"), seconds(longest, "--longest")
    policy = _policy(queue, tune or [])
    if queue is not None:
        max_instances = policy.max_instances
    capacity = _capacity(cpu, memory, gpu, slots)
    cloud = Cloud(
        capacity,
        boot_s=seconds(boot, "--boot"),
        boot_sigma=boot_sigma,
        shortage_every_s=0.0 if shortage_every is None else seconds(shortage_every, "--shortage-every"),
        shortage_for_s=max(1.0, seconds(shortage_for, "--shortage-for")),
        spot_loss_per_hour=spot_loss,
        api_burst=api_burst,
        api_per_s=api_rate,
        price_per_hour=price,
    )
    found = fitting(_trace(trace, synthetic, jobs, rate, seed), capacity, longest_s, jobs)
    variants = compare.ours(policy, sweep=sweep, settle_s=settle_s)
    if not ours_only:
        variants += compare.others(found, capacity, sweep=sweep)
    runs: list[Run] = []
    with suppress(KeyboardInterrupt), _progress(variants, len(found.jobs)) as watch:
        if not as_json:
            left_out = ", ".join(f"{count} {why}" for why, count in found.left_out.items())
            write(f"{found.name}: {len(found.jobs)} jobs{f' (left out: {left_out})' if left_out else ''}\n")
        for run in compare.run_all(
            variants, found, cloud, seed, max_instances=max_instances, stopwatch=time.perf_counter, watch=watch
        ):
            runs.append(run)  # noqa: PERF402  (an interrupt leaves those that are there)
    _tell(found, cloud.capacity, runs, of=len(variants), as_json=as_json, sweep=sweep)
    if out is not None and runs:
        from scaler.simulate.bounds import bounds
        from scaler.simulate.fleet import vector

        title = f"{found.name}: {len(found.jobs)} jobs, boot {boot}"
        draw.draw(out, title, runs, bounds(found, vector(capacity)).zero_wait_s)
        note(f"drawn: {out}")
    if len(runs) < len(variants) or not all(run.result.complete for run in runs):
        raise typer.Exit(130)


def _trace(path: Path | None, synthetic: str | None, jobs: int | None, rate: float | None, seed: int) -> Trace:
    from scaler.simulate.synthetic import Kind, generate
    from scaler.simulate.trace import read

    if path is not None:
        return read(path)
    if synthetic not in tuple(Kind):
        raise typer.BadParameter(f"found {synthetic!r}; allowed: {', '.join(Kind)}", param_hint="--synthetic")
    return generate(Kind(synthetic), jobs or 5000, seed, rate)


def _policy(path: Path | None, tune: list[str]) -> Policy:
    from dataclasses import fields, replace

    from scaler.core.snapshot import Tuning
    from scaler.simulate.ours import policy_of

    names = [field.name for field in fields(Tuning)]
    changes: dict[str, float] = {}
    for text in tune:
        name, _, value = text.partition("=")
        try:
            changes[names[names.index(name)]] = float(value)
        except ValueError:
            allowed = f"NAME=NUMBER with a name of {', '.join(names)}"
            raise typer.BadParameter(f"found {text[:60]!r}; allowed: {allowed}", param_hint="--tune") from None
    policy = policy_of(**changes)
    if path is None:
        return policy
    from launch.specfile import load_queue

    spec = load_queue(path)
    return replace(
        policy,
        min_instances=spec.min_instances,
        max_instances=max(1, spec.max_instances),
        idle_timeout_s=spec.idle_timeout,
    )


def _capacity(cpu: str, memory: str, gpu: int, slots: int | None) -> Amount:
    from launch.core.capacity import Amount
    from launch.core.quantity import parse_cpu, parse_memory

    try:
        milli = parse_cpu(cpu)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cpu") from None
    try:
        memory_bytes = parse_memory(memory)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--memory") from None
    return Amount(cpu_milli=milli, memory_bytes=memory_bytes, gpus=gpu, slots=slots or max(1, milli // 1000))


@contextmanager
def _progress(variants: list[Variant], jobs: int) -> Iterator[Callable[[int, World], None]]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda number, world: None  # noqa: ARG005  (nobody looks)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=len(variants) * jobs)
        shown = 0

        def watch(number: int, world: World) -> None:
            nonlocal shown
            done = number * jobs + jobs - world.jobs_left
            if done - shown >= jobs // 200 or done < shown:
                shown = done
                bar.update(task, completed=done, description=f"run {number + 1} of {len(variants)}")

        yield watch


def _tell(trace: Trace, capacity: Amount, runs: list[Run], *, of: int, as_json: bool, sweep: bool) -> None:
    from scaler.simulate import report
    from scaler.simulate.bounds import bounds
    from scaler.simulate.fleet import vector

    least = bounds(trace, vector(capacity))
    results = [run.result for run in runs]
    if as_json:
        value: dict[str, Any] = {
            "trace": trace.name,
            "jobs": len(trace.jobs),
            "left_out": dict(trace.left_out),
            "bounds": {"work_hours": least.work_s / 3600, "zero_wait_hours": least.zero_wait_s / 3600},
            "runs": [one.as_json() for one in results],
            "comparison": report.sentences(results),
        }
        write_json(value)
        return
    shown = [one for one in results if one.usual or one.policy == report.OURS or not one.complete] if sweep else results
    write_table(report.COLUMNS, report.rows(shown), empty="nothing was run", spare=("most", "max", "p50", "cost"))
    write(
        f"\nat least {least.work_s / 3600:.1f} inst-h for the work alone, and {least.zero_wait_s / 3600:.1f} if nobody "
        "waits (machines always full, no boots)"
    )
    for one in results:
        if one.policy == report.OURS and one.usual:
            write(
                f"ours: {one.decisions} decisions, {one.decision_median_ms:.2f} ms each (median), "
                f"{one.decision_p99_ms:.2f} ms (p99)"
            )
    for line in report.sentences(results):
        write(f"- {line}")
    for one in results:
        if one.unserved or one.refused:
            note(f"{one.policy} ({one.settings}): {one.unserved} jobs never ran, {one.refused} were refused")
    if len(runs) < of or not all(one.complete for one in results):
        note(f"cut short: {len(runs)} of {of} runs")
