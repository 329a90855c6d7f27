"""Who of several scalers acts for a queue: a lease of KV `leases`, and how it is come by, kept and lost.

Invariants: of two scalers that follow the text below at most one believes that it leads, however late answers come: a
leader counts from when it asked, not from when it was answered, and stops before the broker's count is over. (Should
clocks run that differently, the state document refuses the stale one: `scaler.state`.) The lease of a process of this
machine that has died is taken over at once; any other one's when it has run out.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from launch.errors import Conflict, LaunchError
from launch.ports import Leases

log = structlog.stdlib.get_logger("scaler")

MARGIN = 0.2
"""The share of the lease's time that is not used: what a leader does last must be done by the end."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One scaler process, told apart from all others, its own successor included."""

    name: str
    place: str
    """The machine since its start, and the space of process ids."""
    pid: int
    started: float
    nonce: str

    @classmethod
    def mine(cls) -> Identity:
        """This process's."""
        process = psutil.Process()
        name = f"{socket.gethostname()}-{process.pid}"
        return cls(name, _place(), process.pid, round(process.create_time(), 2), secrets.token_hex(3))

    def __str__(self) -> str:
        return f"{self.name} {self.place} {self.pid} {self.started} {self.nonce}"

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """What `str` made; None of anything else."""
        parts = text.split(" ")
        with suppress(ValueError):
            if len(parts) == 5:
                return cls(parts[0], parts[1], int(parts[2]), float(parts[3]), parts[4])
        return None

    def surely_dead(self, place: str) -> bool:
        """Whether it was a process of this `place` that is there no more."""
        if self.place != place or not place:
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def shown(holder: str) -> str:
    """A holder's name, for people."""
    return holder.partition(" ")[0]


class Lease:
    """One queue's leadership, as one scaler sees it. `lost` is set once it has been had and is no more."""

    def __init__(
        self,
        leases: Leases,
        queue: str,
        me: Identity,
        *,
        ttl_s: float,
        renew_s: float,
        follow: Callable[[str], None],
    ) -> None:
        self.lost = asyncio.Event()
        self._leases = leases
        self._name = f"scaler.{queue}"
        self._queue = queue
        self._me = me
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._follow = follow
        self._leader: str | None = None
        self._revision: int | None = None
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether this scaler may act now."""
        return self._revision is not None and asyncio.get_running_loop().time() < self._until

    async def try_once(self) -> bool:
        """Take the lease if it can be had. Raises `LaunchError`. `follow` hears who has it, once for each."""
        asked_at = asyncio.get_running_loop().time()
        revision = await self._leases.acquire(self._name, str(self._me), ttl_s=self._ttl_s)
        if revision is None:
            revision = await self._inherited()
        if revision is None:
            return False
        self._leader = None
        self.lost.clear()
        self._had(revision, asked_at)
        return True

    async def keep(self) -> None:
        """Renew it until it is lost, or until cancelled."""
        try:
            await self._keep()
        except Exception:
            self._revision = None
            raise
        finally:
            if self._revision is None:
                self.lost.set()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self._renew_s
        while (revision := self._revision) is not None and self.held:
            await asyncio.sleep(min(pause_s, max(0.0, self._until - loop.time())))
            asked_at = loop.time()
            try:
                async with asyncio.timeout_at(self._until):
                    renewed = await self._leases.renew(self._name, str(self._me), revision, ttl_s=self._ttl_s)
                    if renewed is None:
                        # The answer to an earlier renewal may have been lost: the entry is one's own all the same.
                        renewed = await self._taken_from(str(self._me))
            except (LaunchError, TimeoutError) as error:
                log.info("the lease was not renewed", queue=self._queue, why=str(error) or "no answer in time")
                pause_s = self._renew_s / 4
                continue
            if renewed is None:
                break
            pause_s = self._renew_s
            self._had(renewed, asked_at)
        self._revision = None

    async def release(self) -> None:
        """Give it up, so that another can have it at once; if the broker is away, it runs out."""
        revision, self._revision = self._revision, None
        if revision is not None:
            with suppress(LaunchError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._leases.release(self._name, revision)

    async def _inherited(self) -> int | None:
        """Take over from a process of this machine that is dead; else say who leads."""
        holder = await self._leases.holder(self._name)
        if holder is None:
            return None  # It has just run out: the next try finds it free.
        other = Identity.parse(holder)
        if other is not None and other.surely_dead(self._me.place):
            return await self._taken_from(holder)
        if holder != self._leader:
            self._leader = holder
            self._follow(shown(holder))
        return None

    async def _taken_from(self, holder: str) -> int | None:
        try:
            return await self._leases.inherit(self._name, str(self._me), of=holder, ttl_s=self._ttl_s)
        except Conflict:
            return None

    def _had(self, revision: int, asked_at: float) -> None:
        self._revision, self._until = revision, asked_at + self._ttl_s * (1 - MARGIN)


def _place() -> str:
    """Where process ids mean the same: this machine since it started, and this space of them; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
