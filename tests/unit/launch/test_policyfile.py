"""`agent.yaml` as operators write it: what is wrong is named with file, key and what is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from launch import schemas
from launch.errors import SpecError
from launch.policy import AgentPolicy
from launch.specfile import load_policy

FULL = """
images:
  allow: [ghcr.io/acme/*, "docker.io/library/python:3.*"]
  deny: [ghcr.io/acme/old-*]
  by_digest: false
networks: [none, training]
mounts: {datasets: {source: /srv/datasets}, scratch: {source: scratch-volume, writable: true}}
devices: {infiniband: [/dev/infiniband/uverbs0, /dev/infiniband/rdma_cm]}
users: {allow_root: false, uids: [1000, 1001]}
capabilities: {drop: [ALL], add: [CHOWN], allow: [CAP_SYS_PTRACE]}
limits: {cpu: 8, memory: 32Gi, gpu: 1, shm_size: 8Gi, timeout: 12h, pids: 2048}
secrets: [team-a/*]
inputs: [s3://acme-data/public]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def test_the_whole_of_a_file_is_read(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, FULL))
    assert policy.images.allow == ("ghcr.io/acme/*", "docker.io/library/python:3.*")
    assert (policy.users.allow_root, policy.users.uids) == (False, (1000, 1001))
    assert (policy.limits.memory, policy.limits.timeout, policy.limits.pids) == (32 * 1024**3, 12 * 3600, 2048)


def test_what_is_left_out_is_as_without_a_file(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, "networks: [bridge]\n")) == AgentPolicy()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagse: {}", "agent.yaml: imagse: found an unknown key; allowed: images, networks"),
        ("imagse: {}", "did you mean 'images'?"),
        (
            "images: {alow: []}",
            "images.alow: found an unknown key; allowed: allow, deny, by_digest; did you mean 'allow'?",
        ),
        ("privileged: true", "privileged: found an unknown key"),
        ("networks: [host]", "networks.0: found 'host'; allowed: bridge, none"),
        ("capabilities: {add: [SYS_ADMIN]}", "found 'SYS_ADMIN'; allowed: AUDIT_WRITE"),
        ("users: {allow_root: perhaps}", "users.allow_root: found 'perhaps'; allowed: true or false"),
        ("users: {uids: []}", "users.uids: "),
        ("limits: {memory: much}", "limits.memory: found 'much'"),
        ("limits: {pids: 1}", "limits.pids: found '1'; allowed: at least 16"),
        ("images: {allow: [python]}", "allowed: a pattern that begins with the registry"),
        ("mounts: {x: {source: /etc}}", "mounts.x.source: found '/etc'; allowed: a folder that neither is"),
        ("mounts: {x: {sorce: /srv}}", "mounts.x.sorce: found an unknown key"),
        ("mounts: {X: {source: /srv}}", "mounts.X: found 'X'; allowed: 1 to 63 of a-z"),
        ("devices: {x: [/dev/sda]}", "devices.x.0: found '/dev/sda'; allowed: a device's path below /dev"),
        ("networks: []", "networks: found an empty list; allowed: 1 to 100 items"),
        ("mounts: {x: {source: /}}", "found '/'; allowed: a folder that neither is"),
        ("inputs: [/data]", "allowed: s3://bucket"),
        ("", "found nothing; allowed: the keys images"),
        ("a: &a [*a]", "agent.yaml: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_policy(write(tmp_path, text))
    assert words in caught.value.message


def test_a_refused_item_is_the_only_thing_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_policy(write(tmp_path, "networks: [host]"))
    assert [problem.where for problem in caught.value.problems] == ["networks.0"]


def test_a_file_that_is_not_there_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read: No such file"):
        load_policy(tmp_path / "agent.yaml")


def test_the_schema_takes_what_operators_write() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the development requirements")
    jsonschema.validate(yaml.safe_load(FULL), json.loads(schemas.schema_text(AgentPolicy)))
