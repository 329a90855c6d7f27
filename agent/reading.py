"""A message as the job that it would be here: parsed, checked against its queue, the queue's defaults filled in."""

from __future__ import annotations

from launch.errors import Problem, SpecError
from launch.job import JobSpec
from launch.ports import Message
from launch.queue import QueueSpec
from launch.specfile import parse_job_json
from launch.subjects import NAME_PATTERN, is_name


def read_job(message: Message, queue: QueueSpec) -> JobSpec:
    """The job as it will run, queue defaults included. Raises `SpecError`."""
    job_type = message.consumer.job_type
    source = message.consumer.subject(queue.queue_name)
    if not is_name(job_type):
        allowed = f"allowed: {NAME_PATTERN}"
        raise SpecError(source, [Problem("job_type", f"found '{job_type[:80]}'", allowed)])
    if queue.job_types is not None and job_type not in queue.job_types:
        allowed = f"allowed in queue {queue.queue_name}: {', '.join(queue.job_types)}"
        raise SpecError(source, [Problem("job_type", f"found '{job_type}'", allowed)])
    spec = parse_job_json(message.body, source=source)
    if spec.job_type not in (None, job_type):
        found = f"found '{spec.job_type}' in a body published as '{job_type}'"
        raise SpecError(source, [Problem("job_type", found, "allowed: the same, or leave it out")])
    named = JobSpec.model_validate({**spec.model_dump(exclude_unset=True), "job_type": job_type})
    return queue.with_defaults(named)
