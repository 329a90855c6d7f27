"""The fault proxy in front of moto, asked by the real SDK: what AWS does and moto does not, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aioboto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

from tests.support.aws_proxy import AwsProxy
from tests.support.ec2_faults import Ec2Instance, Faults
from tests.support.moto import REGION, MotoServer

AMI = "ami-12c6146b"


@pytest.fixture
async def proxy(moto_server: MotoServer) -> AsyncIterator[AwsProxy]:
    async with AwsProxy(moto_server.url) as made:
        yield made


@pytest.fixture
async def ec2(proxy: AwsProxy) -> AsyncIterator[Any]:
    async with client(proxy, "ec2") as made:
        yield made


def client(proxy: AwsProxy, service: str) -> Any:
    return aioboto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing").client(
        service,
        endpoint_url=proxy.url,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
    )


async def launch(ec2: Any, least: int = 1, most: int = 1, **more: Any) -> list[str]:
    asked = {"ImageId": AMI, "InstanceType": "m5.large", "MinCount": least, "MaxCount": most, **more}
    answer = await ec2.run_instances(**asked)
    return [instance["InstanceId"] for instance in answer["Instances"]]


async def seen(ec2: Any, **asked: Any) -> dict[str, str]:
    """States by id."""
    found: dict[str, str] = {}
    async for page in ec2.get_paginator("describe_instances").paginate(**asked):
        for reservation in page["Reservations"]:
            found |= {one["InstanceId"]: one["State"]["Name"] for one in reservation["Instances"]}
    return found


async def refusal(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        await call
    return str(error.value.response["Error"]["Code"])


async def test_a_token_launches_once(proxy: AwsProxy, ec2: Any) -> None:
    one, again = await asyncio.gather(
        launch(ec2, 1, 2, ClientToken="once" + proxy.url), launch(ec2, 1, 2, ClientToken="once" + proxy.url)
    )
    assert one == again
    assert len(one) == 2
    assert [call.started for call in proxy.calls("RunInstances")] == [True, False]
    assert await refusal(launch(ec2, 1, 3, ClientToken="once" + proxy.url)) == "IdempotentParameterMismatch"
    assert len(proxy.instances) == 2


async def test_the_most_come_or_as_many_as_there_are(proxy: AwsProxy, ec2: Any) -> None:
    assert len(await launch(ec2, 1, 5)) == 5
    proxy.run_dry("m5.large", left=2)
    assert len(await launch(ec2, 1, 5)) == 2
    assert await refusal(launch(ec2)) == "InsufficientInstanceCapacity"
    assert len(await launch(ec2, InstanceType="c5.large")) == 1
    proxy.refill()
    assert len(await launch(ec2)) == 1


async def test_spells_know_zones_by_subnet_and_markets(proxy: AwsProxy, ec2: Any) -> None:
    subnets = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in (await ec2.describe_subnets())["Subnets"]}
    proxy.run_dry(zone=f"{REGION}a", market="spot")
    spot: Any = {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert await refusal(launch(ec2, SubnetId=subnets[f"{REGION}a"], **spot)) == "InsufficientInstanceCapacity"
    assert len(await launch(ec2, SubnetId=subnets[f"{REGION}a"])) == 1
    (found,) = await launch(ec2, SubnetId=subnets[f"{REGION}b"], **spot)
    assert proxy.instances[found].pool.zone == f"{REGION}b"
    assert list(await seen(ec2, Filters=[{"Name": "instance-lifecycle", "Values": ["spot"]}]))[-1:] == [found]


async def test_errors_on_demand(proxy: AwsProxy, ec2: Any) -> None:
    proxy.refuse("RunInstances", "UnauthorizedOperation", "You may not", status=403, times=2)
    assert await refusal(launch(ec2)) == "UnauthorizedOperation"
    assert await refusal(launch(ec2)) == "UnauthorizedOperation"
    assert len(await launch(ec2)) == 1
    proxy.refuse("DescribeInstances", "RequestLimitExceeded", status=503, times=None)
    assert await refusal(ec2.describe_instances()) == "RequestLimitExceeded"
    assert await refusal(ec2.describe_instances()) == "RequestLimitExceeded"
    proxy.relent()
    assert await ec2.describe_instances()


async def test_errors_of_other_services(proxy: AwsProxy) -> None:
    async with client(proxy, "ssm") as ssm:
        await ssm.put_parameter(Name="/a", Value="1", Type="String", Overwrite=True)
        proxy.refuse("GetParameter", "AccessDeniedException", "not yours")
        assert await refusal(ssm.get_parameter(Name="/a")) == "AccessDeniedException"
        assert (await ssm.get_parameter(Name="/a"))["Parameter"]["Value"] == "1"


async def test_a_lost_reply_leaves_the_instance_there(proxy: AwsProxy, ec2: Any) -> None:
    proxy.lose_reply("RunInstances")
    with pytest.raises((HTTPClientError, EndpointConnectionError)):
        await launch(ec2, ClientToken="lost" + proxy.url)
    (there,) = proxy.instances
    assert await launch(ec2, ClientToken="lost" + proxy.url) == [there]
    proxy.lose_request("RunInstances")
    with pytest.raises((HTTPClientError, EndpointConnectionError)):
        await launch(ec2)
    assert list(proxy.instances) == [there]
    assert [call.outcome for call in proxy.calls("RunInstances")] == ["lost reply", "ok", "lost request"]


async def test_new_instances_are_invisible_and_pending_at_first(proxy: AwsProxy, ec2: Any) -> None:
    proxy.faults = Faults(invisible_s=1000, pending_s=1000)
    (found,) = await launch(ec2)
    assert found not in await seen(ec2)
    assert await refusal(ec2.describe_instances(InstanceIds=[found])) == "InvalidInstanceID.NotFound"
    (other,) = await launch(ec2)
    proxy.instances[other].visible_at = 0
    assert await refusal(ec2.terminate_instances(InstanceIds=[other, found])) == "InvalidInstanceID.NotFound"
    assert proxy.instances[other].live
    proxy.instances[found].visible_at = 0
    assert (await seen(ec2, InstanceIds=[found])) == {found: "pending"}
    pending = [{"Name": "instance-state-name", "Values": ["pending"]}]
    assert found in await seen(ec2, Filters=pending)
    proxy.instances[found].running_at = 0
    assert found not in await seen(ec2, Filters=pending)
    assert (await seen(ec2, InstanceIds=[found])) == {found: "running"}


async def test_the_end_is_told_and_takes_its_time(proxy: AwsProxy, ec2: Any) -> None:
    ended: list[Ec2Instance] = []
    proxy.on_terminate = ended.append
    proxy.faults = Faults(shutting_s=1000)
    asked, taken, quit_ = await launch(ec2, 1, 3)
    answer = await ec2.terminate_instances(InstanceIds=[asked])
    assert answer["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"
    await ec2.terminate_instances(InstanceIds=[asked])
    await proxy.lose(taken)
    await proxy.shut_down(quit_)
    assert [instance.id for instance in ended] == [asked, taken, quit_]
    shutting = [{"Name": "instance-state-name", "Values": ["shutting-down"]}]
    assert {asked, taken, quit_} <= set(await seen(ec2, Filters=shutting))
    described = (await ec2.describe_instances(InstanceIds=[taken]))["Reservations"][0]["Instances"][0]
    assert described["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    proxy.instances[asked].gone_at = 0
    assert (await seen(ec2, InstanceIds=[asked])) == {asked: "terminated"}
    assert proxy.live() == []


async def test_hooks_hear_tags_and_user_data(proxy: AwsProxy, ec2: Any) -> None:
    heard: list[tuple[Ec2Instance, str]] = []
    proxy.on_launch = lambda instance, user_data: heard.append((instance, user_data))
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "nats-launch:queue", "Value": "q"}]}]
    (found,) = await launch(ec2, UserData="#!/bin/sh\necho hi\n", TagSpecifications=tags)
    ((instance, user_data),) = heard
    assert (instance.id, user_data, instance.tags) == (found, "#!/bin/sh\necho hi\n", {"nats-launch:queue": "q"})
    assert proxy.live(nats_launch_queue="q") == [instance]
    assert proxy.live(nats_launch_queue="other") == []
    assert await refusal(launch(ec2, UserData="x" * 16385)) == "InvalidParameterValue"


async def test_the_console_says_what_the_test_does(proxy: AwsProxy, ec2: Any) -> None:
    (found,) = await launch(ec2)
    assert (await ec2.get_console_output(InstanceId=found)).get("Output", "") == ""
    proxy.console[found] = "docker: manifest unknown"
    assert (await ec2.get_console_output(InstanceId=found))["Output"] == "docker: manifest unknown"


async def test_a_seed_repeats(proxy: AwsProxy, ec2: Any, moto_server: MotoServer) -> None:
    faults = Faults(seed=3, throttled=0.3, no_capacity=0.3, partial=0.5, quota=0.1)

    async def story(one: AwsProxy, asked: Any) -> list[tuple[str, int]]:
        one.faults = faults
        for _ in range(12):
            try:
                await launch(asked, 1, 4)
            except ClientError:
                continue
        return [(call.outcome, len(call.instances)) for call in one.log]

    first = await story(proxy, ec2)
    async with AwsProxy(moto_server.url) as other, client(other, "ec2") as asked:
        assert await story(other, asked) == first
    assert {outcome for outcome, _ in first} >= {"ok", "RequestLimitExceeded", "InsufficientInstanceCapacity"}
    assert {count for outcome, count in first if outcome == "ok"} - {4}


async def test_what_is_not_ec2_passes_through(proxy: AwsProxy) -> None:
    async with client(proxy, "s3") as s3, client(proxy, "secretsmanager") as vault:
        name = f"b{proxy.url.rpartition(':')[2]}"
        await s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        await s3.put_object(Bucket=name, Key="k", Body=bytes(range(256)) * 5000)
        assert await (await s3.get_object(Bucket=name, Key="k"))["Body"].read() == bytes(range(256)) * 5000
        await vault.create_secret(Name=name, SecretString="s")
        assert (await vault.get_secret_value(SecretId=name))["SecretString"] == "s"
