"""What running containers use, as points: CPU, memory, network, and the GPUs that a job holds.

One task looks at all of them, at a bounded number at once: a Docker Engine takes its samples once a second, for all
who wait then. A look that fails is left out: the next one tells.

| value | is |
|---|---|
| `cpu` | CPUs used since the last look (1.5: one and a half) |
| `memory_bytes` | memory used now, without caches |
| `net_rx_bytes_per_s`, `net_tx_bytes_per_s` | received and sent since the last look |
| `gpu0_util`, `gpu1_util`, … | percent of the time in which the GPU was at work, as the driver has it |
| `gpu0_memory_bytes`, … | memory used on it |
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from agent.ports import Engine, EngineError, EngineUnavailable, Usage
from launch.adapters.gpu import GpuUsage
from launch.errors import BrokerError
from launch.points import Metrics, Point, PointSource
from launch.ports import Clock
from launch.subjects import JobId

FIRST_LOOK_S: Final = 1.0
"""A job is looked at so soon after its start, then after twice as long each time, up to the agent's setting."""
GROWTH: Final = 2.0
JITTER: Final = 0.1
TOGETHER: Final = 64
"""So many containers are looked at in one go, those that are due within `AHEAD_S`."""
AHEAD_S: Final = 0.5

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Watched:
    """One running attempt: when it is looked at next, and what the last look saw."""

    job: JobId
    attempt: int
    container: str
    gpus: Sequence[str]
    spread: float
    due_s: float
    interval_s: float
    last: Usage | None = None
    last_s: float = 0.0
    position: int = 0


class UsageSampler:
    """Looks at every container that is being watched, each `every_s`."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        clock: Clock,
        *,
        every_s: float,
        gpus: Callable[[Sequence[str]], Mapping[str, GpuUsage]] | None = None,
    ) -> None:
        """`gpus` says what GPUs do, by UUID; it may block. Without it nothing is said of them."""
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._every_s = every_s
        self._gpus = gpus
        self._watched: dict[_Watched, None] = {}
        self._changed = asyncio.Event()
        self._troubled = False

    @contextlib.contextmanager
    def watching(self, job: JobId, attempt: int, container: str, gpus: Sequence[str] = ()) -> Iterator[None]:
        """Look at this container within the block; `gpus` are the UUIDs that it holds, in its own order."""
        now_s = asyncio.get_running_loop().time()
        first_s = min(FIRST_LOOK_S, self._every_s)
        # So that two hundred jobs that start together are not looked at together for ever.
        spread = 1 + JITTER * (zlib.crc32(container.encode()) / 2**31 - 1)
        watched = _Watched(job, attempt, container, gpus, spread, now_s + first_s * spread, first_s)
        self._watched[watched] = None
        self._changed.set()
        try:
            yield
        finally:
            del self._watched[watched]

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            soon = sorted(self._watched, key=lambda watched: watched.due_s)[:TOGETHER]
            if soon and soon[0].due_s <= loop.time():
                due = [watched for watched in soon if watched.due_s <= loop.time() + AHEAD_S]
                async with asyncio.TaskGroup() as looks:
                    for watched in due:
                        looks.create_task(self._look(watched), name=f"usage of {watched.job}")
                for watched in due:
                    watched.interval_s = min(self._every_s, watched.interval_s * GROWTH)
                    # From now, not from when it was due: what can't keep up looks less often.
                    watched.due_s = loop.time() + watched.interval_s * watched.spread
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(soon[0].due_s if soon else None):
                    await self._changed.wait()

    async def _look(self, watched: _Watched) -> None:
        try:
            used = await self._engine.usage(watched.container)
            if used is None or watched not in self._watched:
                return
            values = self._values(watched, used)
            if watched.gpus and self._gpus is not None:
                values |= await self._gpu_values(self._gpus, watched.gpus)
            now = self._clock.now()
            # Ascending even if the clock is set back.
            watched.position = max(watched.position + 1, round(now.timestamp() * 1000))
            point = Point(now, PointSource.USAGE, watched.attempt, watched.position, values)
            await self._metrics.append(watched.job, [point])
            self._troubled = False
        except (EngineError, EngineUnavailable, BrokerError) as error:
            if not self._troubled:
                _log.warning("can't tell what jobs use", job=str(watched.job), error=str(error))
            self._troubled = True

    def _values(self, watched: _Watched, used: Usage) -> dict[str, float]:
        now_s = asyncio.get_running_loop().time()
        last, elapsed_s = watched.last, now_s - watched.last_s
        watched.last, watched.last_s = used, now_s
        values = {"memory_bytes": float(used.memory_bytes)}
        # Counters start anew with a container that is restarted.
        if last is not None and elapsed_s > 0 and used.cpu_s >= last.cpu_s:
            values["cpu"] = (used.cpu_s - last.cpu_s) / elapsed_s
            values["net_rx_bytes_per_s"] = max(0, used.received_bytes - last.received_bytes) / elapsed_s
            values["net_tx_bytes_per_s"] = max(0, used.sent_bytes - last.sent_bytes) / elapsed_s
        return values

    @staticmethod
    async def _gpu_values(
        look: Callable[[Sequence[str]], Mapping[str, GpuUsage]], uuids: Sequence[str]
    ) -> dict[str, float]:
        found = await asyncio.to_thread(look, uuids)
        values = {}
        for index, uuid in enumerate(uuids):
            if (gpu := found.get(uuid)) is not None:
                values[f"gpu{index}_util"] = gpu.util_percent
                values[f"gpu{index}_memory_bytes"] = float(gpu.memory_bytes)
        return values
