"""Every name on the wire: subjects, streams, consumers, buckets, headers, container labels.

The one owner of these facts. A name is built and taken apart here and nowhere else, so that a change of layout is a
change of this file.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from launch.errors import LaunchError

NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"
NAME_RULE = "1 to 63 of a-z, 0-9, '_' and '-', the first a letter or digit"
"""What a queue name and a job type look like."""

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether `text` may be a queue name or a job type."""
    return _NAME.fullmatch(text) is not None


class Priority(StrEnum):
    """How urgent a job is. `medium` is what a subject without a priority token means."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent; sorts priorities in the order in which they are served."""
        return _RANKS[self]


_SPOKEN = tuple(p for p in Priority if p is not Priority.MEDIUM)
"""The priorities that a subject names; medium is the one that it does not."""

_RANKS = {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.MEDIUM: 2, Priority.LOW: 3}


class JobId(NamedTuple):
    """A job's name for life: its queue and its sequence in the queue's stream, written `<queue>/<seq>`."""

    queue: str
    seq: int

    def __str__(self) -> str:
        return f"{self.queue}/{self.seq}"

    @property
    def key(self) -> str:
        """The job's key in the `jobs` bucket, and the tail of its log and metric subjects."""
        return f"{self.queue}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Read `<queue>/<seq>`; raises `LaunchError` that names what was found."""
        queue, slash, seq = text.partition("/")
        if not slash or not is_name(queue) or not seq.isascii() or not seq.isdecimal() or len(seq) > 19 or int(seq) < 1:
            raise LaunchError(f"'{text}' is not a job id", hint="a job id looks like gpu-training-queue/42")
        return cls(queue, int(seq))

    @classmethod
    def from_key(cls, key: str) -> JobId:
        """The inverse of `key`."""
        queue, _, seq = key.rpartition(".")
        return cls.parse(f"{queue}/{seq}")


class WorkConsumer(NamedTuple):
    """One durable consumer of a queue: the jobs of one type at one priority.

    `job_type` is the token as published. A raw publisher may use one that is no legal type (`Train`): such a consumer
    exists too, so that its messages become `invalid_spec` records instead of waiting for ever.
    """

    job_type: str
    priority: Priority

    @property
    def name(self) -> str:
        """The durable's name: `<type>`, or `<type>@<priority>`.

        `@` can't occur in a job type, so a type `train_high` and the type `train` at priority high never collide.
        """
        base = self.job_type
        if not is_name(base):
            base = "@" + hashlib.sha256(base.encode()).hexdigest()[:16]
        return base if self.priority is Priority.MEDIUM else f"{base}@{self.priority}"

    def subject(self, queue: str) -> str:
        """The subject that this consumer filters on."""
        return job_subject(queue, self.job_type, self.priority)


# -- jobs -----------------------------------------------------------------------------------------------------------


def job_subject(queue: str, job_type: str, priority: Priority = Priority.MEDIUM) -> str:
    """Where a job of this type is published."""
    subject = f"queue.{queue}.{job_type}"
    return subject if priority is Priority.MEDIUM else f"{subject}.{priority}"


def parse_job_subject(subject: str) -> tuple[str, WorkConsumer]:
    """Queue and consumer of a job subject (or of its `submitted.` notice). Raises `LaunchError` for anything else."""
    parts = subject.split(".")
    if len(parts) == 3 and parts[0] in ("queue", "submitted"):
        return parts[1], WorkConsumer(parts[2], Priority.MEDIUM)
    if len(parts) == 4 and parts[0] in ("queue", "submitted") and parts[3] in _SPOKEN:
        return parts[1], WorkConsumer(parts[2], Priority(parts[3]))
    raise LaunchError(f"'{subject}' is not a job subject", hint="queue.<name>.<job_type>[.critical|.high|.low]")


def work_stream(queue: str) -> str:
    """The queue's WorkQueue stream."""
    return f"queue_{queue}"


def queue_of_stream(stream: str) -> str | None:
    """The queue that a work stream belongs to, or None for another kind of stream."""
    return stream.removeprefix("queue_") if stream.startswith("queue_") else None


def work_stream_subjects(queue: str) -> list[str]:
    """What the work stream listens on. A publish to any other shape is refused at once (no responders)."""
    return [f"queue.{queue}.*", *(f"queue.{queue}.*.{p}" for p in _SPOKEN)]


def submitted_subject(queue: str) -> str:
    """The wake-up notices of one queue: headers only, republished by the stream."""
    return f"submitted.{queue}.>"


def cancel_subject(queue: str, seq: int | str = "*") -> str:
    """Where a client tells the owning agent at once that a cancel request stands in the record."""
    return f"cancel.{queue}.{seq}"


def drain_subject(agent_id: str) -> str:
    """Where an agent hears that it is to take no more work."""
    return f"agent.{agent_id}.drain"


# -- logs -----------------------------------------------------------------------------------------------------------

LOG_STREAM = "logs"
LOG_SUBJECTS = "logs.>"


def log_subject(job: JobId) -> str:
    """Where a job's output goes."""
    return f"logs.{job.key}"


# -- metrics --------------------------------------------------------------------------------------------------------

METRICS_STREAM = "metrics"
METRICS_SUBJECTS = "metrics.>"

METRIC_MARK = "@metrics "
"""A line of output that begins so, with a JSON object behind it, is a point: `@metrics {"loss": 0.1, "step": 3}`."""


