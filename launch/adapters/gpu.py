"""The GPUs of this machine, by UUID, from NVML. A machine without the driver has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pynvml


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """How much of the time one GPU is at work, in percent, and the memory in use on it."""

    util_percent: float
    memory_bytes: int


def gpu_uuids() -> tuple[str, ...]:
    """UUIDs in the driver's order. Blocks for some milliseconds."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)
    finally:
        pynvml.nvmlShutdown()


def gpu_usage(uuids: Sequence[str]) -> dict[str, GpuUsage]:
    """What these GPUs do now; one that the driver does not know, or does not tell of, is left out. Blocks."""
    found: dict[str, GpuUsage] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    try:
        for uuid in uuids:
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                util = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                found[uuid] = GpuUsage(float(util), int(pynvml.nvmlDeviceGetMemoryInfo(handle).used))
            except pynvml.NVMLError:
                continue
    finally:
        pynvml.nvmlShutdown()
    return found
