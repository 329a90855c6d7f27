"""Train a classifier of handwritten digits with the standard library alone, and print how well it does.

A network of one hidden layer learns 8x8 images (1,797 of them, UCI optical recognition of handwritten digits) by
stochastic gradient descent. The same seed gives the same numbers. Prints one line an epoch and, last,
`test accuracy 0.9xx`, measured on images that took no part in training or in choosing the weights. Exits 1 if that is
not above 0.9.
"""

import argparse
import csv
import gzip
import math
import random
import sys
import time
from operator import mul
from pathlib import Path
from typing import NamedTuple

PIXELS = 64
CLASSES = 10
FULL_INK = 16.0
REQUIRED_ACCURACY = 0.9

Vector = list[float]
Matrix = list[Vector]


class Image(NamedTuple):
    """One digit: its pixels between 0 and 1, and which digit it is."""

    pixels: Vector
    digit: int


class Network(NamedTuple):
    """Weights of both layers, one row a neuron; the last of a row is the neuron's bias."""

    hidden: Matrix
    output: Matrix


def read_images(path: Path) -> list[Image]:
    """Read the data set: 64 pixels of 0 to 16 a line, then the digit."""
    with gzip.open(path, "rt", newline="") as lines:
        rows = [[float(value) for value in row] for row in csv.reader(lines)]
    return [Image([value / FULL_INK for value in row[:PIXELS]], int(row[PIXELS])) for row in rows]


def dot(left: Vector, right: Vector) -> float:
    """Return the sum of products; a longer vector's rest is left out."""
    total: float = sum(map(mul, left, right))
    return total


def new_network(neurons: int, rng: random.Random) -> Network:
    """Return small random weights, scaled to what each neuron sums up."""

    def layer(rows: int, inputs: int) -> Matrix:
        scale = math.sqrt(2.0 / inputs)
        return [[rng.gauss(0.0, scale) for _ in range(inputs)] + [0.0] for _ in range(rows)]

    return Network(layer(neurons, PIXELS), layer(CLASSES, neurons))


def forward(network: Network, pixels: Vector) -> tuple[Vector, Vector]:
    """Return the activations of the hidden layer and the probability of each digit."""
    hidden = [max(0.0, dot(row, pixels) + row[-1]) for row in network.hidden]
    scores = [dot(row, hidden) + row[-1] for row in network.output]
    highest = max(scores)
    exponents = [math.exp(score - highest) for score in scores]
    total = sum(exponents)
    return hidden, [exponent / total for exponent in exponents]


def learn(network: Network, image: Image, rate: float) -> float:
    """Move the weights one step towards naming this image; return the loss before the step."""
    hidden, probabilities = forward(network, image.pixels)
    errors = [probability - (digit == image.digit) for digit, probability in enumerate(probabilities)]
    back = [0.0] * len(hidden)
    for row, error in zip(network.output, errors, strict=True):
        step = rate * error
        for neuron, activation in enumerate(hidden):
            if activation > 0.0:
                back[neuron] += row[neuron] * error
                row[neuron] -= step * activation
        row[-1] -= step
    inked = [(pixel, ink) for pixel, ink in enumerate(image.pixels) if ink > 0.0]
    for row, activation, error in zip(network.hidden, hidden, back, strict=True):
        if activation > 0.0:
            step = rate * error
            for pixel, ink in inked:
                row[pixel] -= step * ink
            row[-1] -= step
    return -math.log(max(probabilities[image.digit], 1e-12))


def accuracy(network: Network, images: list[Image]) -> float:
    """Return the share of images that the network names rightly."""
    right = 0
    for image in images:
        _, probabilities = forward(network, image.pixels)
        right += probabilities.index(max(probabilities)) == image.digit
    return right / len(images)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; every default is a run that passes."""
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("digits.csv.gz"))
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=64, help="neurons of the hidden layer")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def main() -> int:
    """Train, report, and say by the exit code whether it was good enough."""
    arguments = parse_arguments()
    rng = random.Random(arguments.seed)
    images = read_images(arguments.data)
    rng.shuffle(images)
    tenth = len(images) // 10
    test, validation, training = images[: 2 * tenth], images[2 * tenth : 3 * tenth], images[3 * tenth :]
    print(f"images: {len(training)} to train, {len(validation)} to validate, {len(test)} to test", flush=True)

    network = new_network(arguments.hidden, rng)
    started = time.monotonic()
    for epoch in range(1, arguments.epochs + 1):
        rng.shuffle(training)
        rate = arguments.learning_rate / (1.0 + 0.1 * (epoch - 1))
        loss = sum(learn(network, image, rate) for image in training) / len(training)
        print(
            f"epoch {epoch:2}/{arguments.epochs}  loss {loss:.4f}  "
            f"validation accuracy {accuracy(network, validation):.3f}  {time.monotonic() - started:5.1f} s",
            flush=True,
        )

    result = accuracy(network, test)
    print(f"test accuracy {result:.3f}", flush=True)
    return 0 if result > REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
