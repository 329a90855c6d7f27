"""What local agents leave on disk, in the scaler's data directory.

`local/<agent>.json` (a note on each process), `local/<queue>.lock`, `local/<queue>.tokens` (what was started for which
intent), `agent-<agent>.log`, and `agents/<agent>/`, which is the agent's own. Invariant: a note exists from before its
process is started until after it has ended. All calls block.
"""

from __future__ import annotations

import fcntl
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from launch.core.capacity import Amount
from scaler.core.intent import Intent
from scaler.ports import ProviderUnavailable

LOG_MAX_BYTES = 10 * 1024 * 1024
"""A longer log is set aside (as `.log.1`) before its agent is started again."""
TAIL_BYTES = 2000
TAIL_LINES = 3
TOKENS_KEPT = 100
_TOKENS = TypeAdapter(dict[str, int])


class Note(BaseModel):
    """What stands on disk about one agent process.

    `pid` is None between the decision to start it and its start: the scaler may have died in between.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent_id: str
    queue: str
    token: str
    intent: str | None = None
    config: str = ""
    capacity: Amount
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that are this agent's, and no other's."""
    launched_at: datetime
    pid: int | None = None
    created: float = 0.0
    stopping: bool = False
    """It has had its SIGTERM; the next one would tell it to leave its jobs."""


class LocalFiles:
    """The files of one queue's agents."""

    def __init__(self, data_dir: Path, queue: str) -> None:
        self.directory = data_dir.absolute()
        self._queue = queue
        self._notes = self.directory / "local"

    def lock(self) -> IO[bytes]:
        """Lock the queue: it falls free with this process, however that ends. Raises `ProviderUnavailable`."""
        self._notes.mkdir(parents=True, exist_ok=True)
        file = (self._notes / f"{self._queue}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise ProviderUnavailable(f"another scaler on this machine works for queue {self._queue}") from error
        return file

    def reserve(self, intent: Intent, gpus: Sequence[str], now: datetime) -> Note:
        """The note of a new agent, under the lowest number that is free.

        A number that is used again gives a crashed agent's successor its name, and so its containers.
        """
        host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:40] or "host"
        number = 0
        while True:
            number += 1
            note = Note(
                agent_id=f"local-{host}-{self._queue}-{number}",
                queue=self._queue,
                token=intent.token,
                intent=intent.id,
                config=intent.config,
                capacity=intent.capacity,
                gpus=tuple(gpus),
                launched_at=now,
            )
            with suppress(FileExistsError), self._path(note.agent_id).open("x") as file:
                file.write(note.model_dump_json())
                return note

    def started(self) -> dict[str, int]:
        """How many agents were started for each token, the latest ones: a repeat starts no more, by whomever."""
        with suppress(FileNotFoundError, ValueError):
            return _TOKENS.validate_json((self._notes / f"{self._queue}.tokens").read_bytes())
        return {}

    def write_started(self, started: dict[str, int]) -> None:
        """Replace that, whole, without the oldest."""
        while len(started) > TOKENS_KEPT:
            started.pop(next(iter(started)))
        fresh = self._notes / f"{self._queue}.tokens.new"
        fresh.write_bytes(_TOKENS.dump_json(started))
        fresh.replace(self._notes / f"{self._queue}.tokens")

    def write(self, note: Note) -> None:
        """Replace a note, whole."""
        fresh = self._path(note.agent_id).with_suffix(".new")
        fresh.write_text(note.model_dump_json())
        fresh.replace(self._path(note.agent_id))

    def forget(self, agent_id: str) -> None:
        """Delete a note."""
        self._path(agent_id).unlink(missing_ok=True)

    def notes(self) -> list[Note]:
        """The queue's notes; what is no note is left alone."""
        found = []
        for path in sorted(self._notes.glob("*.json")):
            with suppress(ValidationError, FileNotFoundError):
                found.append(Note.model_validate_json(path.read_bytes()))
        return [note for note in found if note.queue == self._queue]

    def marks(self, agent_id: str) -> list[str]:
        """The arguments by which an agent's process is told from any other."""
        return ["--agent-id", agent_id, "--data-dir", str(self.directory / "agents" / agent_id)]

    def log(self, agent_id: str) -> Path:
        """Where an agent's output goes."""
        return self.directory / f"agent-{agent_id}.log"

    def fresh_log(self, agent_id: str) -> Path:
        """The same, ready for another start."""
        log = self.log(agent_id)
        if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log

    def tail(self, agent_id: str) -> list[str]:
        """The last lines of an agent's log, empty ones left out."""
        with suppress(OSError), self.log(agent_id).open("rb") as file:
            file.seek(max(0, self.log(agent_id).stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
            return [line for line in lines if line][-TAIL_LINES:]
        return []

    def _path(self, agent_id: str) -> Path:
        return self._notes / f"{agent_id}.json"
