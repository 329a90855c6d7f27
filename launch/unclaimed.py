"""What is known of a job that no agent has claimed: what its message says, as a record."""

from __future__ import annotations

from launch.errors import SpecError
from launch.job import JobSpec
from launch.ports import Message
from launch.record import JobRecord
from launch.specfile import parse_job_json


def unclaimed_record(message: Message) -> JobRecord:
    """The record of a job that has none: queued, as it lies in its queue."""
    spec: JobSpec | None
    trouble = None
    try:
        spec = parse_job_json(message.body, source=str(message.job))
    except SpecError as error:
        spec, trouble = None, f"will be refused as invalid: {error.problems[0]}"
    return JobRecord(
        queue=message.job.queue,
        seq=message.job.seq,
        job_type=message.consumer.job_type,
        priority=message.consumer.priority,
        message=trouble,
        spec=spec,
        submitted_at=message.published_at,
        updated_at=message.published_at,
    )
