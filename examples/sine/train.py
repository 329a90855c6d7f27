"""Teaches a small network the curve sin(3x) + x/2, with nothing but Python's standard library.

Shows all that a job may hand back without any library of ours: a marked line of output is a point of its metrics, what
lies in $LAUNCH_ARTIFACTS is kept, and $LAUNCH_CHECKPOINT is there again for the next attempt. Outside of a job it runs
the same and writes into ./out.
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

ARTIFACTS = Path(os.environ.get("LAUNCH_ARTIFACTS", "out"))
CHECKPOINT = Path(os.environ.get("LAUNCH_CHECKPOINT", "out")) / "checkpoint.json"
ATTEMPT = os.environ.get("LAUNCH_ATTEMPT", "1")

Weights = list[list[float]]
"""A row a hidden unit: its input weight, its bias, its output weight; the last row is the output's bias."""


def predict(weights: Weights, x: float) -> tuple[float, list[float]]:
    """The network's value at x, and its hidden units'."""
    hidden = [math.tanh(w * x + b) for w, b, _ in weights[:-1]]
    return sum(h * row[2] for h, row in zip(hidden, weights[:-1], strict=True)) + weights[-1][0], hidden


def train_epoch(weights: Weights, points: list[tuple[float, float]], rate: float) -> float:
    """One pass of gradient descent, in place; the mean squared error on the way."""
    total = 0.0
    for x, y in points:
        value, hidden = predict(weights, x)
        error = value - y
        total += error * error
        step = rate * error
        for h, row in zip(hidden, weights[:-1], strict=True):
            back = step * row[2] * (1 - h * h)
            row[2] -= step * h
            row[0] -= back * x
            row[1] -= back
        weights[-1][0] -= step
    return total / len(points)


def write_whole(path: Path, value: object) -> None:
    """Under another name first: whoever reads the file, whenever, finds it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value))
    draft.rename(path)


def main() -> None:
    """Train from the last checkpoint on, and leave the model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=24)
    parser.add_argument("--rate", type=float, default=0.02)
    args = parser.parse_args()

    dice = random.Random(7)
    points = [(x, math.sin(3 * x) + x / 2) for x in (dice.uniform(-2, 2) for _ in range(4000))]
    weights = [[dice.gauss(0, 2), dice.gauss(0, 2), dice.gauss(0, 0.5)] for _ in range(args.hidden)] + [[0.0]]
    first = 1
    if CHECKPOINT.exists():
        saved = json.loads(CHECKPOINT.read_text())
        first, weights = saved["epoch"] + 1, saved["weights"]
    print(f"attempt {ATTEMPT} starts with epoch {first} of {args.epochs}", flush=True)

    started = time.monotonic()
    for epoch in range(first, args.epochs + 1):
        dice.shuffle(points)
        loss = train_epoch(weights, points, args.rate)
        print("@metrics " + json.dumps({"loss": loss, "step": epoch}), flush=True)
        if epoch % 10 == 0:
            print(f"epoch {epoch}/{args.epochs}  loss {loss:.5f}  {time.monotonic() - started:.1f} s", flush=True)
        if epoch % 10 == 0:
            write_whole(CHECKPOINT, {"epoch": epoch, "weights": weights})

    write_whole(ARTIFACTS / "model.json", {"hidden": args.hidden, "weights": weights})
    print("model.json written", flush=True)


if __name__ == "__main__":
    main()
