"""What had no capacity lately, so that the next place is tried first. Pure: the time is passed in.

A place is a type in a zone (or subnet, or anywhere) of a market. Bounded by the number of places that a spec names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scaler.adapters.aws.request import Place

REMEMBERED_S = 180.0
AGAIN_FIRST_S = 10.0
"""If there is capacity nowhere, the place that was tried longest ago is tried again after this, then twice this."""
MAX_PLACES = 1000

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Shortage:
    at: datetime
    times: int


class Shortages:
    """A short memory."""

    def __init__(self) -> None:
        self._known: dict[Key, _Shortage] = {}

    def note(self, place: Place, now: datetime) -> None:
        """It had none."""
        before = self._known.pop(_key(place), None)
        times = before.times + 1 if before and now - before.at < timedelta(seconds=2 * REMEMBERED_S) else 1
        self._known[_key(place)] = _Shortage(now, times)
        while len(self._known) > MAX_PLACES:
            del self._known[next(iter(self._known))]

    def clear(self, place: Place) -> None:
        """It had some."""
        self._known.pop(_key(place), None)

    def choose(self, places: list[Place], now: datetime) -> tuple[Place | None, float]:
        """The first place that is not known to have none; or none and the seconds until one may be tried again."""
        for place in places:
            known = self._known.get(_key(place))
            if known is None or now - known.at >= timedelta(seconds=REMEMBERED_S):
                return place, 0.0
        longest = min(places, key=lambda place: self._known[_key(place)].at)
        known = self._known[_key(longest)]
        pause_s = min(REMEMBERED_S, AGAIN_FIRST_S * 2.0 ** min(known.times - 1, 10))
        left_s = pause_s - (now - known.at).total_seconds()
        return (longest, 0.0) if left_s <= 0 else (None, left_s)


def _key(place: Place) -> Key:
    return place.instance_type, place.zone or place.subnet or "", str(place.market)
