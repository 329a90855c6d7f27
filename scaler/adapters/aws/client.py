"""The EC2 client of a region, shared by all queues of this process, and how often what may be tried again.

Invariants: one client a region and process (it takes 23 MiB), made off the loop; the SDK's own retries are off, since
it repeats capacity errors for ten seconds; launches of all queues take from one bucket, as EC2's own limit is the
account's; no vendor exception leaves this module but as a `Fault`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig

from launch.adapters.aws import prepared_session
from scaler.adapters.aws.errors import RETRIED, VENDOR_ERRORS, Fault, Kind, fault_of

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
KEEP_ALIVE_S = 55.0
"""Longer than between two looks at the instances: a launch finds a connection that is open."""
LIMIT_S = 25.0
"""For one call with all its tries."""
TRIES = 5
PAUSE_FIRST_S, PAUSE_MAX_S = 0.2, 4.0
NO_CREDENTIALS = "NoCredentialsError"
LAUNCH_BURST, LAUNCHES_PER_S = 5, 2.0
LAUNCH_WAIT_S = 5.0
"""No launch waits longer for its turn."""

CONFIG = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
    "retries": {"total_max_attempts": 1, "mode": "standard"},
    "max_pool_connections": 32,
    "connector_args": {"keepalive_timeout": KEEP_ALIVE_S},
}


class Refused(Exception):
    """A call that came to nothing, and what that means."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Bucket:
    """So many at once, and then so many a second."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._at_s: float | None = None

    def take(self, limit_s: float) -> float:
        """Take one; returns how many seconds to wait before it may be used. If over `limit_s`, none is taken."""
        now_s = asyncio.get_running_loop().time()
        if self._at_s is not None:
            self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        wait_s = max(0.0, (1 - self._left) / self._per_s)
        if wait_s <= limit_s:
            self._left -= 1
        return wait_s


class Ec2:
    """EC2 in one region. Get it with `open_ec2`, give it back with `close`."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.launches = Bucket(LAUNCH_BURST, LAUNCHES_PER_S)
        self._session: Any = None
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def call(self, operation: str, *, tries: int = 1, **parameters: Any) -> Any:
        """One call, named as the SDK names it. Raises `Refused`."""
        return await self._tried(lambda client: getattr(client, operation)(**parameters), tries)

    async def launch(self, parameters: dict[str, Any]) -> Any:
        """RunInstances, again where its token makes that safe. Raises `Refused`."""
        wait_s = self.launches.take(LAUNCH_WAIT_S)
        if wait_s > LAUNCH_WAIT_S:
            raise Refused(Fault(Kind.THROTTLED, "not asked", f"EC2 takes {LAUNCHES_PER_S:g} launches a second"))
        if wait_s:
            await asyncio.sleep(wait_s)
        return await self._tried(lambda client: client.run_instances(**parameters), TRIES)

    async def pages(self, operation: str, **parameters: Any) -> list[Any]:
        """Every page of what is listed. Raises `Refused`."""

        async def all_pages(client: Any) -> list[Any]:
            return [page async for page in client.get_paginator(operation).paginate(**parameters)]

        return list(await self._tried(all_pages, 2))

    async def parameter(self, name: str) -> str:
        """A public parameter of Systems Manager. Raises `Refused`. Its client lives for one call: that is rare."""

        async def get(_: Any) -> str:
            async with self._session.client("ssm", config=AioConfig(**CONFIG)) as client:
                return str((await client.get_parameter(Name=name))["Parameter"]["Value"])

        return str(await self._tried(get, 3))

    async def client(self) -> Any:
        """The vendor's client. Raises `Refused`."""
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                try:
                    self._session = await asyncio.to_thread(prepared_session, "ec2", "ssm", region=self.region)
                    made = self._session.client("ec2", config=AioConfig(**CONFIG))
                    self._client = await self._stack.enter_async_context(made)
                except (*VENDOR_ERRORS, ValueError) as error:
                    raise Refused(fault_of(error)) from error
        return self._client

    async def _tried(self, ask: Callable[[Any], Awaitable[Any]], tries: int) -> Any:
        """`ask` a client, up to `tries` times where that may help, within `LIMIT_S`; the pauses double, and vary."""
        fault = Fault(Kind.NETWORK, "no answer", f"not within {LIMIT_S:g} s")
        try:
            async with asyncio.timeout(LIMIT_S):
                client = await self.client()
                for number in range(tries):
                    if number:
                        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** (number - 1))
                        await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - it hides nothing
                    try:
                        return await ask(client)
                    except VENDOR_ERRORS as error:
                        fault = fault_of(error)
                    if fault.kind not in RETRIED:
                        break
        except TimeoutError:
            pass  # What went wrong last, or else that, is what is told.
        if fault.code == NO_CREDENTIALS:
            await self._let_go()  # Such a client stays without: the next one looks again.
        raise Refused(fault)

    async def close(self) -> None:
        """Give it back; the last one closes it."""
        key = _key(self.region)
        users, shared = _open.get(key, (1, self))
        if shared is self and users > 1:
            _open[key] = (users - 1, self)
            return
        if shared is self:
            _open.pop(key, None)
        await self._let_go()

    async def _let_go(self) -> None:
        async with self._opening:
            self._client = None
            await self._stack.aclose()


_open: dict[tuple[int, str], tuple[int, Ec2]] = {}
"""By event loop and region: how many queues use it, and the client."""


def _key(region: str) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), region


def open_ec2(region: str) -> Ec2:
    """The client of a region, shared; each `open_ec2` needs its `close`."""
    users, shared = _open.get(_key(region), (0, None))
    shared = shared or Ec2(region)
    _open[_key(region)] = (users + 1, shared)
    return shared
