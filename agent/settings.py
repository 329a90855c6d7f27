"""What an agent can be told; parsed once by the command line, typed from there on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from launch.policy import AgentPolicy


class OnLostContact(StrEnum):
    """What becomes of running jobs when the broker can't be reached for as long as the lease."""

    CONTINUE = "continue"
    """They go on. If another agent takes one over meanwhile, both may run until contact is back."""
    STOP = "stop"
    """They are stopped before another agent may take them over, and tried again."""


DEFAULT_MAX_LOG_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent: whom it works for, what it offers, and how patient it is."""

    queue: str
    job_types: tuple[str, ...] | None = None
    """The types it takes; None for any."""
    data_dir: Path = Path()
    """Keeps the agent's id from one start to the next."""
    agent_id: str | None = None
    """Unset: the one kept in `data_dir`, made from the host's name the first time."""
    cpu_milli: int | None = None
    """Unset: all of the machine's CPUs."""
    memory_bytes: int | None = None
    """Unset: all of the machine's memory."""
    gpus: tuple[str, ...] | None = None
    """UUIDs of the GPUs to offer; unset: all of the machine's."""
    max_jobs: int | None = None
    """Unset: the queue's `max_jobs_per_agent`, or else one a CPU."""
    labels: Mapping[str, str] = field(default_factory=dict)
    instance: str | None = None
    """What the provider that started this agent calls the machine."""
    docker_host: str | None = None
    """The engine's address; unset: the local socket."""
    drain_timeout_s: float = 3600.0
    """How long a drain waits for running jobs before their containers are told to stop."""
    presence_ttl_s: float = 15.0
    """How long this agent counts as present after its last word: the lease."""
    on_lost_contact: OnLostContact = OnLostContact.CONTINUE
    spot_notices: str | None = None
    """Address of the EC2 metadata service to ask for spot interruptions; unset: this is no spot instance."""
    hold_s: float = 60.0
    """How long a job that does not fit now is kept back before it is passed on."""
    max_log_bytes: int = DEFAULT_MAX_LOG_BYTES
    """The limit of output an attempt, where a job sets none."""
    secrets: tuple[str, ...] = ("env",)
    """Where secrets are looked up, in this order: `env` (variables `LAUNCH_SECRET_<NAME>`), `dir:PATH` (a file each),
    `ssm:/prefix/` and `secretsmanager:prefix/` (AWS)."""
    policy: AgentPolicy = field(default_factory=AgentPolicy)
    """What jobs may ask for, and what their containers are made with."""
    images_ahead: int = 2
    """How many images of the next jobs are fetched while there is no room for these; 0: none."""
    container_ahead: bool = False
    """Whether the container of the next job is made while there is no room for it."""
    keep_disk_free_bytes: int | None = None
    """Unused images are removed when less of the engine's disk is free; unset: a tenth of it, at most 20 GiB."""
    usage_every_s: float = 15.0
    """How often each running container's CPU, memory and network use is measured."""
    max_artifact_files: int = 100_000
    """How many files of an attempt's artifacts are stored."""
    max_artifact_bytes: int = 1024**4
    """How much of an attempt's artifacts is stored."""
    store_patience_s: float = 600.0
    """How long a file store that does not answer is waited for, before an attempt's end is recorded without it."""
