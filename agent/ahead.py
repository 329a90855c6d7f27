"""Fetches the images of the jobs that come next while this agent has no room for them.

A guess that takes nothing: the jobs stay in the queue, and any agent may get them. It costs the broker one look each
time that a job comes or goes here or (while the queue holds few) is submitted, and no more than one in `LOOK_GAP_S`; a
slow one besides, since others take from the queue, too. Pulls are one at a time and give way to those of jobs; an image
whose turn has been is not tried again for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import structlog

from agent.core.outcome import Unready
from agent.core.policy import denials
from agent.holds import Holds
from agent.images import Images
from agent.next_container import NextContainer
from agent.reading import read_job
from launch.errors import LaunchError
from launch.job import JobSpec, Pull
from launch.policy import AgentPolicy
from launch.ports import Broker, Message
from launch.queue import QueueSpec
from launch.subjects import JobId

LOOK_GAP_S: Final = 5.0
LOOK_JOBS: Final = 8
"""So many of the next jobs are looked at."""
REST_S: Final = 300.0
"""How long an image that was fetched ahead, or could not be, is left alone; then it is looked at without any news."""

_log = structlog.get_logger(__name__)


class Ahead:
    """The looking forward of one agent."""

    def __init__(
        self,
        broker: Broker,
        images: Images,
        holds: Holds,
        *,
        queue: Callable[[], QueueSpec],
        job_types: Sequence[str] | None,
        policy: AgentPolicy,
        at_most: int,
        container: NextContainer,
    ) -> None:
        """`queue` gives the queue's spec as it is now; `at_most` so many images are fetched before they are wanted.

        `container` hears what comes next.
        """
        self._broker = broker
        self._images = images
        self._holds = holds
        self._queue = queue
        self._job_types = job_types
        self._policy = policy
        self._at_most = at_most
        self._container = container
        self._changed = holds.watch()
        self._tried: dict[str, float] = {}
        """Images whose turn has been, and when, by the loop's clock."""

    async def run(self) -> None:
        """Look and fetch until cancelled."""
        while self._at_most > 0 or self._container.on:
            while not self._busy():
                self._changed.clear()
                if not self._busy():
                    await self._changed.wait()
            try:
                await self._look()
            except LaunchError as error:
                _log.info("can't look ahead", error=error.message)
            await asyncio.sleep(LOOK_GAP_S)

    def _busy(self) -> bool:
        """Whether what comes next has to wait; otherwise its own pull begins as soon as this could."""
        return self._holds.ledger.free.slots < 1 or bool(self._holds.kept_back())

    async def _look(self) -> None:
        """Fetch what is missing for the next jobs, or else wait until there may be other ones."""
        self._changed.clear()
        async with aclosing(self._broker.jobs.notices(self._queue().queue_name)) as notices:
            await anext(notices)  # from here on nothing is missed
            messages = await self._broker.jobs.upcoming(self._queue().queue_name, self._job_types, LOOK_JOBS)
            upcoming = self._read(messages)
            self._container.line(upcoming)
            wanted = self._wanted([*self._holds.kept_back(), *(spec for _, spec in upcoming)])
            if not wanted:
                await self._news(notices if len(messages) < LOOK_JOBS else None)
        for image in wanted:
            if self._busy():
                await self._fetch(image)

    def _read(self, messages: Sequence[Message]) -> list[tuple[Message, JobSpec]]:
        """The jobs among these messages; of the others whoever takes them will say what is wrong."""
        specs = []
        for message in messages:
            try:
                specs.append((message, read_job(message, self._queue())))
            except LaunchError:
                continue
            except Exception:  # a defect of ours that this message brings out must not end the agent
                log = _log.bind(job=str(message.job))
                log.exception("the agent failed to look ahead at this job")
        return specs

    def _wanted(self, specs: Sequence[JobSpec]) -> list[str]:
        """Which images of these jobs have not had their turn; of the first few that there are."""
        now_s = asyncio.get_running_loop().time()
        self._tried = {image: at_s for image, at_s in self._tried.items() if now_s - at_s < REST_S}
        queue = self._queue()
        allowed = [spec for spec in specs if spec.pull is not Pull.NEVER and not denials(spec, self._policy, queue)]
        first = list(dict.fromkeys(spec.image for spec in allowed))[: self._at_most]
        return [image for image in first if image not in self._tried]

    async def _fetch(self, image: str) -> None:
        self._tried[image] = asyncio.get_running_loop().time()
        try:
            if not await self._images.fetch_ahead(image):
                del self._tried[image]
        except Unready as error:
            _log.info("can't fetch an image ahead; its job will say why", image=image, error=str(error))

    async def _news(self, notices: AsyncGenerator[JobId | None] | None) -> None:
        """Wait until a job comes or goes here, or is submitted; that counts only where not enough is known."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._changed.wait())]
        if notices is not None:
            waits.append(asyncio.ensure_future(_next(notices)))
        try:
            await asyncio.wait(waits, timeout=REST_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        for wait in waits:
            if not wait.cancelled():
                wait.result()


async def _next(notices: AsyncGenerator[JobId | None]) -> None:
    """The next notice has come."""
    await anext(notices)
