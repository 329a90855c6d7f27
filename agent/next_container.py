"""The container of the job that comes next, made while the last one runs; whoever gets the job, none is taken for it.

A guess, as `agent/ahead.py` makes for images. The job stays in its queue, and nobody holds it. The container has the
labels that the job's would have, but a name of its own (`launch.subjects.next_container_name`), one for each agent, so
there is never more than one, and nobody takes it for a job's. It is never started under that name. Once this agent has
claimed the job, and would now make a container from the very same body and image, it is given the job's name: from
then on it is the job's, as if it had just been made. Otherwise it is removed: when the job went elsewhere, when the
agent has had room for a while, at a drain or stop, and by the next start of an agent of this id after a crash.

Not made ahead: what depends on the claim (GPUs), what nobody but its owner should have (secrets), what is decided
anew at each start (`pull: always`), and anything where namespaces are kept, which are lent to claimed jobs alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import structlog

from agent.core.container import ContainerPolicy, container_config, same_container, working_directory
from agent.core.policy import denials, user_denials
from agent.core.secret_source import references
from agent.holds import Holds
from agent.ports import Engine, EngineError, EngineUnavailable
from agent.secrets import Secrets
from agent.steady import seen_through
from launch.job import JobSpec, Pull
from launch.policy import AgentPolicy
from launch.ports import Message, Work
from launch.queue import QueueSpec
from launch.subjects import ARTIFACTS_DIR, LABEL_AHEAD, LABEL_SUBMITTED, JobId, next_container_name

IDLE_S: Final = 10.0
"""How long it is kept while the agent has room: its job went to somebody else."""
CLOSE_LIMIT_S: Final = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A container made ahead."""

    job: JobId
    container: str
    config: Mapping[str, Any]
    image: str
    """The id of the image: a tag may name another one by the time that the job is claimed."""
    untouched: str | None
    """When `$LAUNCH_ARTIFACTS` had changed last."""


