"""What a queue's spec becomes, without EC2."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from launch.aws import Market, NatsAccess
from launch.core.capacity import Amount
from launch.policy import AgentPolicy
from launch.queue import AwsProvider as AwsSpec
from launch.queue import QueueSpec
from scaler.adapters.aws.request import Machine, MachineImage, Place, build, capacity_in, capacity_of, places, smallest
from scaler.adapters.aws.shortages import Shortages
from scaler.core.intent import Intent
from tests.fakes.clock import ManualClock

MACHINE = Machine("m5.large", 2, 8192, 0, "x86_64")
IMAGE = MachineImage("ami-0123456789abcdef0", "x86_64", "/dev/xvda", 30)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def aws(**more: Any) -> AwsSpec:
    return AwsSpec(**{"region": "us-east-1", "instance_type": "m5.large", "nats": NatsAccess(url="nats://n"), **more})


def queue(provider: AwsSpec, **more: Any) -> QueueSpec:
    return QueueSpec(queue_name="q", agent_image="a:1", max_instances=5, provider=provider, **more)


def built(
    provider: AwsSpec, *, machine: Machine = MACHINE, image: MachineImage = IMAGE, **more: Any
) -> tuple[dict[str, Any], str]:
    place = places(provider, {})[0]
    request, config = build(
        queue(provider, **more), provider, place, machine, image, server="nats://n", cluster="c", count=3
    )
    return request.run, config


def test_places_go_zone_by_zone_then_type_then_market() -> None:
    spec = aws(
        instance_type=["m5.large", "m5.xlarge"],
        subnets=["subnet-00000a", "subnet-00000b"],
        market="spot-then-on-demand",
    )
    found = [str(place) for place in places(spec, {"subnet-00000a": "za", "subnet-00000b": "zb"})]
    assert found[:3] == ["m5.large spot in za", "m5.large spot in zb", "m5.xlarge spot in za"]
    assert found[4] == "m5.large on-demand in za"
    assert len(found) == 8
    assert [str(place) for place in places(aws(), {})] == ["m5.large on-demand"]


def test_an_intent_adds_its_token_and_its_tag_and_nothing_else() -> None:
    provider = aws()
    request, config = build(
        queue(provider), provider, places(provider, {})[0], MACHINE, IMAGE, server="nats://n", cluster="c", count=3
    )
    intent = Intent(
        id="i", queue="q", count=3, created_at=NOW, config=config, capacity=Amount(), request=request.model_dump_json()
    )
    sent = request.with_intent(intent)
    assert sent == request.with_intent(intent.model_copy(update={"epoch": 9, "note": "x"}))
    assert sent.pop("ClientToken") == intent.token
    for specification, plain in zip(sent["TagSpecifications"], request.run["TagSpecifications"], strict=True):
        assert specification["Tags"].pop() == {"Key": "nats-launch:intent", "Value": "i"}
        assert specification == plain
    assert sent == request.run


@pytest.mark.parametrize(
    "changed",
    [
        {"ami": "ami-00000001"}, {"user_data": "true"}, {"iam_profile": "p"}, {"key_name": "k"}, {"volume_size": 99},
        {"security_groups": "sg-000001"}, {"secrets": ["env"]}, {"labels": {"a": "b"}},
        {"agent_policy": AgentPolicy.model_validate({"secrets": []})},
        {"nats": NatsAccess(credentials="ssm:/c")},
    ],
)  # fmt: skip
def test_the_fingerprint_is_of_what_boots(changed: dict[str, Any]) -> None:
    image = IMAGE if "ami" not in changed else MachineImage(changed["ami"], "x86_64", "/dev/xvda", 30)
    assert built(aws(**changed), image=image)[1] != built(aws())[1]


@pytest.mark.parametrize(
    "changed", [{"market": "spot"}, {"subnets": "subnet-000001"}, {"tags": {"a": "b"}}, {"prices": {"m5.large": 1}}]
)
def test_the_fingerprint_is_not_of_where_or_how_it_is_paid(changed: dict[str, Any]) -> None:
    assert built(aws(**changed))[1] == built(aws())[1]


def test_what_can_not_be_asked_for_is_said() -> None:
    with pytest.raises(ValueError, match="needs at least 30"):
        built(aws(volume_size=8))
    with pytest.raises(ValueError, match=r"is made for x86_64, and m6g\.large is arm64"):
        built(aws(), machine=Machine("m6g.large", 2, 8192, 0, "arm64"))
    provider = aws()
    spec = QueueSpec(queue_name="q", provider=provider)
    with pytest.raises(ValueError, match="agent_image is not set"):
        build(spec, provider, places(provider, {})[0], MACHINE, IMAGE, server="n", cluster="c", count=1)


def test_capacity_leaves_the_system_its_part() -> None:
    offered = capacity_of(MACHINE, queue(aws()))
    assert 6.5 * 1024**3 < offered.memory_bytes < 7.3 * 1024**3
    assert (offered.cpu_milli, offered.slots, offered.gpus) == (2000, 2, 0)
    assert capacity_of(MACHINE, queue(aws(), max_jobs_per_agent=7)).slots == 7
    small = capacity_of(Machine("t3.nano", 2, 512, 0, "x86_64"), queue(aws()))
    assert small.memory_bytes > 0
    gpu = capacity_of(Machine("g4dn.xlarge", 4, 16384, 1, "x86_64"), queue(aws()))
    assert smallest([offered, gpu]) == Amount(cpu_milli=2000, memory_bytes=offered.memory_bytes, gpus=0, slots=2)


def test_capacity_survives_in_a_tag() -> None:
    tags = {tag["Key"]: tag["Value"] for tag in built(aws())[0]["TagSpecifications"][0]["Tags"]}
    assert capacity_in(tags["nats-launch:capacity"]) == capacity_of(MACHINE, queue(aws()))
    for spoilt in (None, "", "1/2/3", "a/b/c/d", "1/2/3/-4"):
        assert capacity_in(spoilt) == Amount()


def waiting(chosen: tuple[Place | None, float]) -> float:
    """How long, as there is no place for now."""
    place, wait_s = chosen
    assert place is None
    return round(wait_s, 6)


def test_a_shortage_is_remembered_for_three_minutes() -> None:
    clock, memory = ManualClock(), Shortages()
    one, two = (Place(instance_type=name, market=Market.SPOT) for name in ("a", "b"))
    memory.note(one, clock.now())
    assert memory.choose([one, two], clock.now()) == (two, 0.0)
    clock.advance(181)
    assert memory.choose([one, two], clock.now()) == (one, 0.0)


def test_if_all_are_short_the_longest_ago_is_tried_again_ever_later() -> None:
    clock, memory = ManualClock(), Shortages()
    one, two = (Place(instance_type=name, market=Market.SPOT) for name in ("a", "b"))
    memory.note(one, clock.now())
    clock.advance(1)
    memory.note(two, clock.now())
    assert waiting(memory.choose([one, two], clock.now())) == 9.0
    clock.advance(9)
    assert memory.choose([one, two], clock.now()) == (one, 0.0)
    memory.note(one, clock.now())
    assert waiting(memory.choose([one], clock.now())) == 20.0
    memory.clear(one)
    assert memory.choose([one, two], clock.now()) == (one, 0.0)
