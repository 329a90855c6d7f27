"""The GPUs of this machine, by UUID, from NVML. A machine without the driver has none."""

from __future__ import annotations

import pynvml


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
