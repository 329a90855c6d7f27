"""The AWS provider against EC2's troubles, as moto behind the fault proxy has them."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest

from launch.aws import NatsAccess
from launch.queue import AwsProvider as AwsSpec
from launch.queue import QueueSpec
from scaler.adapters.aws import client as aws_client
from scaler.adapters.aws.provider import AwsProvider
from scaler.adapters.aws.watch import Pace
from scaler.core.instance import InstanceState, StopMode
from scaler.core.intent import Intent
from scaler.ports import Launched, ProviderRefused, ProviderUnavailable, ProviderUnsuitable
from tests.contract.aws_world import PACE, AwsWorld
from tests.fakes.clock import ManualClock
from tests.support.ec2_faults import Faults
from tests.support.moto import REGION, MotoServer

LIMIT_S = 15.0


class Account(AwsWorld):
    """One account, one queue, a clock that is moved by hand."""

    def __init__(self, moto: MotoServer) -> None:
        super().__init__(moto, Faults())
        self.moto = moto
        self.clock = ManualClock()
        self._number = 0

    def asked(self, **provider: Any) -> QueueSpec:
        """The queue with this in its provider's section."""
        told = {"region": REGION, "instance_type": "m5.large", "nats": NatsAccess(url="nats://n.example"), **provider}
        return self.spec.model_copy(update={"provider": AwsSpec(**told)})

    async def provide(self, spec: QueueSpec, pace: Pace = PACE) -> AwsProvider:
        provider = await AwsProvider.open(
            spec, cluster=self.cluster, server_url="nats://127.0.0.1:4222", clock=self.clock, pace=pace
        )
        self._open.push_async_callback(provider.close)
        return provider

    async def intent(self, provider: AwsProvider, spec: QueueSpec, count: int) -> Intent:
        """A new one, for what the provider proposes."""
        self._number += 1
        asked = await provider.propose(spec, count)
        return Intent(
            id=f"i{self._number}",
            queue=f"{self.cluster}-{spec.queue_name}",
            count=asked.count,
            created_at=self.clock.now(),
            config=asked.config,
            capacity=asked.capacity,
            request=asked.request,
            note=asked.note,
        )

    async def launch(self, provider: AwsProvider, spec: QueueSpec, count: int) -> Launched:
        return await provider.launch(await self.intent(provider, spec, count))

    def subnets(self, *zones: str) -> list[str]:
        """A new subnet in each of these zones."""
        ec2 = self.moto.client("ec2")
        network = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        return [
            ec2.create_subnet(VpcId=network, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"][
                "SubnetId"
            ]
            for number, zone in enumerate(zones)
        ]


