"""The AWS section of a queue's file: what it takes, and how it says no."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.aws import AwsProvider
from launch.core.reference import Reference, is_reference, parse_reference
from launch.errors import SpecError
from launch.fields import AS_WRITTEN
from launch.queue import QueueSpec
from launch.specfile import load_policy, load_queue, parse_queue_yaml

HEAD = "queue_name: q\nprovider:\n  type: aws\n  region: us-east-1\n"
TYPE = "  instance_type: m5.large\n"


def provider(text: str) -> AwsProvider:
    found = parse_queue_yaml(HEAD + text, source="f").provider
    assert isinstance(found, AwsProvider)
    return found


def test_one_or_several_types_are_shown_as_they_were_written() -> None:
    one, several = provider(TYPE), provider("  instance_type: [g4dn.xlarge, m5.large]\n")
    assert (one.instance_type, several.instance_type) == (("m5.large",), ("g4dn.xlarge", "m5.large"))
    assert one.model_dump(context=AS_WRITTEN)["instance_type"] == "m5.large"
    assert several.model_dump(mode="json")["instance_type"] == ["g4dn.xlarge", "m5.large"]
    assert AwsProvider.model_validate(one.model_dump(mode="json")) == one


def test_everything_is_taken() -> None:
    found = provider(
        TYPE
        + """\
  ami: ami-0abcdef1234567890
  subnets: [subnet-0123456789abcdef0]
  security_groups: sg-0123456789abcdef0
  iam_profile: arn:aws:iam::123456789012:instance-profile/agents
  key_name: ops
  volume_size: 100Gi
  volume_type: gp3
  market: spot-then-on-demand
  tags: {team: vision, cost center: 12}
  user_data: |
    echo hello
  nats: {url: ssm:/nats/url, credentials: secretsmanager:nats/creds}
  secrets: [ssm:/jobs/]
  labels: {pool: a}
  prices: {m5.large: 0.096}
"""
    )
    assert (found.volume_size, found.market, found.tags["cost center"]) == (100, "spot-then-on-demand", "12")
    assert found.prices == {"m5.large": 0.096}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  market: cheap\n", "provider.market: found 'cheap'; allowed: on-demand, spot, spot-then-on-demand"),
        ("  ami: x\n", "provider.ami: found 'x'; allowed: an image's id"),
        ("  subnets: [x]\n", "provider.subnets.0: found 'x'; allowed: a subnet's id"),
        ("  volume_size: 1.5\n", "provider.volume_size: found '1.5'; allowed: whole GiB, 1 to 65536"),
        ("  volume_size: true\n", "provider.volume_size: found 'true'; allowed: whole GiB"),
        ("  volume_type: io9\n", "provider.volume_type: found 'io9'; allowed: gp2, gp3 or standard"),
        ("  iam_profile: a b\n", "provider.iam_profile: found 'a b'; allowed: an instance profile's name or ARN"),
        ("  tags: {'nats-launch:queue': x}\n", "allowed: a name that begins neither with aws: nor with nats-launch:"),
        ("  secrets: /x\n", "provider.secrets.0: found '/x'; allowed: env, dir:/PATH, ssm:/PREFIX/"),
        ("  nats: {url: 'nats://u:p@h'}\n", "provider.nats.url: found an address with a login in it; allowed"),
        (
            "  nats: {ulr: x}\n",
            "provider.nats.ulr: found an unknown key; allowed: url, credentials; did you mean 'url'",
        ),
        ("  prices: {m5.large: -1}\n", "provider.prices.m5.large: found '-1'; allowed: at least 0"),
        ("  subnet: x\n", "did you mean 'subnets'?"),
        ("  subnets: [subnet-000001, subnet-000001]\n", "found one of subnets twice"),
    ],
)
def test_a_refusal_says_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as refused:
        provider(TYPE + text)
    assert problem in str(refused.value)


def test_credentials_that_were_written_down_are_not_repeated() -> None:
    with pytest.raises(SpecError) as refused:
        provider(TYPE + "  nats: {credentials: SUASECRETSEED}\n")
    assert "SUASECRETSEED" not in str(refused.value)


@pytest.mark.parametrize("number", ["", ", ".join(f"m5.{number}large" for number in range(21))])
def test_there_is_a_type_and_not_too_many(number: str) -> None:
    with pytest.raises(SpecError, match="allowed: an EC2 type, or a list of 1 to 20"):
        provider(f"  instance_type: [{number}]\n")


def test_references() -> None:
    assert parse_reference("ssm:/a/b") == Reference("ssm", "/a/b")
    assert parse_reference("secretsmanager:a/b") == Reference("secretsmanager", "a/b")
    assert str(parse_reference("ssm:plain")) == "ssm:plain"
    assert not is_reference("nats://ssm:4222")
    for wrong in ("ssm:", "ssm:a/b", "ssm:/a b", "other:/a", "ssm:/a\n"):
        with pytest.raises(ValueError, match="allowed: ssm:"):
            parse_reference(wrong)


# -- the agents' policy ---------------------------------------------------------------------------------------------


def test_a_policy_is_written_in_the_queue_or_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/agent.yaml").write_text(
        "images: {allow: [ghcr.io/acme/*]}\nlimits: {memory: 32Gi, cpu: 0.5}\n"
    )
    queue = tmp_path / "queue.yaml"
    queue.write_text(f"{HEAD}{TYPE}  agent_policy: policies/agent.yaml\n")
    spec = load_queue(queue)
    named = spec.provider
    assert isinstance(named, AwsProvider)
    assert named == provider(
        TYPE + "  agent_policy: {images: {allow: [ghcr.io/acme/*]}, limits: {memory: 32Gi, cpu: 0.5}}\n"
    )
    assert QueueSpec.model_validate_json(spec.model_dump_json()) == spec
    assert named.agent_policy is not None
    assert "32Gi" in str(named.model_dump(context=AS_WRITTEN)["agent_policy"])
    sent = tmp_path / "sent.yaml"
    sent.write_text(named.agent_policy.text())
    assert load_policy(sent) == named.agent_policy


def test_what_is_wrong_in_a_policy_is_named_with_its_file(tmp_path: Path) -> None:
    queue = tmp_path / "queue.yaml"
    queue.write_text(f"{HEAD}{TYPE}  agent_policy: agent.yaml\n")
    with pytest.raises(SpecError, match=r"agent\.yaml: can't be read: No such file"):
        load_queue(queue)
    (tmp_path / "agent.yaml").write_text("imags: {}")
    with pytest.raises(SpecError, match=r"agent\.yaml: imags: found an unknown key"):
        load_queue(queue)
    queue.write_text(f"{HEAD}{TYPE}  agent_policy: ''\n")
    with pytest.raises(SpecError, match="agent_policy: found ''; allowed: a file"):
        load_queue(queue)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent.yaml", "provider.agent_policy: found 'agent.yaml'; allowed: the policy's keys"),
        ("{images: {alow: []}}", "provider.agent_policy.images.alow: found an unknown key; allowed: allow, deny"),
        ("{networks: [host]}", "provider.agent_policy.networks.0: found 'host'"),
        (f"{{secrets: [{','.join(f'{n:0100}' for n in range(41))}]}}", "bytes as JSON; allowed: at most 4096"),
    ],
)
def test_a_policy_is_looked_at_when_the_queue_is_applied(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        provider(f"{TYPE}  agent_policy: {text}\n")
    assert words in caught.value.message
