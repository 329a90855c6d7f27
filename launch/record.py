"""What became of a job: the `JobRecord`, kept in the `jobs` bucket and changed only by compare-and-set.

Readers ignore keys that they do not know, so that an older client can show a newer agent's records. Records never hold
secret values. Times are aware and in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from launch.core.capacity import Amount
from launch.core.states import Event, Reason, State, next_state
from launch.fields import Count, Moment
from launch.files import StoredArtifacts
from launch.job import JobSpec
from launch.subjects import JobId, Priority


class CancelRequest(BaseModel):
    """The one thing that a client may add to a claimed record."""

    model_config = ConfigDict(frozen=True)

    requested_at: Moment
    by: str
    """Who asked: user and host."""


class JobRecord(BaseModel):
    """The state of one job, and how it got there. The bucket's history of a key is the job's timeline."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    queue: str
    seq: int
    job_type: str
    priority: Priority = Priority.MEDIUM
    state: State = State.QUEUED
    reason: Reason | None = None
    message: str | None = None
    """For people: what happened last, with what to do about it where that is known."""

    attempt: Count = 0
    """1 for the first attempt; 0 before any claim."""
    failures: Count = 0
    """Attempts that failed by the job's own fault: these spend `retries`."""
    interruptions: Count = 0
    """Attempts lost to the infrastructure."""

    crashes: Count = 0
    """Attempts at which the agent's own code failed; after three the job is set aside."""

    agent: str | None = None
    """The agent that owns, or owned, the current attempt."""
    container: str | None = None
    image: str | None = None
    digest: str | None = None
    """The image's content digest as it was run."""
    exit_code: int | None = None
    held: Amount | None = None
    """What the attempt holds of its worker."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs held."""

    artifacts: StoredArtifacts | None = None
    """What the last attempt that left something left behind."""

    submitted_at: Moment
    claimed_at: Moment | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None
    updated_at: Moment

    spec: JobSpec | None = None
    """As it runs, queue defaults included; None if the body was no spec."""
    cancel: CancelRequest | None = None
    raw: str | None = None
    """The first 64 KiB of a body that was no spec, as text (undecodable bytes as `\\xNN`)."""
    raw_bytes: Count | None = None
    """The full length of that body."""

    @property
    def id(self) -> JobId:
        """The job's id."""
        return JobId(self.queue, self.seq)

    def moved(self, event: Event, now: datetime, **changes: Any) -> Self:
        """This record after `event`, with `changes` applied. Raises `IllegalTransition`."""
        return self.model_copy(update={**changes, "state": next_state(self.state, event), "updated_at": now})
