"""`python -m bench [NAME…]`: answer the questions, print a table of ratios, save `build/bench/<name>.json`.

`--short` asks only what can be told in seconds, and fails when a ratio is lost beyond all noise: continuous integration
runs that. `--plot` draws what has been saved for the docs, and measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from bench import (
    crowd,
    dispatch,
    files,
    gap,
    idle,
    launch_latency,
    logs,
    netns,
    plan,
    scale,
    scale_fleet,
    scale_look,
    start,
    throughput,
)
from bench.answer import Answer, Measure, Question, table
from bench.machine import described

FOLDER = Path("build/bench")
QUESTIONS: dict[str, Question] = {
    "dispatch": Question(lambda: dispatch.measure(1000), short=lambda: dispatch.measure(30)),
    "start": Question(lambda: start.measure(50), short=lambda: start.measure(8)),
    "throughput": Question(
        lambda: throughput.measure(500, (1, 4, 16), 5), short=lambda: throughput.measure(40, (4,), 2)
    ),
    "gap": Question(lambda: gap.measure(100, 5), short=lambda: gap.measure(8, 2)),
    "netns": Question(lambda: netns.measure(50, 400, 5), short=lambda: netns.measure(8, 32, 1)),
    "crowd": Question(lambda: crowd.measure(200, 30.0)),
    "idle": Question(lambda: idle.measure(30.0)),
    "logs": Question(lambda: logs.measure(9, 25, 200, 10)),
    "files": Question(lambda: files.measure(5, 256)),
    "submit": Question(lambda: scale.submit(2000, 1_000_000), short=lambda: scale.submit(300, 50_000)),
    "depth": Question(lambda: scale.depth(1_000_000, 1000), short=lambda: scale.depth(50_000, 30)),
    "fleet": Question(lambda: scale_fleet.measure(1000, scale_fleet.RATES, 10.0)),
    "listing": Question(lambda: scale_look.listing(100_000, 20), short=lambda: scale_look.listing(5000, 3)),
    "commands": Question(lambda: scale_look.commands(20)),
    "launch": Question(lambda: launch_latency.measure(100)),
    "plan": Question(lambda: plan.measure(21)),
}


def main() -> None:
    """Ask what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure nats-launch on real parts.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(QUESTIONS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="seconds a question; exit 1 if a ratio is lost grossly")
    parser.add_argument("--plot", action="store_true", help="draw docs/img/bench-*.svg from what was saved last")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in QUESTIONS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(QUESTIONS)}")
    if asked.plot:
        from bench.plot import draw  # matplotlib is an extra

        draw(FOLDER)
        return
    names = asked.names or [name for name, question in QUESTIONS.items() if question.short or not asked.short]
    answers = {name: _answered(name, short=asked.short) for name in names}
    figures = [(name, figure) for name, answer in answers.items() for figure in answer.figures]
    print(f"\n{table(figures)}")
    lost = [f"{name}: {figure.name}" for name, figure in figures if figure.lost]
    if asked.short and lost:
        sys.exit(f"grossly lost: {'; '.join(lost)}")


def _answered(name: str, *, short: bool) -> Answer:
    print(f"{name} …", flush=True)
    question = QUESTIONS[name]
    measure = question.short if short and question.short is not None else question.full
    since = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the agent runs
        answer = runner.run(_awaited(measure))
    FOLDER.mkdir(parents=True, exist_ok=True)
    saved = {"machine": described(), "short": short, "took_s": time.monotonic() - since, **answer.record()}
    (FOLDER / f"{name}{'-short' if short else ''}.json").write_text(json.dumps(saved, indent=2) + "\n")
    print(table([(name, figure) for figure in answer.figures]) if answer.figures else "  no figures")
    for key, value in answer.detail.items():
        print(f"  {key}: {_shown(value)}")
    return answer


async def _awaited(measure: Measure) -> Answer:
    return await measure()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
