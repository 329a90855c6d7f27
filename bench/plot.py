"""What was saved in `build/bench`, for the docs: ratios against targets, distributions, and the table as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.answer import shown

IMAGES = Path("docs/img")
MET, MISSED = "#2a7f62", "#c0392b"
WIDEST = 3.0
SIGNS = {"low": "≤", "high": "≥"}


def draw(folder: Path) -> None:
    """Write `docs/img/bench-ratios.svg` and `bench-latency.svg`. Raises `SystemExit` if nothing was saved in full."""
    saved = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    full = {name: answer for name, answer in saved.items() if not answer["short"]}
    if not full:
        raise SystemExit(f"nothing to draw in {folder}: run `python -m bench` first")
    print(_markdown(full))
    _ratios(full, IMAGES / "bench-ratios.svg")
    _latencies(full, IMAGES / "bench-latency.svg")


def _markdown(saved: dict[str, Any]) -> str:
    lines = ["| question | figure | value | floor | ratio | target | runs | met |", "|---|---|---|---|---|---|---|---|"]
    for name, answer in saved.items():
        for one in answer["figures"]:
            unit, floor = one["unit"], one["floor"]
            ratio = f"{one['ratio']:.2f}x" if one["target_of"] == "ratio" else ""
            cells = (
                f"`{name}`",
                one["name"],
                f"{shown(one['value'])} {unit}",
                f"{shown(floor)} {unit} ({one['floor_name']})" if floor is not None else "",
                ratio,
                f"{SIGNS[one['best']]} {one['target']:g}{'x' if one['target_of'] == 'ratio' else ' ' + unit}",
                str(one["runs"]),
                "yes" if one["met"] else "**no**",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratios(saved: dict[str, Any], path: Path) -> None:
    """One bar a figure: how much of its target it uses up, 1 being the target itself."""
    rows = [
        (f"{name}: {one['name']}", _used(one), one["met"])
        for name, it in saved.items()
        for one in it["figures"]
        if one["target"]
    ]
    rows.reverse()
    figure, axes = _axes(9, 0.8 + 0.26 * len(rows))
    axes.barh([row[0] for row in rows], [row[1] for row in rows], color=[MET if row[2] else MISSED for row in rows])
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_xlim(0, WIDEST)
    axes.set_xlabel(f"share of the target used up (1: just met; less is better; cut off at {WIDEST:g})")
    _save(figure, path)


def _used(one: dict[str, Any]) -> float:
    reached = one["ratio"] if one["target_of"] == "ratio" else one["value"]
    return float(reached / one["target"] if one["best"] == "low" else one["target"] / reached)


def _latencies(saved: dict[str, Any], path: Path) -> None:
    """The share of jobs (up) that were done within so many milliseconds (across, logarithmic), by sample."""
    figure, axes = _axes(8, 4.5)
    for name, answer in saved.items():
        for sample, values in answer["samples"].items():
            if sample.endswith("_ms") and len(values) > 1:
                ordered = sorted(values)
                shares = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
                axes.step(ordered, shares, where="post", label=f"{name}: {sample.removesuffix('_ms')}")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of runs")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"drawn: {path}")
