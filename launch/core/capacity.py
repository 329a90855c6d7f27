"""What a worker has and what a job asks for, as one vector: CPU, memory, GPUs, job slots.

Invariant: whole numbers only, so that adding and taking away the same amount always gives back the start.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from launch.core.quantity import show_cpu, show_memory


class Amount(BaseModel):
    """A vector of resources: thousandths of a CPU, bytes, whole GPUs, jobs at once."""

    model_config = ConfigDict(frozen=True)

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    slots: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            cpu_milli=self.cpu_milli + other.cpu_milli,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            gpus=self.gpus + other.gpus,
            slots=self.slots + other.slots,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            cpu_milli=self.cpu_milli - other.cpu_milli,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            gpus=self.gpus - other.gpus,
            slots=self.slots - other.slots,
        )

    def fits_in(self, room: Amount) -> bool:
        """Whether `room` holds this amount in every dimension."""
        return (
            self.cpu_milli <= room.cpu_milli
            and self.memory_bytes <= room.memory_bytes
            and self.gpus <= room.gpus
            and self.slots <= room.slots
        )

    def shortfall(self, room: Amount) -> str:
        """What is missing in `room`, with the numbers: `cpu 4 of 2, gpu 1 of 0`. Empty if it fits."""
        missing = []
        if self.cpu_milli > room.cpu_milli:
            missing.append(f"cpu {show_cpu(self.cpu_milli)} of {show_cpu(room.cpu_milli)}")
        if self.memory_bytes > room.memory_bytes:
            missing.append(f"memory {show_memory(self.memory_bytes)} of {show_memory(room.memory_bytes)}")
        if self.gpus > room.gpus:
            missing.append(f"gpu {self.gpus} of {room.gpus}")
        if self.slots > room.slots:
            missing.append(f"jobs at once {self.slots} of {room.slots}")
        return ", ".join(missing)

    def load_of(self, total: Amount) -> float:
        """The largest share of any dimension of `total` that this amount takes, 0 to 1."""
        pairs = (
            (self.cpu_milli, total.cpu_milli),
            (self.memory_bytes, total.memory_bytes),
            (self.gpus, total.gpus),
            (self.slots, total.slots),
        )
        return max((used / whole for used, whole in pairs if whole > 0), default=0.0)
