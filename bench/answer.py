"""What a question comes to: figures, each beside its floor from the same run and the target that it has to reach."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

GROSS = 3.0
"""So many times beyond its target is a loss that no busy machine explains."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `value` and `floor` are in `unit`; `target` is for their ratio, or for the value itself.

    `floor` is what cannot be beaten by the same means, measured in the same run; None where there is nothing to
    compare with. Only ratios can be a gross loss: an absolute figure is another machine's business.
    """

    name: str
    value: float
    unit: str
    target: float
    runs: int
    floor: float | None = None
    floor_name: str = ""
    target_of: Literal["ratio", "value"] = "ratio"
    best: Literal["low", "high"] = "low"
    gross: float | None = None
    """The ratio that counts as a gross loss; None: `GROSS` times the target, if the target is for the ratio.

    Infinite for what a single hiccup decides, such as the slowest of a few.
    """

    def __post_init__(self) -> None:
        if self.target_of == "ratio" and not self.floor:
            raise ValueError(f"{self.name}: a target for a ratio needs a floor")

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of its floor."""
        return self.value / self.floor if self.floor else None

    @property
    def met(self) -> bool:
        """Whether it reaches its target."""
        reached = self.ratio if self.target_of == "ratio" else self.value
        assert reached is not None
        return reached <= self.target if self.best == "low" else reached >= self.target

    @property
    def lost(self) -> bool:
        """Whether its ratio is so bad that something must be broken."""
        if self.ratio is None:
            return False
        if self.gross is not None:
            limit = self.gross
        elif self.target_of == "ratio":
            limit = self.target * GROSS if self.best == "low" else self.target / GROSS
        else:
            return False
        return self.ratio > limit if self.best == "low" else self.ratio < limit

    def record(self) -> dict[str, Any]:
        """What is saved of it."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "floor": self.floor,
            "floor_name": self.floor_name,
            "ratio": self.ratio,
            "target": self.target,
            "target_of": self.target_of,
            "best": self.best,
            "runs": self.runs,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """All that one question came to.

    `samples` are the single measurements by name, for plots; `detail` is what else may be of interest.
    """

    question: str
    figures: Sequence[Figure] = ()
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What is saved of it."""
        return {
            "question": self.question,
            "figures": [figure.record() for figure in self.figures],
            "detail": dict(self.detail),
            "samples": {name: list(values) for name, values in self.samples.items()},
        }


Measure = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Question:
    """How it is measured in full, and in `short` form (seconds, for continuous integration) if there is one."""

    full: Measure
    short: Measure | None = None


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Sequence[tuple[str, Figure]]) -> str:
    """Figures with their question's name, as lines of aligned columns."""
    head = ("question", "figure", "value", "floor", "ratio", "target", "runs", "met")
    rows = [head] + [
        (
            question,
            figure.name,
            f"{shown(figure.value)} {figure.unit}".strip(),
            f"{shown(figure.floor)} {figure.unit}".strip() if figure.floor is not None else "-",
            f"{figure.ratio:.2f}x" if figure.ratio is not None else "-",
            target_text(figure),
            str(figure.runs),
            "yes" if figure.met else "NO",
        )
        for question, figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def target_text(figure: Figure) -> str:
    """The target, such as `<= 1.05x` or `<= 3 ms`."""
    sign = "<=" if figure.best == "low" else ">="
    return f"{sign} {figure.target:g}x" if figure.target_of == "ratio" else f"{sign} {figure.target:g} {figure.unit}"


def shown(value: float | None) -> str:
    """Three digits that say something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
