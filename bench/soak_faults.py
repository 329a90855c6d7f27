"""The faults of a soak: what is done to agents, servers, containers and jobs, at moments that a seed decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from bench.soak_scene import ACK_WAIT_S, LEASE_S, Away, Scene, Worker
from launch.client import Client
from launch.errors import LaunchError
from tests.support import engine


class Faults:
    """Breaks things, some of them side by side; one agent is always left alone."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._server = asyncio.Lock()

    async def break_things(self, until: float) -> None:
        """One fault after the other, some of them side by side, until the loop's time is `until`."""
        loop = asyncio.get_running_loop()
        kinds: list[tuple[str, Callable[[], Awaitable[bool]]]] = [
            ("agent killed, started again", lambda: self._kill(0.0)),
            ("agent killed, away for longer than its lease", lambda: self._kill(LEASE_S + ACK_WAIT_S + 3)),
            ("agent frozen for less than its lease", lambda: self._freeze(LEASE_S / 3)),
            ("agent frozen for longer", lambda: self._freeze(LEASE_S + ACK_WAIT_S + 3)),
            ("connection cut", lambda: self._cut(0.5)),
            ("black hole for less than the lease", lambda: self._hole(LEASE_S / 3)),
            ("black hole for longer", lambda: self._hole(LEASE_S + ACK_WAIT_S + 3)),
            ("server restarted", lambda: self._restart_server(self._scene.chance.uniform(0.2, 1.0), kill=False)),
            ("server killed, away for longer than the lease", lambda: self._restart_server(LEASE_S + 2, kill=True)),
            ("container removed", self._remove),
            ("job cancelled", self._cancel),
        ]
        async with asyncio.TaskGroup() as tasks:

            async def carry_out(name: str, fault: Callable[[], Awaitable[bool]]) -> None:
                if await fault():
                    self._scene.faults[name] += 1

            deck: list[tuple[str, Callable[[], Awaitable[bool]]]] = []
            while loop.time() < until:
                await asyncio.sleep(self._scene.chance.uniform(1.0, 3.5))
                if not deck:
                    deck = self._scene.chance.sample(kinds, len(kinds))
                name, fault = deck.pop()
                tasks.create_task(carry_out(name, fault), name=name)

    def _someone(self) -> Worker | None:
        """A worker that nothing is done to; one is always left alone."""
        free = [worker for worker in self._scene.workers if not worker.busy.locked()]
        return self._scene.chance.choice(free) if len(free) > 1 else None

    async def _kill(self, away_s: float) -> bool:
        worker = self._someone()
        if worker is None:
            return False
        async with worker.busy:
            since = time.time_ns()
            held = self._scene.held_by(worker)
            await worker.agent.kill()
            await asyncio.sleep(away_s)
            async with self._server:  # an agent that finds no server at its start says so and ends
                started = time.monotonic()
                await worker.agent.start()
            if held and not away_s:
                self._scene.adopted_s.append(time.monotonic() - started)
            worker.away.append(Away(since, time.time_ns(), dead=True))
        return True

    async def _freeze(self, for_s: float) -> bool:
        worker = self._someone()
        if worker is None:
            return False
        async with worker.busy:
            since = time.time_ns()
            worker.agent.freeze()
            await asyncio.sleep(for_s)
            worker.agent.thaw()
            worker.away.append(Away(since, time.time_ns(), dead=False))
        return True

    async def _cut(self, for_s: float) -> bool:
        worker = self._someone()
        if worker is None:
            return False
        async with worker.busy:
            since = time.time_ns()
            await worker.way.cut()
            await asyncio.sleep(for_s)
            await worker.way.start()
            worker.away.append(Away(since, time.time_ns(), dead=False))
        return True

    async def _hole(self, for_s: float) -> bool:
        worker = self._someone()
        if worker is None:
            return False
        async with worker.busy:
            since = time.time_ns()
            worker.way.black_hole()
            await asyncio.sleep(for_s)
            worker.way.heal()
            worker.away.append(Away(since, time.time_ns(), dead=False))
        return True

    async def _restart_server(self, down_s: float, *, kill: bool) -> bool:
        if self._server.locked():
            return False
        async with self._server:
            await asyncio.to_thread(self._scene.server.stop, kill=kill)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(self._scene.server.start)
            self._scene.server_up.append(time.time_ns())
        return True

    async def _remove(self) -> bool:
        running = self._scene.runs.running()
        if not running:
            return False
        run = self._scene.chance.choice(running)
        await asyncio.to_thread(engine.call, "DELETE", f"/containers/{run.container}", {"force": "1"})
        return True

    async def _cancel(self) -> bool:
        living = [
            job
            for job in self._scene.jobs
            if job not in self._scene.records or not self._scene.records[job].state.terminal
        ]
        if not living:
            return False
        job = self._scene.chance.choice(living)
        self._scene.cancelled.add(job)
        while True:
            with suppress(LaunchError):
                await Client(self._scene.broker).cancel(job)
                return True
            await asyncio.sleep(0.2)
