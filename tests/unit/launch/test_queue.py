"""The queue spec, and what it gives to its jobs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from launch.job import JobSpec
from launch.queue import AwsProvider, LocalProvider, QueueSpec
from tests.unit.launch.test_job import specs

GENEROUS = QueueSpec.model_validate(
    {
        "queue_name": "q",
        "defaults": {
            "env": {"A": "queue", "B": "queue"},
            "resources": {"cpu": 2, "gpu": 1, "memory": "1Gi"},
            "timeout": "1h",
        },
    }
)


def test_a_job_gets_what_it_leaves_open() -> None:
    job = GENEROUS.with_defaults(JobSpec(image="x"))
    assert job.env == {"A": "queue", "B": "queue"}
    assert (job.resources.cpu, job.resources.gpu, job.resources.memory) == (2, 1, 2**30)
    assert job.timeout == 3600


def test_what_a_job_says_itself_wins() -> None:
    own = JobSpec.model_validate(
        {"image": "x", "env": {"A": "job"}, "resources": {"gpu": 0, "cpu": 1}, "timeout": "5m"}
    )
    job = GENEROUS.with_defaults(own)
    assert job.env == {"A": "job", "B": "queue"}
    assert (job.resources.cpu, job.resources.gpu, job.resources.memory) == (1, 0, 2**30)
    assert job.timeout == 300


@given(specs)
def test_defaults_hold_after_the_wire_too(given_spec: dict[str, Any]) -> None:
    job = JobSpec.model_validate(given_spec)
    sent = JobSpec.model_validate_json(job.model_dump_json(exclude_unset=True))
    stored = QueueSpec.model_validate_json(GENEROUS.model_dump_json(exclude_unset=True))
    assert stored == GENEROUS
    assert stored.with_defaults(sent) == GENEROUS.with_defaults(job)


@given(specs)
def test_an_empty_default_changes_nothing(given_spec: dict[str, Any]) -> None:
    job = JobSpec.model_validate(given_spec)
    assert QueueSpec(queue_name="q").with_defaults(job) == job
    assert GENEROUS.with_defaults(GENEROUS.with_defaults(job)) == GENEROUS.with_defaults(job)


def test_a_queue_needs_nothing_but_a_name() -> None:
    spec = QueueSpec(queue_name="q")
    assert spec.provider == LocalProvider()
    assert (spec.min_instances, spec.max_instances) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"min_instances": 2, "max_instances": 1},
        {"max_instances": -1},
        {"queue_name": "A"},
        {"queue_name": "a" * 64},
        {"provider": {"type": "gcp"}},
        {"provider": {"type": "aws", "region": "us-east-1"}},
        {"provider": {"type": "static", "region": "us-east-1"}},
        {"job_types": ["Train"]},
        {"max_jobs_per_agent": 0},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QueueSpec.model_validate({"queue_name": "q", **change})


def test_a_provider_is_known_by_its_type() -> None:
    spec = QueueSpec.model_validate(
        {"queue_name": "q", "provider": {"type": "aws", "region": "us-east-1", "instance_type": "g4dn.xlarge"}}
    )
    assert spec.provider == AwsProvider(region="us-east-1", instance_type="g4dn.xlarge")