def metrics_subject(job: JobId) -> str:
    """Where a job's points go."""
    return f"metrics.{job.key}"


# -- files ----------------------------------------------------------------------------------------------------------

CODE_STORE = "code"
ARTIFACTS_STORE = "artifacts"


def object_stream(store: str) -> str:
    """The stream behind an object store (NATS ADR-20)."""
    return f"OBJ_{store}"


def job_files(job: JobId, submitted_at: datetime) -> str:
    """The prefix of one job's files, in whatever store they are kept.

    The submission time tells it from a job of the same id in a queue that was deleted and made again.
    """
    return f"{job.queue}/{job.seq}-{submitted_at.timestamp() * 1000:.0f}/"


def artifact_name(job: JobId, submitted_at: datetime, attempt: int, path: str) -> str:
    """One file that an attempt left; `path` as in its manifest."""
    return f"{job_files(job, submitted_at)}{attempt}/files/{path}"


def manifest_name(job: JobId, submitted_at: datetime, attempt: int) -> str:
    """The list of what an attempt left."""
    return f"{job_files(job, submitted_at)}{attempt}/manifest.json"


def checkpoint_name(job: JobId, submitted_at: datetime, attempt: int) -> str:
    """The checkpoint folder as an attempt saved it last, a tar."""
    return f"{job_files(job, submitted_at)}{attempt}/checkpoint.tar"


# -- inside the container -------------------------------------------------------------------------------------------

ARTIFACTS_DIR = "/launch/artifacts"
CHECKPOINT_DIR = "/launch/checkpoint"
INPUTS_DIR = "/launch/inputs"
METRICS_FILE = "/launch/metrics/metrics.jsonl"
CODE_DIR = "/launch/code"
"""Where shipped code goes when neither the job nor the image names a working directory."""


# -- buckets --------------------------------------------------------------------------------------------------------

QUEUES_BUCKET = "queues"
JOBS_BUCKET = "jobs"
AGENTS_BUCKET = "agents"
LEASES_BUCKET = "leases"
SCALER_BUCKET = "scaler"


def scaler_state_key(queue: str) -> str:
    """What a scaler leaves to its successor about a queue."""
    return f"state.{queue}"


def scaler_report_key(queue: str) -> str:
    """What the scaler tells the world about a queue, as of now."""
    return f"report.{queue}"


SCALING_STREAM = "scaling"
SCALING_SUBJECTS = "scaling.*.instance"
DECISIONS_STREAM = "decisions"
"""Apart from the instances' lives, so that many decisions never push those out."""
DECISIONS_SUBJECTS = "scaling.*.decision"


def decision_subject(queue: str) -> str:
    """The scaler's past decisions for a queue."""
    return f"scaling.{queue}.decision"


def instance_subject(queue: str) -> str:
    """What became of the queue's instances, a life each."""
    return f"scaling.{queue}.instance"


def bucket_stream(bucket: str) -> str:
    """The stream behind a KV bucket (NATS ADR-8)."""
    return f"KV_{bucket}"


def bucket_subject(bucket: str, key: str) -> str:
    """The subject of one key of a KV bucket."""
    return f"$KV.{bucket}.{key}"


# -- headers --------------------------------------------------------------------------------------------------------

HEADER_MSG_ID = "Nats-Msg-Id"
HEADER_TTL = "Nats-TTL"
HEADER_LOG_SOURCE = "Launch-Source"
HEADER_LOG_ATTEMPT = "Launch-Attempt"
HEADER_LOG_TIME = "Launch-Time"
HEADER_POINT_SOURCE = "Launch-Source"
HEADER_POINT_ATTEMPT = "Launch-Attempt"

# -- container labels -----------------------------------------------------------------------------------------------

LABEL_QUEUE = "launch.queue"
LABEL_SEQ = "launch.seq"
LABEL_ATTEMPT = "launch.attempt"
LABEL_AGENT = "launch.agent"
LABEL_ACK = "launch.ack"
LABEL_SUBMITTED = "launch.submitted"
"""When the job was submitted: tells it from one of the same id in a queue that was deleted and made again."""
LABEL_AHEAD = "launch.ahead"
"""Which making it comes from, if it was made before its job was claimed."""
LABEL_NETNS = "launch.netns"
"""Of a job's container: the id of the container whose network namespace it has joined."""
LABEL_KEEPER = "launch.keeper"
"""Of a container that is no job's, but keeps a network namespace ready for one: says so in words."""


def container_name(job: JobId, attempt: int) -> str:
    """Deterministic, so that a second create of the same attempt is refused by the engine instead of doubled."""
    return f"launch-{job.queue}-{job.seq}-{attempt}"


def next_container_name(agent_id: str) -> str:
    """Of the one container that an agent has made for a job which nobody holds yet: never that of a job's."""
    return f"launch-next.{agent_id}"


# -- pull requests --------------------------------------------------------------------------------------------------

PULL_GROUP = "agents"
"""The priority group that every work consumer has; pulls name it together with their priority, 0 (first) to 9."""

# -- bounds ---------------------------------------------------------------------------------------------------------

MAX_SPEC_BYTES = 256 * 1024
"""A larger job body is not a spec: it is refused as `invalid_spec`."""

RAW_KEPT_BYTES = 64 * 1024
"""How much of a refused body the record keeps."""
