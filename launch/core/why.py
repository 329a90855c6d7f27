"""The answer to "why does it not go on?": what is the matter, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Why:
    """The state of affairs in one line, and what the user can do (None: nothing, it goes its way)."""

    text: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}" if self.hint else self.text
