"""First-fit of pending jobs into rooms, by whole numbers: like jobs are placed together, into like rooms together.

So the cost goes with the kinds of jobs and of rooms, not with their numbers. A room is taken by jobs that follow one
another too: one that lasts d and may start within h takes turns with h // d others in its place.
Invariant: rooms that got nothing can be taken away, and new ones that were opened can be added as rooms at the end,
without any job being placed elsewhere: that makes planning idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from launch.core.capacity import Amount
from scaler.core.snapshot import PendingGroup

Sizes = tuple[int, int, int, int]
"""An amount as plain numbers: thousandths of a CPU, bytes, GPUs, slots."""


def sizes_of(amount: Amount) -> Sizes:
    """The plain numbers of an amount."""
    return (amount.cpu_milli, amount.memory_bytes, amount.gpus, amount.slots)


@dataclass(slots=True)
class Demand:
    """Like jobs that are being placed: `count` of them are left."""

    group: PendingGroup
    sizes: Sizes
    count: int
    lasts_s: float | None
    """How long each is taken to run; None if nothing is known of that."""
    load: float
    """The largest share that one takes of any dimension of a new instance."""
    fits: bool
    """Whether a new instance could hold one."""


@dataclass(slots=True)
class Rooms:
    """Workers with the same space from the same time on; `members` are their numbers, in order (None: new ones)."""

    free: Sizes
    count: int
    members: Sequence[int] | None = None
    job_types: tuple[str, ...] | None = None
    at_s: float = 0.0
    taken: bool = False
    """Something was placed in each."""


@dataclass(slots=True)
class Place:
    """Rooms in the order in which they are filled; those that have no space left for anything are put aside."""

    open: list[Rooms]
    least: Sizes
    """No job that is to be placed asks for less, in any dimension."""
    done: list[Rooms] = field(default_factory=list)

    def fill(self, demand: Demand, until_s: float) -> int:
        """Place as many as fit and can start by then; returns how many were placed."""
        before = demand.count
        cpu, memory, gpus, slots = demand.sizes
        # Where nothing fits nothing changes: this line is where a large fleet's time goes.
        places = [
            at
            for at, rooms in enumerate(self.open)
            if (free := rooms.free)[0] >= cpu and free[3] >= slots and free[1] >= memory and free[2] >= gpus
        ]
        changed: dict[int, list[Rooms]] = {}
        for at in places:
            if not demand.count:
                break
            changed[at] = self._put(demand, self.open[at], until_s)
        if changed:
            self.open = [part for at, rooms in enumerate(self.open) for part in changed.get(at, (rooms,))]
        return before - demand.count

    def add(self, rooms: Rooms, demand: Demand, until_s: float) -> None:
        """Open more rooms at the end, and place what fits in there."""
        self.open += self._put(demand, rooms, until_s)

    def all(self) -> Iterable[Rooms]:
        """Every room, in no order."""
        yield from self.done
        yield from self.open

    def _put(self, demand: Demand, rooms: Rooms, until_s: float) -> list[Rooms]:
        """Place in rooms that are alike; returns what they are now: full ones, one that is partly filled, the rest."""
        if rooms.job_types is not None and demand.group.job_type not in rooms.job_types:
            return [rooms]
        fitting = how_many(rooms.free, demand.sizes, demand.count)
        if not fitting:
            return [rooms]
        turns = turns_within(until_s - rooms.at_s, demand.lasts_s)
        full = min(rooms.count, demand.count // (fitting * turns))
        rest = demand.count - full * fitting * turns if full < rooms.count else 0
        demand.count -= full * fitting * turns + rest
        parts = [(0, full, fitting)]
        if rest:
            parts.append((full, full + 1, -(-rest // turns)))
        result = []
        for start, end, slots in parts:
            if end == start:
                continue
            free = _less(rooms.free, demand.sizes, slots)
            members = rooms.members[start:end] if rooms.members is not None else None
            part = Rooms(free, end - start, members, rooms.job_types, rooms.at_s, taken=True)
            if may_hold(free, self.least):
                result.append(part)
            else:
                self.done.append(part)
        over = full + (1 if rest else 0)
        if over < rooms.count:
            members = rooms.members[over:] if rooms.members is not None else None
            result.append(Rooms(rooms.free, rooms.count - over, members, rooms.job_types, rooms.at_s, rooms.taken))
        return result


def open_new(place: Place, demand: Demand, capacity: Sizes, at_s: float, until_s: float, limit: int) -> int:
    """Open as many new rooms of `capacity` as the demand takes, at most `limit`; returns how many."""
    fitting = how_many(capacity, demand.sizes, demand.count)
    if not fitting or not demand.count or limit <= 0:
        return 0
    each = fitting * turns_within(until_s - at_s, demand.lasts_s)
    opened = min(limit, -(-demand.count // each))
    place.add(Rooms(capacity, opened, None, None, at_s), demand, until_s)
    return opened


def how_many(free: Sizes, sizes: Sizes, count: int) -> int:
    """How many of `count` like jobs fit at once. An overdrawn dimension takes nothing, not even who asks for none."""
    for size, room in zip(sizes, free, strict=True):
        if room < size or room < 0:
            return 0
        if size and room // size < count:
            count = room // size
    return count


def may_hold(free: Sizes, sizes: Sizes) -> bool:
    """Whether one job of these sizes fits."""
    return (
        free[0] >= sizes[0] and free[1] >= sizes[1] and free[2] >= sizes[2] and free[3] >= sizes[3] and min(free) >= 0
    )


def turns_within(seconds: float, lasts_s: float | None) -> int:
    """How many jobs can start in one place within so many seconds, one after the other: at least the first."""
    if lasts_s is None or seconds <= 0:
        return 1
    return 1 + int(seconds / max(lasts_s, 0.1))


def least_of(demands: Iterable[Demand]) -> Sizes:
    """The least that is asked for in each dimension."""
    columns = list(zip(*(demand.sizes for demand in demands), strict=True))
    return (min(columns[0]), min(columns[1]), min(columns[2]), min(columns[3])) if columns else (0, 0, 0, 0)


def _less(free: Sizes, sizes: Sizes, count: int) -> Sizes:
    return (
        free[0] - sizes[0] * count,
        free[1] - sizes[1] * count,
        free[2] - sizes[2] * count,
        free[3] - sizes[3] * count,
    )
