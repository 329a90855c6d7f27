"""What an agent's policy lets a job ask for, rule by rule, and that the default refuses none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.core.container import ContainerPolicy
from agent.core.policy import account, denials, user_denials
from launch.core.image_patterns import check_pattern, matches
from launch.core.registry import parse_image
from launch.job import JobSpec
from launch.policy import GRANTABLE_CAPABILITIES, AgentPolicy
from launch.queue import QueueSpec

DIGEST = "sha256:" + "a" * 64
ECR_REST = "dkr.ecr.eu-central-1.amazonaws.com"
NO_PASSWORD = "secrets that are no registry's password"


def policy_of(**fields: Any) -> AgentPolicy:
    return AgentPolicy.model_validate(fields)


def job_of(**fields: Any) -> JobSpec:
    return JobSpec.model_validate({"image": "python:3.12", **fields})


def broken(policy: AgentPolicy, **fields: Any) -> list[str]:
    """The rules that such a job does not keep."""
    return [denial.rule for denial in denials(job_of(**fields), policy)]


# -- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("acme/train", "docker.io/acme/train:latest"),
        ("docker.io/python:3", "docker.io/library/python:3"),
        ("index.docker.io/acme/x:1", "docker.io/acme/x:1"),
        ("GHCR.io/acme/x:V1", "ghcr.io/acme/x:V1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("Acme/x", "acme/x:latest"),
        (f"python:3.12@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        ("cafe:1", "docker.io/library/cafe:1"),
    ],
)
def test_a_reference_is_compared_as_the_engine_reads_it(text: str, full: str) -> None:
    assert str(parse_image(text)) == full


@pytest.mark.parametrize(
    "text", ["cafe", "0123456789ab", DIGEST, "sha256:cafe", "a//b", "a/../b", "Python", "x:", "x@y"]
)
def test_what_may_be_an_id_or_is_no_name_is_no_name(text: str) -> None:
    assert parse_image(text) is None


@pytest.mark.parametrize(
    ("pattern", "image", "wanted"),
    [
        ("ghcr.io/acme/*", "ghcr.io/acme/train:1", True),
        ("ghcr.io/acme/*", f"ghcr.io/acme/train@{DIGEST}", True),
        ("ghcr.io/acme/*", "ghcr.io/acme/team/train:1", False),
        ("ghcr.io/acme/**", "ghcr.io/acme/team/train:1", True),
        ("ghcr.io/acme/train", "ghcr.io/acme/train:7", True),
        ("ghcr.io/acme/train", "ghcr.io/acme/trainer:7", False),
        ("ghcr.io/acme/train:1", f"ghcr.io/acme/train:1@{DIGEST}", False),
        ("*.acme.com/**", "eu.acme.com/a/b:1", True),
        ("*.acme.com/**", "evil.io/x.acme.com/a:1", False),
        ("ghcr.io/**", "ghcrxio/a.b/c", False),
        ("docker.io/library/python:3.*", "python:3.12", True),
        ("docker.io/library/python:3.*", "python:2", False),
        ("docker.io/library/python:3.?", "python:3.1", True),
        ("docker.io/**", "python:3.1", True),
        ("index.docker.io/acme/*", "acme/x", True),
        ("**", "anything/at:all", True),
    ],
)
def test_a_star_ends_at_a_slash(pattern: str, image: str, wanted: bool) -> None:
    name = parse_image(image)
    assert name is not None
    assert matches(check_pattern(pattern), name) is wanted


@given(st.from_regex(re.compile(r"[a-z0-9][a-z0-9./:@-]{0,39}"), fullmatch=True))
def test_no_name_of_another_registry_is_let_in(text: str) -> None:
    image = parse_image(text)
    if image is not None and not text.startswith("ghcr.io/"):
        assert not matches("ghcr.io/**", image)
        assert broken(policy_of(images={"allow": ["ghcr.io/**"]}), image=text) == ["images.allow"]


def test_images_by_name_by_digest_and_denied() -> None:
    rules = policy_of(images={"allow": ["ghcr.io/acme/*"], "deny": ["ghcr.io/acme/old*"]})
    assert broken(rules, image="ghcr.io/acme/train:1") == []
    assert broken(rules, image="ghcr.io/acme/old:1") == ["images.deny"]
    assert broken(rules, image="python:3.12") == ["images.allow"]
    assert broken(rules, image="cafe") == ["images"]
    pinned = policy_of(images={"by_digest": "true"})
    assert broken(pinned, image="python:3.12") == ["images.by_digest"]
    assert broken(pinned, image=f"python@{DIGEST}") == []
    assert broken(pinned, image="python@sha512:" + "a" * 128) == ["images.by_digest"]


def test_the_message_names_the_rule_what_was_found_and_what_is_allowed() -> None:
    found = denials(job_of(image="evil"), policy_of(images={"allow": ["ghcr.io/acme/*"]}))
    said = "this agent's policy, images.allow: found docker.io/library/evil:latest; allowed: ghcr.io/acme/*"
    assert account(found) == said


# -- users ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["0", "00", "root", "app", "0:5", ":5", "+1", " 1", "1e3", "٣", "-0"])
def test_root_by_any_name_is_refused(user: str) -> None:
    rules = policy_of(users={"allow_root": "false"})
    assert broken(rules, user=user) == ["users.allow_root"]
    assert [one.rule for one in user_denials(job_of(), user, rules)] == ["users.allow_root"]


def test_the_users_of_job_and_image() -> None:
    rules = policy_of(users={"allow_root": "false"})
    assert broken(rules, user="1000:0") == broken(rules) == []
    assert user_denials(job_of(user="1000"), "", rules) == ()
    assert user_denials(job_of(), "65532:65532", rules) == ()
    assert "the image's user unset, which is root" in account(user_denials(job_of(), "", rules))
    # The engine takes an empty user for none, and so the image's.
    assert "root" in account(user_denials(job_of(user=""), "", rules))
    listed = policy_of(users={"uids": ["1000"]})
    assert broken(listed, user="1000") == []
    assert broken(listed, user="1001") == broken(listed, user="0") == ["users.uids"]


# -- amounts, secrets, inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "good", "bad", "silent"),
    [
        ({"cpu": "4"}, {"resources": {"cpu": 4}}, {"resources": {"cpu": 4.1}}, ["limits.cpu"]),
        ({"memory": "8Gi"}, {"resources": {"memory": "8Gi"}}, {"resources": {"memory": "9Gi"}}, ["limits.memory"]),
        ({"gpu": "0"}, {"resources": {"gpu": 0}}, {"resources": {"gpu": 1}}, []),
        ({"shm_size": "1Gi"}, {"shm_size": "1Gi"}, {"shm_size": "2Gi"}, []),
        ({"timeout": "1h"}, {"timeout": "1h"}, {"timeout": "2h"}, ["limits.timeout"]),
    ],
)
def test_a_limit_holds_for_who_asks_for_more_and_for_who_asks_for_no_end(
    limits: dict[str, str], good: dict[str, Any], bad: dict[str, Any], silent: list[str]
) -> None:
    rules = policy_of(limits=limits)
    assert broken(rules, **good) == []
    assert broken(rules, **bad) == [f"limits.{next(iter(limits))}"]
    assert broken(rules) == silent


def test_secrets_and_inputs_are_those_that_are_named() -> None:
    rules = policy_of(secrets=["team-a/*"], inputs=["s3://data/a"])
    assert (
        broken(rules, env={"X": {"secret": "team-a/key"}}, inputs=[{"s3": "s3://data/a/b"}, {"s3": "s3://data/a"}])
        == []
    )
    assert broken(rules, env={"X": {"secret": "team-b/key"}}) == ["secrets"]
    assert broken(rules, inputs=[{"s3": "s3://data/ab"}]) == broken(rules, inputs=[{"s3": "s3://data"}]) == ["inputs"]
    assert broken(policy_of(secrets=[], inputs=[]), inputs=[{"job": "q/1"}]) == []
    assert broken(policy_of(secrets=[]), env={"X": {"secret": "x"}}) == ["secrets"]


def test_every_broken_rule_is_told_at_once() -> None:
    rules = policy_of(images={"by_digest": "true"}, limits={"gpu": "0", "timeout": "1h"})
    assert broken(rules, resources={"gpu": 2}) == ["images.by_digest", "limits.gpu", "limits.timeout"]


# -- the default, and what can't be granted ---------------------------------------------------------------------------


@given(
    st.sampled_from(["cafe", "Odd", "python", "10.0.0.1:5/x"]),
    st.one_of(st.none(), st.text("0123abc:", max_size=8)),
    st.one_of(st.none(), st.integers(1, 900)),
)
def test_the_default_refuses_no_job(image: str, user: str | None, cpu: float | None) -> None:
    spec = job_of(image=image, user=user, resources={"cpu": cpu}, env={"A": {"secret": "any/name"}})
    assert denials(spec, AgentPolicy()) == user_denials(spec, "", AgentPolicy()) == ()


@pytest.mark.parametrize("network", ["host", "HOST", "container:abc", "ns:/proc/1/ns/net", "", "-x", "default"])
def test_no_network_but_of_its_own(network: str) -> None:
    with pytest.raises(ValidationError, match="allowed: bridge, none"):
        policy_of(networks=[network])


@pytest.mark.parametrize("name", ["SYS_ADMIN", "CAP_NET_ADMIN", "ALL", "sys_module", "DAC_READ_SEARCH", "BPF", ""])
def test_no_capability_that_leads_out_can_be_added(name: str) -> None:
    with pytest.raises(ValidationError, match="allowed: "):
        policy_of(capabilities={"add": [name]})


def test_what_a_policy_grants_is_in_the_container() -> None:
    rules = policy_of(
        networks=["none"], capabilities={"drop": ["all"], "add": ["cap_chown", "SYS_PTRACE"]}, limits={"pids": "100"}
    )
    made = ContainerPolicy.of(rules)
    assert (made.networks, made.cap_drop, made.cap_add, made.pids_limit) == (
        ("none",),
        ("ALL",),
        ("CHOWN", "SYS_PTRACE"),
        100,
    )
    assert made.no_new_privileges
    assert "SYS_ADMIN" not in GRANTABLE_CAPABILITIES


@pytest.mark.parametrize("pattern", ["python:3", "acme/*", "", "ghcr.io/", "ghcr.io/a b", "***"])
def test_a_pattern_that_could_not_match_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="begins with the registry"):
        policy_of(images={"allow": [pattern]})


@pytest.mark.parametrize("pattern", ["docker.io/*", "docker.io/python:3", "Index.docker.io/python"])
def test_a_pattern_that_names_nothing_on_docker_hub_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match=r"allowed: docker\.io/library/"):
        policy_of(images={"deny": [pattern]})


# -- what jobs ask for by name ----------------------------------------------------------------------------------------

RULES = policy_of(
    networks=["bridge", "training"],
    mounts={"data": {"source": "/srv/data"}, "scratch": {"source": "scratch-volume", "writable": "true"}},
    devices={"rdma": ["/dev/infiniband/uverbs0"]},
    capabilities={"drop": ["ALL"], "add": ["CHOWN"], "allow": ["SYS_PTRACE"]},
)


@pytest.mark.parametrize(
    ("asked", "rule", "words"),
    [
        ({"network": "host"}, "networks", "network 'host'; allowed: bridge, training, none"),
        ({"network": "Bridge"}, "networks", "network 'Bridge'; allowed: "),
        ({"mounts": [{"name": "root", "path": "/x"}]}, "mounts", "mount 'root'; allowed: data, scratch"),
        (
            {"mounts": [{"name": "data", "path": "/x", "writable": True}]},
            "mounts.data",
            "writable: true; allowed: to read",
        ),
        ({"devices": ["rdma", "kvm"]}, "devices", "device 'kvm'; allowed: rdma"),
        ({"capabilities": ["sys_admin"]}, "capabilities.allow", "SYS_ADMIN; allowed: SYS_PTRACE"),
        ({"capabilities": ["KILL"]}, "capabilities.allow", "KILL; allowed: SYS_PTRACE"),
        ({"capabilities": ["ALL"]}, "capabilities.allow", "ALL; allowed: SYS_PTRACE"),
    ],
)
def test_a_name_that_the_policy_lacks_is_refused(asked: dict[str, Any], rule: str, words: str) -> None:
    (found,) = denials(job_of(**asked), RULES)
    assert found.rule == rule
    assert words in str(found)


@pytest.mark.parametrize(
    "asked",
    [
        {"network": "bridge"},
        {"network": "none"},
        {"network": "training"},
        {"mounts": [{"name": "data", "path": "/x"}, {"name": "scratch", "path": "/y", "writable": True}]},
        {"devices": ["rdma"]},
        {"capabilities": ["CAP_SYS_PTRACE", "CHOWN"]},
    ],
)
def test_a_name_that_the_policy_has_is_allowed(asked: dict[str, Any]) -> None:
    assert denials(job_of(**asked), RULES) == ()


@pytest.mark.parametrize(
    "asked",
    [
        {"network": "training"},
        {"network": "host"},
        {"mounts": [{"name": "data", "path": "/x"}]},
        {"devices": ["rdma"]},
        {"capabilities": ["SYS_PTRACE"]},
        {"capabilities": ["NET_RAW"]},
    ],
)
def test_by_default_there_is_nothing_to_ask_for(asked: dict[str, Any]) -> None:
    assert len(denials(job_of(**asked), AgentPolicy())) == 1


def test_by_default_a_job_may_have_no_network_and_name_what_it_has_anyway() -> None:
    assert broken(AgentPolicy(), network="none", capabilities=["CHOWN", "KILL"]) == []


@pytest.mark.parametrize(
    "source",
    [
        "/", "/etc", "/etc/ssl", "/var", "/var/run/docker.sock", "/run", "/var/lib/docker/volumes", "/proc/1", "/dev",
        "/srv/../etc", "srv/data", "//etc", "/srv//x", ".", "",
    ],
)  # fmt: skip
def test_no_folder_that_is_the_machine_can_be_named(source: str) -> None:
    with pytest.raises(ValidationError, match="allowed: "):
        policy_of(mounts={"x": {"source": source}})


@pytest.mark.parametrize("source", ["/srv/data", "/var/data", "/etcetera", "/home/x/", "datasets", "my.volume-1"])
def test_folders_and_volumes_can_be_named(source: str) -> None:
    assert policy_of(mounts={"x": {"source": source}}).mounts["x"].source == source.rstrip("/")


@pytest.mark.parametrize(
    "path",
    ["/dev", "/dev/", "/dev/mem", "/dev/sda", "/dev/nvme0n1p1", "/dev/mapper/root", "/dev/disk/by-id/x", "/dev/../etc",
     "/etc/passwd", "fuse", "/dev/loop0", "/dev/kmsg", "/dev/char/1:1", "/dev/sg0", "/dev/mmcblk0p1", "/dev/pmem0"],
)  # fmt: skip
def test_no_disk_and_no_memory_can_be_named_as_a_device(path: str) -> None:
    with pytest.raises(ValidationError, match="allowed: a device's path"):
        policy_of(devices={"x": [path]})


def test_a_job_can_not_put_off_its_end_for_ever() -> None:
    assert broken(AgentPolicy(), stop_grace="1h") == []
    (found,) = denials(job_of(stop_grace="3650d"), AgentPolicy())
    assert str(found).endswith("limits.stop_grace: found stop_grace 3650d00h; allowed: stop_grace of at most 1h00m")
    assert broken(policy_of(limits={"stop_grace": "30s"}), stop_grace="1m") == ["limits.stop_grace"]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"networks": ["training"]}, "found networks training; allowed: bridge among them"),
        ({"capabilities": {"add": ["SYS_PTRACE"]}}, "found capabilities beside the usual, SYS_PTRACE; allowed: none"),
        ({"capabilities": {"drop": ["MKNOD"]}}, "AUDIT_WRITE, NET_RAW, SYS_CHROOT; allowed: none"),
    ],
)
def test_namespaces_are_kept_only_for_jobs_that_can_not_change_them(fields: dict[str, Any], found: str) -> None:
    assert policy_of(**fields).network_pool is False
    with pytest.raises(ValidationError, match=found):
        policy_of(network_pool=True, **fields)
    assert policy_of(network_pool=True, capabilities={"drop": ["ALL"]}).network_pool


@pytest.mark.parametrize("users", [{"allow_root": False}, {"uids": [1000]}])
@pytest.mark.parametrize(
    "put", [{"code": {"sha256": "a" * 64, "size": 1}}, {"inputs": [{"s3": "s3://data/x", "path": "/w"}]}]
)
def test_who_may_not_be_root_has_nothing_unpacked_by_root_beside_a_writable_mount(
    users: dict[str, Any], put: dict[str, Any]
) -> None:
    rules = policy_of(users=users, mounts={"data": {"source": "/srv/data", "writable": True}})
    asked = {"user": "1000", "mounts": [{"name": "data", "path": "/w/data", "writable": True}]}
    (found,) = denials(job_of(**asked, **put), rules)
    assert found.rule == "users"
    assert "beside the writable mount 'data'" in found.found
    assert broken(rules, **asked) == broken(rules, **put, user="1000", mounts=[{"name": "data", "path": "/d"}]) == []
    assert broken(policy_of(mounts=rules.mounts), **asked, **put) == []


def test_no_job_gets_the_password_of_its_queues_registry_unless_the_queue_hands_it_out() -> None:
    auth = {"ghcr.io": {"username": "ci", "password": {"secret": "ghcr-token"}}, f"{'1' * 12}.{ECR_REST}": "ecr"}
    queue = QueueSpec.model_validate({"queue_name": "q", "registry_auth": auth})
    for name in ("ghcr-token", "GHCR_TOKEN", "ghcr.token"):
        (found,) = denials(job_of(env={"X": {"secret": name}}), AgentPolicy(), queue)
        assert str(found).endswith(f"registry_auth: found secret '{name}' for X; allowed: {NO_PASSWORD}")
    assert denials(job_of(env={"X": {"secret": "other"}}), AgentPolicy(), queue) == ()
    handed_out = {"queue_name": "q", "registry_auth": auth, "defaults": {"env": {"X": {"secret": "ghcr-token"}}}}
    job = job_of(env={"Y": {"secret": "ghcr-token"}})
    assert denials(job, AgentPolicy(), QueueSpec.model_validate(handed_out)) == ()
