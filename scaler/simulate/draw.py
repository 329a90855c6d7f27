"""The plot: machines and waiting jobs over time, and cost against wait. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.core.quantity import show_duration
from launch.errors import LaunchError
from scaler.simulate.compare import Run
from scaler.simulate.report import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".svg", ".png", ".pdf")
COLOURS = ("#d95f02", "#7570b3", "#1b9e77", "#e7298a", "#66a61e")
OUR_COLOUR = "#1f4e9c"


def check(path: Path) -> None:
    """Raises `LaunchError` if nothing could be drawn into `path`: better before a long run than after it."""
    if path.suffix.lower() not in KINDS:
        raise LaunchError(f"{path}: found the ending '{path.suffix}'; allowed: {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise LaunchError(f"{path.parent}: there is no such folder")
    try:
        import matplotlib as _  # noqa: F401, ICN001  (only whether it is there)
    except ImportError:
        raise LaunchError("drawing needs matplotlib", hint="pip install 'nats-launch[plot]'") from None


def draw(path: Path, title: str, runs: Sequence[Run], zero_wait_s: float) -> None:
    """Draw what was run into `path`; its ending says in which form."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "nats-launch"  # The same runs give the same file.
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title)
    spec = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    machines, frontier = figure.add_subplot(spec[0, 0]), figure.add_subplot(spec[:, 1])
    pending = figure.add_subplot(spec[1, 0], sharex=machines)
    names = [name for name in dict.fromkeys(run.result.policy for run in runs) if name != OURS]
    colours = {OURS: OUR_COLOUR, **dict(zip(names, COLOURS, strict=False))}
    _over_time(machines, pending, runs, colours)
    _frontier(frontier, runs, colours, zero_wait_s)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    try:
        figure.savefig(path, metadata=metadata, dpi=110)
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror or error}") from error


def _over_time(machines: Axes, pending: Axes, runs: Sequence[Run], colours: dict[str, str]) -> None:
    """The usual run of each policy, the others' first one, where most jobs come."""
    shown: set[str] = set()
    for run in (*runs[1:], *runs[:1]):  # Ours above the others.
        name = run.result.policy
        if not run.result.usual or name in shown:
            continue
        shown.add(name)
        curve, (begin, end) = run.record.curve(), run.record.shown_s
        unit_s, unit = (3600.0, "hours") if end - begin > 7200 else (60.0, "minutes")
        at = [(point[0] - begin) / unit_s for point in curve]
        look: dict[str, Any] = {"color": colours.get(name, "grey"), "linewidth": 1.6 if name == OURS else 0.8}
        machines.step(at, [point[1] for point in curve], where="post", label=name, **look)
        pending.step(at, [point[2] for point in curve], where="post", **look)
        pending.set_xlim(0, (end - begin) / unit_s)
        pending.set_xlabel(f"{unit}, from {show_duration(begin)} into the trace on" if begin else unit)
    machines.set_ylabel("instances")
    machines.legend(fontsize="small")
    pending.set_ylabel("jobs waiting")
    pending.set_yscale("symlog", linthresh=1)
    pending.set_ylim(bottom=0)


def _frontier(axes: Axes, runs: Sequence[Run], colours: dict[str, str], zero_wait_s: float) -> None:
    """All runs: those of a sweep small, the usual ones large."""
    for name, colour in colours.items():
        found = [run.result for run in runs if run.result.policy == name and run.result.complete]
        for usual, size in ((False, 18), (True, 90)):
            points = [one for one in found if one.usual is usual]
            axes.scatter(
                [one.mean_wait_s for one in points], [one.instance_hours for one in points], s=size, color=colour,
                alpha=1.0 if usual else 0.6, marker="*" if usual else "o", label=name if usual else None,
                zorder=3 if name == OURS else 2,
            )  # fmt: skip
        if name == OURS:
            line = sorted((one.mean_wait_s, one.instance_hours) for one in found)
            axes.plot([wait for wait, _ in line], [hours for _, hours in line], color=colour, linewidth=1)
    axes.axhline(zero_wait_s / 3600, color="grey", linestyle=":", label="full machines, no boots, no wait")
    waits = [run.result.mean_wait_s for run in runs if run.result.usual]
    hours = [run.result.instance_hours for run in runs if run.result.usual]
    if waits and max(waits) > 0:
        axes.set_xlim(0, 1.6 * max(waits))
        axes.set_ylim(0.9 * min(zero_wait_s / 3600, *hours), 1.15 * max(hours))
    axes.set_xlabel("mean wait in seconds")
    axes.set_ylabel("instance-hours")
    axes.legend(fontsize="small")
