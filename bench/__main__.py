"""`python -m bench [NAME…]`: run the measurements, print a table, save `build/bench/<name>.json`."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import files, idle, launch_latency, logs, plan, start

FOLDER = Path("build/bench")
QUESTIONS: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
    "start": lambda: start.measure(50),
    "idle": lambda: idle.measure(30.0),
    "logs": lambda: logs.measure(9, 25, 200, 10),
    "files": lambda: files.measure(5, 256),
    "launch": lambda: launch_latency.measure(100),
    "plan": lambda: plan.measure(21),
}


def main() -> None:
    """Run what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure nats-launch on real parts.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(QUESTIONS)} (default: all)")
    names = parser.parse_args().names or list(QUESTIONS)
    unknown = [name for name in names if name not in QUESTIONS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(QUESTIONS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"{name} …", flush=True)
        result = asyncio.run(_measured(name))
        (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        for key, value in result.items():
            print(f"  {key:28} {_shown(value)}")


async def _measured(name: str) -> dict[str, Any]:
    return await QUESTIONS[name]()


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
