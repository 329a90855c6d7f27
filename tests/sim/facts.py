"""What happened in a run, noted where it happened and not by those who took part: what the promise is checked against.

Times are seconds of the run.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Run:
    """One container from its start to its end, as its engine saw it. `by_itself`: nobody ended it."""

    job: int
    attempt: int
    agent: str
    engine: str
    container: str
    start_s: float
    end_s: float = float("inf")
    code: int | None = None
    by_itself: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """One value of a job's record, as it was stored."""

    at_s: float
    key: str
    value: bytes


class Spans:
    """When something was so: spans of time, the last one perhaps open."""

    def __init__(self) -> None:
        self._spans: list[list[float]] = []

    def set(self, at_s: float, so: bool) -> None:
        """From now on it is so, or is not."""
        is_so = bool(self._spans) and self._spans[-1][1] == float("inf")
        if so and not is_so:
            self._spans.append([at_s, float("inf")])
        elif is_so and not so:
            self._spans[-1][1] = at_s

    def add(self, start_s: float, end_s: float) -> None:
        """It was so from `start_s` to `end_s`; spans may overlap."""
        self._spans.append([start_s, end_s])

    def within(self, start_s: float, end_s: float) -> list[tuple[float, float]]:
        """The spans' parts between two times."""
        cut = ((max(a, start_s), min(b, end_s)) for a, b in self._spans)
        return [(a, b) for a, b in cut if a < b]

    def always(self, start_s: float, end_s: float) -> bool:
        """Whether it was so all the time."""
        return any(a <= max(start_s, 0.0) and b >= end_s for a, b in self._spans)

    def never(self, start_s: float, end_s: float) -> bool:
        """Whether it was so at no time."""
        return not self.within(start_s, end_s)

    def gaps(self, until_s: float) -> list[tuple[float, float]]:
        """When it was not so, up to `until_s`."""
        found, end_s = [], 0.0
        for a, b in self._spans:
            if a >= until_s:
                break
            found.append((end_s, a))
            end_s = b
        return [*found, (end_s, until_s)] if end_s < until_s else found

    def __str__(self) -> str:
        return ", ".join(f"{a:.3f}-{b:.3f}" for a, b in self._spans) or "never"


@dataclass(slots=True)
class Facts:
    """All that is known about a run from outside."""

    runs: list[Run] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    published: dict[int, int] = field(default_factory=dict)
    """Sequence of each message, and which of the planned jobs it is."""
    ran_out: list[tuple[float, int]] = field(default_factory=list)
    """When the ack wait of which message ran out."""
    in_contact: dict[str, Spans] = field(default_factory=lambda: defaultdict(Spans))
    """Of each agent: it lives, has announced itself, and has a connection."""
    alive: dict[str, Spans] = field(default_factory=lambda: defaultdict(Spans))
    """Of each agent: its process lives."""
    trouble: dict[str, Spans] = field(default_factory=lambda: defaultdict(Spans))
    """Of each engine: it is away, or slow."""
    defects: list[str] = field(default_factory=list)
    """What our own code should never do, whatever the world does: an error logged, an agent dead."""
    left: list[str] = field(default_factory=list)
    """What is still there in the end."""
    ended_s: float = 0.0
