"""Files of jobs in S3 (moto's): queues that keep theirs there, prefixes as inputs, and an S3 that is away."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from launch.core.states import Reason, State
from launch.files import Manifest
from launch.queue import QueueSpec
from launch.subjects import checkpoint_name
from tests.integration.agent_lab import Lab
from tests.support.moto import REGION, MotoServer

pytestmark = [pytest.mark.docker, pytest.mark.nats]


@pytest.fixture
def bucket(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    made = f"b-{secrets.token_hex(5)}"
    location = {"LocationConstraint": REGION}
    moto_server.client("s3").create_bucket(Bucket=made, CreateBucketConfiguration=location)
    return made


async def keep_in(lab: Lab, where: str) -> None:
    await lab.client.queues.apply(QueueSpec(queue_name=lab.queue, artifacts=where))


def sh(script: str, **spec: Any) -> dict[str, Any]:
    return {"command": ["sh", "-ec", script], **spec}


async def test_a_queue_may_keep_its_files_in_s3(lab: Lab, bucket: str, moto_server: MotoServer) -> None:
    await keep_in(lab, f"s3://{bucket}/mine")
    s3 = moto_server.client("s3")
    script = """
        cd $LAUNCH_CHECKPOINT; cat c 2>/dev/null || true; echo kept >c.new; mv c.new c
        echo $LAUNCH_ATTEMPT >$LAUNCH_ARTIFACTS/a; mkdir $LAUNCH_ARTIFACTS/deep; echo b >$LAUNCH_ARTIFACTS/deep/b
        [ $LAUNCH_ATTEMPT = 2 ]
    """
    async with lab.agent():
        job = await lab.submit(**sh(script, retries=2))
        record = await lab.ended(job)
        assert (record.state, record.attempt, record.message) == (State.SUCCEEDED, 2, "exited with code 0")
        assert await lab.output(job) == b"kept\n"
        assert record.artifacts is not None
        assert record.artifacts.where == f"s3://{bucket}/mine"
        body = s3.get_object(Bucket=bucket, Key=f"mine/{record.artifacts.manifest}")["Body"].read()
        files = {file.path: file.name for file in Manifest.model_validate_json(body).files}
        assert sorted(files) == ["a", "deep/b"]
        assert s3.get_object(Bucket=bucket, Key=f"mine/{files['a']}")["Body"].read() == b"2\n"
        keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]]
        assert not any(f"mine/{checkpoint_name(job, record.submitted_at, attempt)}" in keys for attempt in (1, 2))
        # As another job's inputs, by its id and by the prefix.
        inputs = [{"job": str(job), "path": "/a"}, {"s3": f"s3://{bucket}/mine", "path": "/b"}]
        last = await lab.ended(await lab.submit(**sh(f"cat /a/deep/b /b/{files['deep/b']}", inputs=inputs)))
        assert last.state is State.SUCCEEDED, last.message
        assert await lab.output(last.id) == b"b\nb\n"


async def test_a_prefix_goes_to_a_folder_of_its_own_name(lab: Lab, bucket: str, moto_server: MotoServer) -> None:
    s3 = moto_server.client("s3")
    for key, body in {"data/v1/x": b"x\n", "data/v1/deep/y": b"y\n", "data/v1/empty/": b""}.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    async with lab.agent():
        script = "cd $LAUNCH_INPUTS/v1; cat x deep/y"
        job = await lab.submit(**sh(script, user="1000", inputs=[{"s3": f"s3://{bucket}/data/v1"}]))
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    assert await lab.output(job) == b"x\ny\n"


@pytest.mark.parametrize(("where", "words"), [("nothing/here", "nothing under"), (None, "bucket")])
async def test_a_prefix_that_is_not_there_is_the_submitters_to_mend(
    lab: Lab, bucket: str, where: str | None, words: str
) -> None:
    url = f"s3://{bucket}/{where}" if where else f"s3://{bucket}-none/x"
    async with lab.agent():
        record = await lab.ended(await lab.submit(command=["true"], inputs=[{"s3": url}], retries=2))
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.INVALID_SPEC, 1)
    assert record.message is not None
    assert words in record.message


async def test_a_bucket_that_refuses_leaves_the_end_as_it_is(lab: Lab, bucket: str) -> None:
    await keep_in(lab, f"s3://{bucket}-none")
    async with lab.agent():
        record = await lab.ended(await lab.submit(**sh("echo x >$LAUNCH_ARTIFACTS/a; exit 3")))
    assert (record.reason, record.exit_code) == (Reason.EXIT_NONZERO, 3)
    assert record.artifacts is not None
    assert record.artifacts.error is not None
    assert record.message is not None
    assert record.message.endswith(f"; artifacts: {record.artifacts.error}")


async def test_a_file_that_s3_refuses_is_left_out_and_the_others_are_kept(
    lab: Lab, bucket: str, moto_server: MotoServer
) -> None:
    where = f"s3://{bucket}/{'p' * 700}"
    await keep_in(lab, where)
    long = "/".join(["d" * 90] * 4)
    script = f"cd $LAUNCH_ARTIFACTS; echo x >a; mkdir -p {long}; echo x >{long}/b; echo x >z"
    async with lab.agent():
        record = await lab.ended(await lab.submit(**sh(script)))
    assert record.state is State.SUCCEEDED
    assert record.artifacts is not None
    assert record.artifacts.error is not None
    assert "' was refused: a file's name has" in record.artifacts.error
    key = f"{'p' * 700}/{record.artifacts.manifest}"
    body = moto_server.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    manifest = Manifest.model_validate_json(body)
    assert ([file.path for file in manifest.files], manifest.left_out) == (["a", "z"], (f"{long}/b",))


async def test_an_s3_that_is_away_is_waited_for_as_the_record_says_and_given_up_in_the_end(
    lab: Lab, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("launch.adapters.s3.client.ATTEMPTS", 1)
    await keep_in(lab, f"s3://{bucket}")
    async with lab.agent(store_patience_s=2.0):
        job = await lab.submit(**sh("echo x >$LAUNCH_ARTIFACTS/a"))
        waits = await lab.until(job, lambda record: record.state is State.RUNNING and bool(record.message))
        assert waits.message is not None
        assert waits.message.startswith(f"its container has exited; waiting for s3://{bucket} to take its artifacts: ")
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED
    assert record.artifacts is not None
    assert record.artifacts.error is not None
    assert json.loads(record.model_dump_json())["artifacts"]["manifest"] is None
