"""`registry_auth` of a queue, and `pull` of a job: what is taken, and what is refused without being repeated."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from launch.fields import SecretRef
from launch.job import JobSpec, Pull
from launch.queue import QueueSpec, RegistryLogin

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
LOGIN = {"username": "ci", "password": {"secret": "token"}}


def test_hosts_are_read_as_docker_reads_them() -> None:
    spec = QueueSpec(
        queue_name="q", registry_auth={"https://Index.docker.io/v1/": LOGIN, "r.lan:5000": LOGIN, ECR: "ecr"}
    )
    login = RegistryLogin(username="ci", password=SecretRef(secret="token"))
    assert spec.registry_auth == {"docker.io": login, "r.lan:5000": login, ECR: "ecr"}
    assert QueueSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "auth",
    [
        {"ghcr.io": {"username": "ci", "password": "pa55w0rd"}},
        {"ghcr.io": {"username": "ci", "password": {"secret": "pa55w0rd of mine"}}},
        {"ghcr.io": "ci:pa55w0rd"},
        {"ci:pa55w0rd@ghcr.io": LOGIN},
        {"ghcr.io": "ecr"},
        {f"{ECR}.evil.io": "ecr"},
    ],
)
def test_what_is_refused_is_not_repeated(auth: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        QueueSpec.model_validate({"queue_name": "q", "registry_auth": auth})
    for error in caught.value.errors():
        assert "allowed: " in error["msg"]
        assert "pa55w0rd" not in error["msg"]


def test_a_job_says_when_its_image_is_pulled() -> None:
    assert JobSpec(image="x").pull is Pull.MISSING
    assert JobSpec(image="x", pull="always").pull is Pull.ALWAYS
    with pytest.raises(ValidationError, match="allowed: always, missing, never"):
        JobSpec.model_validate({"image": "x", "pull": "sometimes"})
