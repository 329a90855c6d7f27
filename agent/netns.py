"""The network namespaces that an agent keeps ready for its jobs, where its policy asks for that.

To make and unmake a namespace on the bridge is more than half of what a short job costs. So they are made ahead, one at
a time, each kept by a container of its own (`agent.core.netns`), up to `size`. A job gets one that is ready, or is made
on the bridge as ever: it never waits for one. What one job has had goes to the next only if it is as it was before the
first; else it is thrown away, as is all that is in doubt.

Keepers carry the agent's id in a label, as jobs' containers do. What an earlier process left is found by that: what a
job still has is left to it, and thrown away after it; the others are removed. Other agents' are never touched.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import structlog

from agent.core.netns import (
    ABOUT,
    QUESTION,
    AnswerParser,
    BadAnswer,
    State,
    image_reference,
    image_tar,
    join,
    joinable,
    keeper_config,
)
from agent.core.netns_program import ARCHITECTURES
from agent.ports import Container, Engine, EngineError, EngineUnavailable
from agent.steady import exited, seen_through
from launch.errors import LaunchError
from launch.subjects import LABEL_AGENT, LABEL_KEEPER, LABEL_NETNS

LOOK_LIMIT_S: Final = 10.0
"""A keeper answers in some milliseconds; on an engine that has much to do, a multiple of that."""
CLOSE_LIMIT_S: Final = 10.0
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
_NOT_FOUND: Final = 404

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Keeper:
    """One namespace. `born` is its state before any job came; None where nobody knows it."""

    id: str
    born: State | None
    alive: bool = True


class NetworkPool:
    """Namespaces for the jobs of one agent; with a size of none it only puts away what an earlier process left."""

    def __init__(self, engine: Engine, agent_id: str, *, size: int = 0, machine: str = "") -> None:
        """`machine` is the engine's architecture. Raises `LaunchError` if there can be no keepers on it."""
        if size and machine not in ARCHITECTURES:
            allowed = ", ".join(ARCHITECTURES)
            hint = "leave network_pool out of the agent's policy"
            raise LaunchError(f"network_pool: the engine's machine is '{machine}'; allowed: {allowed}", hint=hint)
        self._engine = engine
        self._agent_id = agent_id
        self._size = size
        self._machine = machine
        self._free: list[_Keeper] = []
        self._lent: dict[str, _Keeper] = {}
        self._spoilt: deque[_Keeper] = deque()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    @property
    def ready(self) -> int:
        """How many namespaces wait for a job."""
        return len(self._free)

    async def settled(self) -> None:
        """Wait until there is nothing to make or to remove; `run` must be under way."""
        await self._settled.wait()

    # -- what jobs do -------------------------------------------------------------------------------------------------

    def join(self, name: str, config: dict[str, Any]) -> None:
        """Let the container `name` have a namespace that is ready, by changing its create body.

        Leaves it as it is if there is none, or if this container is to have one of its own.
        """
        if not joinable(config):
            return
        keeper = self._lent.get(name)
        if keeper is None:
            if not self._free:
                return
            keeper = self._lent[name] = self._free.pop()
        join(config, keeper.id)

    async def part(self, name: str) -> None:
        """Take back what the container `name` had, which has been removed. Raises nothing but cancellation."""
        keeper = self._lent.get(name)
        if keeper is None:
            return
        clean = await self._is_clean(name, keeper)
        del self._lent[name]
        if clean and keeper.alive:
            self._free.append(keeper)
        else:
            self._throw_away(keeper)

    async def _is_clean(self, name: str, keeper: _Keeper) -> bool:
        """Whether nothing of the job is left."""
        if keeper.born is None or not keeper.alive:
            return False
        try:
            if await self._engine.inspect(name) is not None:
                return False  # it could not be removed, so its processes may be there
            changed = keeper.born.differences(await self._look(keeper.id))
        except (EngineError, EngineUnavailable) as error:
            _log.warning("network namespace not looked at: thrown away", container=name, error=error.message)
            return False
        _log.debug("network namespace came back", container=name, changed=",".join(changed) or None)
        return not changed

    # -- from start to stop -------------------------------------------------------------------------------------------

    def adopt(self, left: Sequence[Container]) -> None:
        """Take in what an earlier process left, and is still there: this agent's containers, jobs' and keepers."""
        joined = {one.labels[LABEL_NETNS]: one.name for one in left if LABEL_NETNS in one.labels}
        for found in left:
            if LABEL_KEEPER not in found.labels:
                continue
            keeper = _Keeper(found.id, None)
            if found.id in joined:
                self._lent[joined[found.id]] = keeper
            else:
                self._spoilt.append(keeper)

    async def run(self) -> None:
        """Make what is missing and remove what is spoilt, one at a time, until cancelled."""
        pause_s = RETRY_S
        async with asyncio.TaskGroup() as watches:
            while True:
                self._changed.clear()
                try:
                    if self._spoilt:
                        await self._remove(self._spoilt[0])
                        self._spoilt.popleft()
                    elif len(self._free) + len(self._lent) < self._size:
                        keeper = await self._make()
                        watches.create_task(self._watch(keeper), name=f"network namespace {keeper.id[:12]}")
                        self._free.append(keeper)
                    else:
                        self._settled.set()
                        await self._changed.wait()
                except (EngineError, EngineUnavailable) as error:
                    _log.warning("network namespace not made or removed", error=error.message, again_s=pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(RETRY_MAX_S, 2 * pause_s)
                else:
                    pause_s = RETRY_S

    async def close(self) -> None:
        """Remove all that no container has, within bounds; `run` must have ended."""
        if not self._size and not self._spoilt:
            return
        lent = {keeper.id for keeper in self._lent.values()}
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                for found in await self._engine.list({LABEL_AGENT: self._agent_id}):
                    if LABEL_KEEPER in found.labels and found.id not in lent:
                        await self._engine.remove(found.id)
        except (EngineError, EngineUnavailable, TimeoutError) as error:
            _log.warning("network namespaces left for the agent's next start", error=str(error))

    async def _make(self) -> _Keeper:
        """A keeper that runs, and its state. What comes to nothing half-way is removed."""
        image = image_reference(self._machine)
        name = f"launch-netns-{secrets.token_hex(6)}"
        config = keeper_config(image, self._agent_id)
        try:
            created = await seen_through(self._engine.create(name, config))
        except EngineError as error:
            if error.status != _NOT_FOUND:
                raise
            await self._engine.make_image(image, image_tar(self._machine), {LABEL_KEEPER: ABOUT})
            created = await seen_through(self._engine.create(name, config))
        try:
            await seen_through(self._engine.start(created))
            return _Keeper(created, await self._look(created))
        except (EngineError, EngineUnavailable):
            self._throw_away(_Keeper(created, None))
            raise

    async def _remove(self, keeper: _Keeper) -> None:
        """Remove it; one that the engine refuses to remove is left alone, and tried again by `close`."""
        try:
            await seen_through(self._engine.remove(keeper.id))
        except EngineError as error:
            _log.warning("network namespace not removed", container=keeper.id[:12], error=error.message)

    async def _look(self, keeper: str) -> State:
        """What the keeper tells. Raises as the engine does, also where it says nothing, or what makes no sense."""
        parser = AnswerParser()
        try:
            async with asyncio.timeout(LOOK_LIMIT_S), aclosing(self._engine.talk(keeper, QUESTION)) as answer:
                async for data in answer:
                    if (state := parser.feed(data)) is not None:
                        return state
        except TimeoutError:
            raise EngineUnavailable("the keeper of a network namespace does not answer") from None
        except BadAnswer as error:
            raise EngineError("talk", 500, f"the keeper of a network namespace told {error}") from None
        raise EngineError("talk", 500, "the keeper of a network namespace ended")

    async def _watch(self, keeper: _Keeper) -> None:
        """A keeper that has ended, or was removed, is lent to nobody any more."""
        await exited(self._engine, keeper.id)
        keeper.alive = False
        if keeper in self._free:
            _log.warning("network namespace lost: its keeper has ended", container=keeper.id[:12])
            self._free.remove(keeper)
            self._throw_away(keeper)

    def _throw_away(self, keeper: _Keeper) -> None:
        """Have `run` remove it, and make another in its place."""
        self._spoilt.append(keeper)
        self._settled.clear()
        self._changed.set()