class NextContainer:
    """At most one container, for the next job of one agent."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        holds: Holds,
        secrets: Secrets,
        *,
        agent_id: str,
        queue: Callable[[], QueueSpec],
        policy: AgentPolicy,
        on: bool,
    ) -> None:
        """`queue` gives the queue's spec as it is now; not `on`, it does nothing."""
        self.on = on and not policy.network_pool
        self._engine = engine
        self._work = work
        self._holds = holds
        self._secrets = secrets
        self._agent_id = agent_id
        self._name = next_container_name(agent_id)
        self._queue = queue
        self._policy = policy
        self._made_with = ContainerPolicy.of(policy)
        self._line: deque[tuple[Message, JobSpec]] = deque()
        """The jobs that come next, as far as is known."""
        self._about: JobId | None = None
        """Whose container is made, or being made."""
        self._made: Made | None = None
        self._left = self.on
        """Whether there may be one that nobody wants, an earlier process's too."""
        self._starting: JobId | None = None
        """The job last claimed, until it has been started: a create beside its start makes that longer."""
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()

    def line(self, upcoming: Sequence[tuple[Message, JobSpec]]) -> None:
        """What comes next, as seen just now, the first first."""
        self._line = deque(upcoming)
        self._news.set()

    def started(self, job: JobId) -> None:
        """The container of this job has been started: the engine has time for the next one."""
        if self._starting == job:
            self._starting = None
        self._news.set()

    async def run(self) -> None:
        """Make, and remove what was made in vain, until cancelled."""
        while self.on:
            self._news.clear()
            try:
                async with self._lock:
                    await self._step()
            except (EngineError, EngineUnavailable) as error:
                what = "a container made ahead can't be removed yet" if self._left else "no container made ahead"
                _log.info(what, error=error.message)
                self._line.clear()
            except Exception:  # a defect of ours that a job brings out must not end the agent
                log = _log.bind(jobs=[str(message.job) for message, _ in self._line])
                log.exception("the agent failed to make a container ahead")
                self._line.clear()
            try:
                async with asyncio.timeout(IDLE_S if self._made or self._left else None):
                    await self._news.wait()
            except TimeoutError:
                if self._made is not None and not self._busy() and not self._claimed(self._made.job):
                    self._give_up()
                    self._line.clear()

    async def take(self, job: JobId, name: str, config: Mapping[str, Any], image: str) -> Made | None:
        """The container for this claimed job, now with its name; None if there is none, or not what is wanted now."""
        self._starting = job
        self._pass(job)
        if self._about != job:
            return None
        async with self._lock:
            made = self._made
            self._give_up()  # unless it is taken
            if made is None or made.job != job or made.image != image or not same_container(made.config, config):
                return None
            try:
                await seen_through(self._engine.rename(made.container, name))
            except (EngineError, EngineUnavailable) as error:
                _log.info("the container made ahead can't be had", job=str(job), error=error.message)
                with contextlib.suppress(EngineError, EngineUnavailable):
                    await self._clear()  # before the job's own is made: it may still be getting that one's name
                return None
            self._left = False
            return made

    async def close(self) -> None:
        """Remove it, within bounds; `run` must have ended. Idempotent."""
        if not self.on:
            return
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S), self._lock:
                self._give_up()
                self._left = True  # a create that was lost may have been carried out since
                await self._clear()
        except (EngineError, EngineUnavailable, TimeoutError) as error:
            _log.warning("a container made ahead is left for the agent's next start", error=str(error))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether the next job has to wait for one that runs."""
        return self._holds.ledger.free.slots < 1 and not self._holds.kept_back()

    def _claimed(self, job: JobId | None) -> bool:
        """Whether it is claimed here, or being claimed."""
        return job is not None and (self._holds.get(job) is not None or self._holds.ledger.find(job) is not None)

    def _pass(self, job: JobId) -> None:
        """This job has come. If others before it went elsewhere, nothing is known until the next look."""
        if job not in (message.job for message, _ in self._line):
            return  # more urgent, or tried before: what was next still is
        in_vain = self._line[0][0].job != job
        self._line.popleft()
        if in_vain:
            self._line.clear()

    def _give_up(self) -> None:
        self._left = self._left or self._about is not None
        self._made = self._about = None
        self._news.set()

    async def _clear(self) -> None:
        if self._left:
            await seen_through(self._engine.remove(self._name))
            self._left = False

    async def _step(self) -> None:
        """Have the right one there; the lock is held."""
        while self._line and self._claimed(self._line[0][0].job):
            self._line.popleft()
        if self._made is not None and not self._claimed(self._made.job):
            first = self._line[0][0].job if self._line else None
            if self._busy() and first != self._made.job:
                self._give_up()
        await self._clear()
        if self._made is None and self._line and self._busy() and not self._claimed(self._starting):
            message, spec = self._line[0]
            if not await self._make(message, spec):
                self._line.clear()

    async def _make(self, message: Message, spec: JobSpec) -> bool:
        """Make it; False if it must not be, or can't, ahead of the claim."""
        amount = spec.resources.amount()
        if spec.pull is Pull.ALWAYS or amount.gpus or references(spec):
            return False
        if not amount.fits_in(self._holds.ledger.capacity) or denials(spec, self._policy, self._queue()):
            return False
        image = await self._engine.image(spec.image)
        if image is None or user_denials(spec, image.user, self._policy):
            return False
        config = container_config(
            spec,
            message.job,
            1,
            self._agent_id,
            self._work.token(message),
            self._made_with,
            (),
            env=await self._secrets.resolve(spec),
            workdir=working_directory(spec, image),
        )
        config["Labels"][LABEL_SUBMITTED] = message.published_at.isoformat()
        config["Labels"][LABEL_AHEAD] = uuid4().hex
        if self._claimed(message.job) or not self._busy():
            return False
        self._about, self._left = message.job, True  # until it is known to be there
        try:
            container = await seen_through(self._engine.create(self._name, config))
            artifacts = await self._engine.stat(container, ARTIFACTS_DIR)
        except (EngineError, EngineUnavailable):
            self._about = None
            raise
        untouched = artifacts.modified if artifacts is not None else None
        self._made, self._left = Made(message.job, container, config, image.id, untouched), False
        _log.debug("container made ahead", job=str(message.job))
        return True