@pytest.fixture
async def account(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Account]:
    made = Account(moto_server)
    await made.start()
    for name, value in {**moto_server.env, "AWS_ENDPOINT_URL": made.proxy.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(aws_client, "PAUSE_FIRST_S", 0.01)
    yield made
    await made.close()
    assert aws_client._open == {}


async def until(provider: AwsProvider, states: list[InstanceState]) -> None:
    """Wait, by the provider's own hints, until its instances are in these states."""
    async with asyncio.timeout(LIMIT_S), aclosing(provider.changes()) as changes:
        async for _ in changes:
            if [instance.state for instance in await provider.list()] == states:
                return


async def account_calls(account: Account) -> AsyncGenerator[None]:
    """Yields after every call that EC2 gets."""
    while True:
        account.proxy.changed.clear()
        await account.proxy.changed.wait()
        yield


async def until_refused(provider: AwsProvider, account: Account) -> ProviderUnavailable:
    """Wait until the provider does not tell its instances any more; why."""
    async with asyncio.timeout(LIMIT_S), aclosing(account_calls(account)) as calls:
        async for _ in calls:
            try:
                await provider.list()
            except ProviderUnavailable as error:
                return error
    raise AssertionError("the calls ended")


# -- what is asked for ---------------------------------------------------------------------------------------------


async def test_the_call_is_as_the_spec_says(account: Account) -> None:
    (subnet,) = account.subnets(f"{REGION}b")
    spec = account.asked(
        instance_type="g4dn.xlarge",
        market="spot",
        subnets=[subnet],
        volume_size="100Gi",
        tags={"team": "vision"},
        nats=NatsAccess(url="ssm:/nats/url", credentials="secretsmanager:nats/creds"),
        secrets=["ssm:/jobs/"],
        labels={"pool": "a b"},
        user_data="mount /dev/nvme1n1 /scratch",
    )
    provider = await account.provide(spec)
    intent = await account.intent(provider, spec, 2)
    assert intent.note == f"2 g4dn.xlarge spot in {REGION}b"
    assert (intent.capacity.gpus, intent.capacity.cpu_milli) == (1, 4000)
    run = json.loads(intent.request)["run"]
    assert (run["MinCount"], run["MaxCount"], run["SubnetId"]) == (1, 2, subnet)
    assert run["InstanceMarketOptions"]["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert run["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert run["MetadataOptions"]["HttpTokens"] == "required"
    assert run["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert run["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 100
    assert (await account.intent(provider, spec, 2)).request == intent.request

    (one, two) = (await provider.launch(intent)).instances
    assert (one.intent, one.config, one.instance_type, one.zone) == (
        intent.id,
        intent.config,
        "g4dn.xlarge",
        f"{REGION}b",
    )
    assert one.agent_id == one.id != two.id
    truth = account.proxy.instances[one.id]
    assert truth.tags["team"] == "vision"
    assert truth.tags["nats-launch:cluster"] == account.cluster
    assert truth.tags["nats-launch:queue"] == "work"
    assert truth.pool.market == "spot"
    for line in ("--server ssm:/nats/url", "--credentials secretsmanager:nats/creds", "'pool=a b'", "--gpus all"):
        assert line in truth.user_data
    assert "mount /dev/nvme1n1 /scratch" in truth.user_data


async def test_the_fingerprint_is_of_what_boots_and_not_of_where(account: Account) -> None:
    zones = account.subnets(f"{REGION}a", f"{REGION}b")
    spec = account.asked(market="spot-then-on-demand", subnets=zones)
    provider = await account.provide(spec)
    first = await provider.propose(spec, 1)
    account.proxy.run_dry(market="spot")
    for _ in zones:
        assert (await account.launch(provider, spec, 1)).missing
    then = await provider.propose(spec, 1)
    assert "on-demand" in then.note
    assert then.config == first.config
    other = spec.model_copy(update={"agent_image": "example/agent:2"})
    assert (await provider.propose(other, 1)).config != first.config


async def test_images_fit_the_type(account: Account) -> None:
    spec = account.asked(instance_type=["g4dn.xlarge", "m6g.large", "m5.large"])
    provider = await account.provide(spec)
    images = {}
    for name in ("g4dn.xlarge", "m6g.large", "m5.large"):
        request = json.loads((await provider.propose(account.asked(instance_type=name), 1)).request)
        images[name] = request["run"]["ImageId"]
    assert len(set(images.values())) == 3
    smallest = await provider.capacity(spec)
    assert (smallest.gpus, smallest.cpu_milli) == (0, 2000)


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ({"ami": "ami-0123456789abcdef0"}, "ami-0123456789abcdef0"),
        ({"instance_type": "m5.nonsense"}, "m5.nonsense"),
        ({"subnets": "subnet-0123456789abcdef0"}, "subnet-0123456789abcdef0"),
        ({"volume_size": 1}, "volume_size is 1 GiB"),
        ({"nats": NatsAccess()}, "provider.nats.url is not set"),
    ],
)
async def test_what_can_not_be_is_said_before_anything_is_launched(
    account: Account, provider: dict[str, Any], words: str
) -> None:
    spec = account.asked(**provider)
    opened = await account.provide(spec)
    with pytest.raises(ProviderUnsuitable) as refused:
        await opened.propose(spec, 1)
    assert words in str(refused.value)
    assert await opened.list() == []


# -- out of capacity -----------------------------------------------------------------------------------------------


async def test_the_next_zone_then_type_then_market_is_tried(account: Account) -> None:
    zones = account.subnets(f"{REGION}a", f"{REGION}b")
    spec = account.asked(instance_type=["m5.large", "m5.xlarge"], market="spot-then-on-demand", subnets=zones)
    provider = await account.provide(spec)
    account.proxy.run_dry()
    asked = []
    for _ in range(8):
        intent = await account.intent(provider, spec, 1)
        asked.append(intent.note)
        launched = await provider.launch(intent)
        assert (launched.instances, "InsufficientInstanceCapacity" in str(launched.missing)) == ((), True)
    a, b = f"{REGION}a", f"{REGION}b"
    assert asked == [
        f"1 {name} {market} in {zone}"
        for market in ("spot", "on-demand")
        for name in ("m5.large", "m5.xlarge")
        for zone in (a, b)
    ]
    with pytest.raises(ProviderRefused) as refused:
        await provider.propose(spec, 1)
    assert refused.value.retry_after_s == pytest.approx(10.0)
    account.clock.advance(11)
    assert (await provider.propose(spec, 1)).note == asked[0]
    account.clock.advance(180)
    account.proxy.refill()
    launched = await account.launch(provider, spec, 1)
    assert (len(launched.instances), launched.missing) == (1, None)


async def test_a_part_is_taken_and_the_rest_is_sought_elsewhere(account: Account) -> None:
    spec = account.asked(instance_type=["m5.large", "m5.xlarge"])
    provider = await account.provide(spec)
    account.proxy.run_dry("m5.large", left=2)
    launched = await account.launch(provider, spec, 5)
    assert len(launched.instances) == 2
    assert launched.missing == "EC2 had 2 of 5 m5.large on-demand"
    assert (await provider.propose(spec, 3)).note == "3 m5.xlarge on-demand"


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "error", "hint"),
    [
        ("VcpuLimitExceeded", "You have requested more vCPU capacity", ProviderRefused, "quota"),
        ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", ProviderRefused, "quota"),
        ("UnauthorizedOperation", "You may not. Encoded authorization failure message: abcd", ProviderRefused,
         "ec2:RunInstances"),
        ("AuthFailure", "AWS was not able to validate the credentials", ProviderRefused, "credentials"),
        ("RequestExpired", "Request has expired.", ProviderRefused, "renew"),
        ("InvalidAMIID.NotFound", "The image id '[ami-1]' does not exist", ProviderUnsuitable, "provider.ami"),
        ("InvalidParameterValue", "Invalid IAM Instance Profile name", ProviderUnsuitable, "provider.iam_profile"),
        ("InternalError", "An internal error has occurred", ProviderUnavailable, ""),
        ("RequestLimitExceeded", "Request limit exceeded.", ProviderRefused, ""),
    ],
)  # fmt: skip
async def test_a_refusal_is_shown_as_what_it_is(
    account: Account, code: str, message: str, error: type[Exception], hint: str
) -> None:
    spec = account.asked(instance_type=["m5.large", "m5.xlarge"])
    provider = await account.provide(spec)
    account.proxy.refuse(
        "RunInstances", code, message, status=503 if code.startswith(("Int", "Request")) else 400, times=None
    )
    with pytest.raises(error) as refused:
        await account.launch(provider, spec, 1)
    assert type(refused.value) is error
    text = str(refused.value)
    assert code in text
    assert hint in text
    assert "abcd" not in text
    assert (await provider.propose(spec, 1)).note == "1 m5.large on-demand"  # It was no lack of capacity.
    tries = len(account.proxy.calls("RunInstances"))
    assert tries == (aws_client.TRIES if code in ("InternalError", "RequestLimitExceeded") else 1)


