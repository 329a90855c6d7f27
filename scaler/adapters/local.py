"""Agents as processes on this machine: what a queue with `provider: local` scales with.

They outlive a scaler that crashes: each is noted on disk before it is started, and the next scaler finds it again.
Invariants: at most one scaler of this machine works for a queue (a file lock); an agent that may hold jobs is only ever
asked to leave (SIGTERM drains, a second one makes it leave its containers to a successor); SIGKILL is for a process
that never became an agent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from launch.adapters.gpu import gpu_uuids
from launch.core.capacity import Amount
from launch.core.quantity import format_memory, show_cpu, show_memory
from launch.ports import Clock
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from scaler.adapters.local_files import LocalFiles, Note
from scaler.adapters.local_login import LoginOf, as_the_scaler, environment, without_login
from scaler.adapters.process import AgentProcess, Found, find, spawn
from scaler.core.instance import Instance, InstanceState, StopMode
from scaler.core.intent import Intent
from scaler.ports import Launched, Proposal, ProviderUnavailable

COMMAND = (sys.executable, "-m", "launch", "agent")
KILL_GRACE_S = 5.0
"""How long a process that never became an agent gets between SIGTERM and SIGKILL."""
STORIES_KEPT = 100


@dataclass(slots=True)
class _Agent:
    note: Note
    process: AgentProcess


class LocalProvider:
    """`scaler.ports.Provider` for one queue. Make it with `open`."""

    def __init__(
        self,
        queue: str,
        files: LocalFiles,
        *,
        server_url: str,
        clock: Clock,
        command: Sequence[str],
        login_of: LoginOf,
    ) -> None:
        self._queue = queue
        self._login_of = login_of
        self._files = files
        self._server_url = server_url
        self._clock = clock
        self._command = tuple(command)
        self._machine = Amount()
        self._gpus: tuple[str, ...] = ()
        self._agents: dict[str, _Agent] = {}
        self._stories: dict[str, str] = {}
        self._started: dict[str, int] = {}
        self._listeners: set[asyncio.Event] = set()
        self._lock: IO[bytes] | None = None
        self._only_look = False
        self._closed = False
        self._launching = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        queue: str,
        *,
        data_dir: Path,
        server_url: str,
        clock: Clock,
        command: Sequence[str] = COMMAND,
        only_look: bool = False,
        login_of: LoginOf = as_the_scaler,
    ) -> LocalProvider:
        """Take the queue's lock and find the agents of an earlier scaler. Raises `ProviderUnavailable`.

        `command` is what an agent is started with, before its own arguments. With `only_look` another scaler may have
        the lock: nothing is started, ended or written then. `login_of` says whom a queue's agents log in as.
        """
        files = LocalFiles(data_dir, queue)
        provider = cls(queue, files, server_url=server_url, clock=clock, command=command, login_of=login_of)
        provider._only_look = only_look
        try:
            if not only_look:
                provider._lock = await asyncio.to_thread(provider._files.lock)
            provider._machine = await asyncio.to_thread(_machine)
            provider._gpus = await asyncio.to_thread(gpu_uuids)
            provider._started = await asyncio.to_thread(provider._files.started)
            await provider._adopt()
        except OSError as error:
            await provider.close()
            raise ProviderUnavailable(f"can't use {data_dir}: {error.strerror or error}") from error
        return provider

    async def list(self) -> Sequence[Instance]:
        """See `Provider`."""
        self._check_open()
        agents = sorted(self._agents.values(), key=lambda agent: (agent.note.launched_at, agent.note.agent_id))
        return [_instance(agent) for agent in agents]

    async def capacity(self, spec: QueueSpec) -> Amount:
        """See `Provider`. What the spec says, or this machine's share for each of `max_instances`."""
        local = spec.provider if isinstance(spec.provider, LocalSpec) else LocalSpec()
        parts = max(1, spec.max_instances)
        cpu_milli = round(local.cpu * 1000) if local.cpu else max(1, self._machine.cpu_milli // parts)
        memory_bytes = local.memory or max(1, self._machine.memory_bytes // parts)
        slots = spec.max_jobs_per_agent or max(1, cpu_milli // 1000)
        return Amount(cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=len(self._gpus) // parts, slots=slots)

    async def propose(self, spec: QueueSpec, count: int) -> Proposal:
        """See `Provider`. The request is what an agent is started with. Raises `ProviderUnsuitable` without a login."""
        capacity = await self.capacity(spec)
        login = await asyncio.to_thread(self._login_of, spec)
        asked = {"command": self._command, "capacity": capacity.model_dump()}
        request = json.dumps(asked | ({"login": str(login)} if login else {}), sort_keys=True)
        config = hashlib.sha256(request.encode()).hexdigest()[:12]
        size = f"{show_cpu(capacity.cpu_milli)} CPU, {show_memory(capacity.memory_bytes)}"
        return Proposal(count, request, config, capacity, f"agents on this machine with {size} each")

    async def launch(self, intent: Intent) -> Launched:
        """See `Provider`. What has been started and has ended is not started again."""
        self._check_open(to_act=True)
        token = intent.token
        async with self._launching:
            running = sum(1 for agent in self._agents.values() if agent.note.token == token)
            started = max(running, self._started.get(token, 0))
            try:
                while started < intent.count:
                    await self._start(intent)
                    started += 1
                    self._started[token] = started
                    self._files.write_started(self._started)
            except OSError as error:
                raise ProviderUnavailable(f"can't start an agent: {error.strerror or error}") from error
        return Launched([_instance(agent) for agent in self._agents.values() if agent.note.token == token])

    async def stop(self, instance_id: str, mode: StopMode) -> None:
        """See `Provider`. `KILL` returns when the process has ended."""
        self._check_open(to_act=True)
        agent = self._agents.get(instance_id)
        if agent is None:
            return
        if not agent.note.stopping:
            # Once only, whichever scaler sends it: a second SIGTERM would tell a draining agent to leave its jobs.
            self._note_stopping(agent)
            agent.process.signal(signal.SIGTERM)
        if mode is StopMode.KILL:
            with suppress(TimeoutError):
                async with asyncio.timeout(KILL_GRACE_S):
                    await agent.process.exited.wait()
            agent.process.signal(signal.SIGKILL)
            await agent.process.exited.wait()

    def agent_left(self, instance_id: str) -> None:
        """See `Provider`: the end of a process is heard anyway."""

    async def explain(self, instance_id: str) -> str:
        """See `Provider`."""
        known = self._stories.get(instance_id)
        return known if known is not None else await asyncio.to_thread(self._story, instance_id, None)

    async def changes(self) -> AsyncGenerator[None]:
        """See `Provider`."""
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            while True:
                yield
                await changed.wait()
                changed.clear()
        finally:
            self._listeners.discard(changed)

    async def drain(self, timeout_s: float) -> Sequence[str]:
        """See `Provider`: SIGTERM to all that have not had one, then wait."""
        self._check_open(to_act=True)
        for agent_id in list(self._agents):
            await self.stop(agent_id, StopMode.DRAIN)
        return await self._until_gone(timeout_s)

    async def force(self, timeout_s: float) -> Sequence[str]:
        """See `Provider`: one more SIGTERM, on which an agent leaves its containers to a successor."""
        self._check_open(to_act=True)
        for agent in self._agents.values():
            self._note_stopping(agent)
            agent.process.signal(signal.SIGTERM)
        return await self._until_gone(timeout_s)

    async def close(self) -> None:
        """See `Provider`."""
        self._closed = True
        for agent in self._agents.values():
            agent.process.release()
        self._agents.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _check_open(self, *, to_act: bool = False) -> None:
        if to_act and self._only_look:
            raise ProviderUnavailable(f"the local provider of queue {self._queue} was opened to look only")
        if self._closed or (self._lock is None and not self._only_look):
            raise ProviderUnavailable(f"the local provider of queue {self._queue} is closed")

    async def _start(self, intent: Intent) -> None:
        """Note it, start it, complete the note: a crash in between leaves a note by which it can be found."""
        taken = {gpu for agent in self._agents.values() for gpu in agent.note.gpus}
        gpus = [gpu for gpu in self._gpus if gpu not in taken][: intent.capacity.gpus]
        note = await asyncio.to_thread(self._files.reserve, intent, gpus, self._clock.now())
        login = json.loads(intent.request).get("login")
        try:
            command, env = await asyncio.to_thread(self._agent_command, note, Path(login) if login else None)
            log = await asyncio.to_thread(self._files.fresh_log, note.agent_id)
            child, found = await asyncio.to_thread(spawn, command, log=log, env=env)
        except OSError:
            self._files.forget(note.agent_id)
            raise
        note = note.model_copy(update={"pid": found.pid, "created": found.created})
        # In one step with the end of the process: `_ended` deletes what this writes.
        self._files.write(note)
        agent = _Agent(note, AgentProcess(found, child, on_exit=partial(self._ended, note.agent_id)))
        self._agents[note.agent_id] = agent

    def _note_stopping(self, agent: _Agent) -> None:
        agent.note = agent.note.model_copy(update={"stopping": True})
        self._files.write(agent.note)

    def _agent_command(self, note: Note, login: Path | None) -> tuple[Sequence[str], Mapping[str, str]]:
        """What an agent is started with. Blocks. Raises `OSError` if its login can't be read."""
        capacity = note.capacity
        env = environment(os.environ, login)
        url = without_login(self._server_url) if login else self._server_url
        command = [
            *self._command,
            *("--queue", self._queue),
            *self._files.marks(note.agent_id),
            *("--cpu", show_cpu(capacity.cpu_milli)),
            *("--memory", format_memory(capacity.memory_bytes)),
            *("--gpus", ",".join(note.gpus) or "none"),
            *("--max-jobs", str(capacity.slots)),
        ]
        if "@" in url:
            # An address with a password in it is nothing for a command line, which every user of the machine can read.
            return command, {**env, "NATS_URL": url}
        return [*command, "--server", url], env

    async def _adopt(self) -> None:
        for note in await asyncio.to_thread(self._files.notes):
            known = Found(note.pid, note.created) if note.pid is not None else None
            found = await asyncio.to_thread(find, self._files.marks(note.agent_id), known)
            if found is None:
                self._forget(note)
                continue
            try:
                process = AgentProcess(found, None, on_exit=partial(self._ended, note.agent_id))
            except ProcessLookupError:
                self._forget(note)
                continue
            self._agents[note.agent_id] = _Agent(note, process)

    def _forget(self, note: Note) -> None:
        if not self._only_look:
            self._files.forget(note.agent_id)

    def _ended(self, agent_id: str, returncode: int | None) -> None:
        """A process has ended."""
        self._agents.pop(agent_id, None)
        if not self._only_look:
            self._files.forget(agent_id)
        while len(self._stories) >= STORIES_KEPT:
            self._stories.pop(next(iter(self._stories)))
        self._stories[agent_id] = self._story(agent_id, returncode)
        for changed in self._listeners:
            changed.set()

    async def _until_gone(self, timeout_s: float) -> Sequence[str]:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for agent in list(self._agents.values()):
                    await agent.process.exited.wait()
        return sorted(self._agents)

    def _story(self, agent_id: str, returncode: int | None) -> str:
        """How an agent ended, for people: its exit code and the end of its log."""
        lines = self._files.tail(agent_id)
        how = f"{agent_id} exited with code {returncode}" if returncode is not None else f"{agent_id} has no exit code"
        end = f", its last words: {' | '.join(lines)}" if lines else ""
        return f"{how}{end}; its log: {self._files.log(agent_id)}"


def _instance(agent: _Agent) -> Instance:
    note = agent.note
    state = InstanceState.STOPPING if note.stopping else InstanceState.RUNNING
    return Instance(
        note.agent_id, note.agent_id, note.launched_at, state, note.capacity, config=note.config, intent=note.intent
    )


def _machine() -> Amount:
    return Amount(cpu_milli=(psutil.cpu_count() or 1) * 1000, memory_bytes=psutil.virtual_memory().total)
