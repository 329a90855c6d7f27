"""What this worker has, and which job holds how much of it.

Invariant: what is free plus what is held is the capacity, at any time; a GPU is held by one job at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.core.capacity import Amount
from launch.subjects import JobId


@dataclass(frozen=True, slots=True)
class Holding:
    """What one job holds: the amount, and the GPUs by UUID."""

    amount: Amount
    gpus: tuple[str, ...]


class Ledger:
    """The worker's books. Never awaits, never blocks."""

    def __init__(self, capacity: Amount, gpus: Sequence[str] = ()) -> None:
        """`gpus` are the UUIDs to hand out; `capacity.gpus` is their number."""
        if capacity.gpus != len(gpus):
            raise ValueError(f"capacity of {capacity.gpus} GPUs, but {len(gpus)} UUIDs")
        self._capacity = capacity
        self._free_gpus = list(gpus)
        self._held: dict[JobId, Holding] = {}
        self._free = capacity

    @property
    def capacity(self) -> Amount:
        """All that there is."""
        return self._capacity

    @property
    def free(self) -> Amount:
        """What is not held."""
        return self._free

    @property
    def load(self) -> float:
        """The largest share of any dimension that is held, 0 to 1."""
        return (self._capacity - self._free).load_of(self._capacity)

    def hold(self, job: JobId, amount: Amount) -> Holding:
        """Give a job what it asks for. Raises `ValueError` if it does not fit or holds something already."""
        if job in self._held:
            raise ValueError(f"{job} holds resources already")
        if not amount.fits_in(self._free):
            raise ValueError(f"{job} does not fit: {amount.shortfall(self._free)}")
        gpus = tuple(self._free_gpus[: amount.gpus])
        del self._free_gpus[: amount.gpus]
        holding = Holding(amount, gpus)
        self._held[job] = holding
        self._free -= amount
        return holding

    def adopt(self, job: JobId, amount: Amount, gpus: Sequence[str]) -> Holding:
        """Book what a job holds already, from before this process: it may exceed what is offered now."""
        holding = Holding(amount, tuple(gpus))
        self._held[job] = holding
        self._free -= amount
        self._free_gpus = [gpu for gpu in self._free_gpus if gpu not in holding.gpus]
        return holding

    def held_by(self, job: JobId) -> Holding:
        """What a job holds. Raises `KeyError` if it holds nothing."""
        return self._held[job]

    def find(self, job: JobId) -> Holding | None:
        """What a job holds, or None."""
        return self._held.get(job)

    def release(self, job: JobId, holding: Holding) -> None:
        """Take back what a job holds; nothing happens if it holds nothing, or something else by now.

        What is put away late of one attempt must not free what the job's next one holds.
        """
        if self._held.get(job) is holding:
            del self._held[job]
            self._free += holding.amount
            self._free_gpus.extend(holding.gpus)