async def test_throttling_and_lost_replies_cost_tries_and_no_instance(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    account.proxy.refuse("RunInstances", "RequestLimitExceeded", status=503)
    account.proxy.lose_reply("RunInstances")
    launched = await account.launch(provider, spec, 3)
    calls = account.proxy.calls("RunInstances")
    assert [call.outcome for call in calls] == ["RequestLimitExceeded", "lost reply", "ok"]
    assert len({call.token for call in calls}) == 1
    assert len(launched.instances) == len(account.proxy.live(nats_launch_cluster=account.cluster)) == 3


async def test_a_replay_by_another_scaler_starts_nothing_more(account: Account) -> None:
    spec = account.asked()
    first = await account.provide(spec)
    intent = await account.intent(first, spec, 2)
    made = {instance.id for instance in (await first.launch(intent)).instances}
    for instance in account.proxy.instances.values():
        instance.visible_at = math.inf
    second = await account.provide(spec)
    assert await second.list() == []  # EC2 does not show them yet.
    assert {instance.id for instance in (await second.launch(intent)).instances} == made
    assert {instance.id for instance in await second.list()} == made
    assert len(account.proxy.live(nats_launch_cluster=account.cluster)) == 2


async def test_a_token_that_was_used_otherwise_finds_what_it_started(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    intent = await account.intent(provider, spec, 1)
    (instance,) = (await provider.launch(intent)).instances
    changed = intent.model_copy(update={"count": 2, "request": intent.request.replace('"MaxCount":1', '"MaxCount":2')})
    assert changed.request != intent.request
    launched = await provider.launch(changed)
    assert [made.id for made in launched.instances] == [instance.id]
    assert account.proxy.calls("RunInstances")[-1].outcome == "IdempotentParameterMismatch"


# -- seeing, ending, explaining ------------------------------------------------------------------------------------


async def test_what_ec2_does_not_show_yet_is_listed_and_can_be_ended(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    (instance,) = (await account.launch(provider, spec, 1)).instances
    account.proxy.instances[instance.id].visible_at = math.inf
    assert [known.id for known in await provider.list()] == [instance.id]
    await provider.stop(instance.id, StopMode.KILL)
    assert account.proxy.calls("TerminateInstances")[0].outcome == "InvalidInstanceID.NotFound"
    assert [known.state for known in await provider.list()] == [InstanceState.STOPPING]
    account.proxy.instances[instance.id].visible_at = 0
    await until(provider, [])
    assert account.proxy.live(nats_launch_cluster=account.cluster) == []


async def test_an_instance_that_ends_with_its_agent_is_seen_to_go_at_once(account: Account) -> None:
    spec = account.asked()
    rarely = Pace(fast_s=0.05, slow_s=3600.0, stale_s=7200.0, hurry_s=0.0)
    provider = await account.provide(spec, rarely)
    (instance,) = (await account.launch(provider, spec, 1)).instances
    await until(provider, [InstanceState.RUNNING])
    provider.agent_left(instance.id)
    looks = len(account.proxy.calls("DescribeInstances")) + 2
    async with asyncio.timeout(LIMIT_S), aclosing(account_calls(account)) as calls:
        async for _ in calls:
            if len(account.proxy.calls("DescribeInstances")) >= looks:
                break  # It takes a while to go, and is looked at again.
    await account.proxy.shut_down(instance.id)
    await until(provider, [])


async def test_each_is_ended_by_a_call_of_its_own(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    made = (await account.launch(provider, spec, 3)).instances
    account.proxy.lose_reply("TerminateInstances")
    for instance in made[:2]:
        await provider.stop(instance.id, StopMode.KILL)
    await until(provider, [InstanceState.RUNNING])
    assert {len(call.instances) for call in account.proxy.calls("TerminateInstances")} == {1}
    assert [instance.id for instance in account.proxy.live(nats_launch_cluster=account.cluster)] == [made[2].id]


async def test_a_mirror_that_is_too_old_is_not_believed(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec, Pace(fast_s=0.05, slow_s=0.05, stale_s=0.4, hurry_s=0.0))
    await account.launch(provider, spec, 1)
    account.proxy.refuse("DescribeInstances", "UnauthorizedOperation", "You may not.", status=403, times=None)
    refused = await until_refused(provider, account)
    assert "UnauthorizedOperation" in refused.message
    assert "ec2:DescribeInstances" in str(refused.hint)
    account.proxy.relent()
    async with asyncio.timeout(LIMIT_S), aclosing(account_calls(account)) as calls:
        async for _ in calls:
            with suppress(ProviderUnavailable):
                assert len(await provider.list()) == 1
                return


async def test_why_one_ended_is_told_with_its_console(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    (instance,) = (await account.launch(provider, spec, 1)).instances
    account.proxy.console[instance.id] = (
        "\x1b[32mkernel\x1b[0m: hello\r\n[  12.1] cloud-init: nats-launch: pulling x\r\nnats-launch: can't \x07pull x\n"
    )
    assert await provider.explain(instance.id) == f"{instance.id}: its console ends with: pulling x\ncan't pull x"
    await account.proxy.lose(instance.id)
    await until(provider, [])
    told = await provider.explain(instance.id)
    assert "Server.SpotInstanceTermination" in told
    assert told.endswith("can't pull x")
    assert await provider.explain("i-0123456789abcdef0") == ""


async def test_queues_of_a_region_share_a_client_and_see_their_own_only(account: Account) -> None:
    spec = account.asked()
    mine = await account.provide(spec)
    theirs = await account.provide(spec.model_copy(update={"queue_name": "theirs"}))
    await account.launch(mine, spec, 1)
    assert len(aws_client._open) == 1
    assert await theirs.list() == []
    await mine.close()
    await theirs.propose(spec, 1)


async def test_another_installation_in_the_account_is_left_alone(account: Account) -> None:
    spec = account.asked()
    theirs = await account.provide(spec)
    (instance,) = (await account.launch(theirs, spec, 1)).instances
    account.cluster += "-other"
    mine = await account.provide(spec)
    assert await mine.list() == []
    await mine.stop(instance.id, StopMode.KILL)
    assert account.proxy.instances[instance.id].live


async def test_all_pages_are_read(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.aws.watch.PAGE", 5)
    spec = account.asked()
    made = (await account.launch(await account.provide(spec), spec, 12)).instances
    assert len(made) == len(await (await account.provide(spec)).list()) == 12


async def test_no_region_can_be_left_for_another(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    with pytest.raises(ProviderUnsuitable, match="was moved from"):
        await provider.propose(account.asked(region="us-east-1"), 1)


async def test_user_data_goes_over_the_wire_once_encoded(account: Account) -> None:
    spec = account.asked()
    provider = await account.provide(spec)
    (instance,) = (await account.launch(provider, spec, 1)).instances
    answer = account.moto.client("ec2").describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
    assert base64.b64decode(answer["UserData"]["Value"]).startswith(b"#!/bin/bash\n")
