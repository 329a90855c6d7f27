"""Secrets on the real broker and engine: they reach the container, and nothing else that anybody may read.

`Ears` hears every message that the server carries, its own buckets' included: the queue, records, presence, logs,
metrics. That and the agent's log at its most talkative is where a value must never be.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from launch.core.states import Reason, State
from launch.subjects import JobId
from tests.integration.agent_lab import LIMIT_S, Lab, open_lab
from tests.integration.chaos.agents import AgentProcess
from tests.support import engine
from tests.support.moto import MotoServer

pytestmark = [pytest.mark.docker, pytest.mark.nats]

VALUE = "pa55-w0rd/of+this=test"
HIDDEN = "*" * len(VALUE)
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEA\n-----END KEY-----"


@dataclass
class Ears:
    """Every message that was heard, subject and headers with it."""

    heard: list[bytes] = field(default_factory=list)

    def having(self, text: str) -> list[bytes]:
        return [message for message in self.heard if text.encode() in message]


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ears]:
    ears = Ears()
    client = NatsClient()
    await client.connect(url)

    async def note(message: Msg) -> None:
        ears.heard.append(f"{message.subject} {message.headers} ".encode() + message.data)

    await client.subscribe(">", cb=note, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    try:
        yield ears
    finally:
        await client.drain()


@asynccontextmanager
async def agent_process(lab: Lab, *options: str, **env: str) -> AsyncIterator[AgentProcess]:
    """An agent with a log of its own, as talkative as it gets."""
    process = AgentProcess(
        lab.agent_id(),
        lab.queue,
        lab.url,
        lab.folder,
        lab.client,
        ("--presence-ttl", "4s", "--ack-wait", "3s", *options),
        {"LAUNCH_LOG_LEVEL": "debug", "LAUNCH_LOG_FORMAT": "console", "PYTHONASYNCIODEBUG": "1", **env},
    )
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


async def cli(lab: Lab, *arguments: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "launch", *arguments, "--server", lab.url],
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "HOME": str(lab.folder)},
    )
    return done.stdout


def secret(name: str) -> dict[str, str]:
    return {"secret": name}


# -- into the container --------------------------------------------------------------------------------------------


async def test_secrets_of_each_source_reach_the_container(
    lab: Lab, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**moto_server.env, "LAUNCH_SECRET_OF_ENV": "value-of-env"}.items():
        monkeypatch.setenv(name, value)
    folder = lab.folder / "secrets"
    folder.mkdir()
    (folder / "of-dir").write_text("value-of-dir\n")
    (folder / "of-env").write_text("never asked for")
    prefix = f"{lab.queue}/"
    moto_server.client("ssm").put_parameter(Name=f"/{prefix}of-ssm", Value="value-of-ssm", Type="SecureString")
    moto_server.client("secretsmanager").create_secret(Name=f"{prefix}of-manager", SecretString="value-of-manager")
    sources = ("env", f"dir:{folder}", f"ssm:/{prefix}", f"secretsmanager:{prefix}")
    names = {"A": "of-env", "B": "of-dir", "C": "of-ssm", "D": "of-manager"}
    async with lab.agent(secrets=sources):
        job = await lab.submit(
            command=["sh", "-c", "for v in $A $B $C $D; do echo $v | sha256sum; done; echo $PLAIN $LAUNCH_JOB"],
            env={**{variable: secret(name) for variable, name in names.items()}, "PLAIN": "0.001"},
        )
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    # Hashed, since the values themselves would be masked.
    sums = [hashlib.sha256(b"value-%b\n" % name.encode()).hexdigest() + "  -" for name in names.values()]
    assert (await lab.output(job)).decode().splitlines() == [*sums, f"0.001 {job}"]
    assert record.spec is not None
    assert record.spec.model_dump(mode="json")["env"]["A"] == {"secret": "of-env"}


async def test_a_queues_defaults_may_name_secrets(
    nats_url: str,
    queue_name: str,
    queue_containers: str,
    busybox_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUNCH_SECRET_TEAM_KEY", VALUE)
    defaults = {"env": {"KEY": secret("team-key"), "OTHER": secret("team-key")}}
    async with open_lab(nats_url, queue_name, busybox_image, tmp_path, defaults=defaults) as lab, lab.agent():
        job = await lab.submit(command=["sh", "-c", "echo $KEY; echo ${#KEY} $OTHER"], env={"OTHER": "own"})
        record = await lab.ended(job)
        assert record.state is State.SUCCEEDED, record.message
        assert await lab.output(job) == f"{HIDDEN}\n{len(VALUE)} own\n".encode()


async def test_a_job_gets_no_other_variable_of_the_agent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH_SECRET_KEY", VALUE)
    monkeypatch.setenv("OF_THE_AGENT", "not yours")
    async with lab.agent():
        job = await lab.submit(command=["env"], env={"A": secret("key")})
        await lab.ended(job)
        denied = await lab.ended(await lab.submit(command=["env"], env={"A": secret("OF_THE_AGENT")}))
    output = (await lab.output(job)).decode()
    assert f"A={HIDDEN}\n" in output
    assert "OF_THE_AGENT" not in output
    assert "LAUNCH_SECRET" not in output
    assert denied.reason is Reason.INVALID_SPEC


# -- when there is none --------------------------------------------------------------------------------------------


async def test_a_missing_secret_fails_at_once_and_says_what_was_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCH_SECRET_KEY", VALUE)
    async with lab.agent(secrets=("env", f"dir:{lab.folder}/secrets")):
        job = await lab.submit(
            command=["true"], env={"KEY": secret("key"), "WANDB_API_KEY": secret("wandb-key")}, retries=3
        )
        record = await lab.ended(job)
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.INVALID_SPEC, 1)
    assert record.message is not None
    assert record.message.startswith(
        "secret 'wandb-key' for WANDB_API_KEY not found; "
        f"asked: env (LAUNCH_SECRET_WANDB_KEY), dir:{lab.folder}/secrets/wandb-key; "
    )
    assert lab.containers() == []
    assert await lab.left() == 0


async def test_a_source_that_is_away_is_asked_again_and_costs_no_retry(
    lab: Lab, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    moto_server.client("ssm").put_parameter(Name=f"/{lab.queue}/key", Value=VALUE, Type="SecureString")
    source = (f"ssm:/{lab.queue}/",)
    job = await lab.submit(command=["sh", "-c", "echo ${#KEY}"], env={"KEY": secret("key")})
    async with lab.agent(secrets=source):
        record = await lab.until(job, lambda record: record.state is State.QUEUED and record.message is not None)
        assert record.reason is Reason.ENGINE_ERROR
        assert record.message is not None
        assert f"secret 'key' for KEY: ssm:/{lab.queue}/key: AWS can't be reached" in record.message
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.url)
    async with lab.agent(secrets=source):
        record = await lab.ended(job)
    assert (record.state, record.failures) == (State.SUCCEEDED, 0)
    assert record.attempt > 1
    assert await lab.output(job) == f"{len(VALUE)}\n".encode()


# -- nowhere else --------------------------------------------------------------------------------------------------

SHOW = 'echo out $KEY; echo err $KEY >&2; env | grep PEM= ; echo "$PEM"; echo {\\"key\\": \\"$KEY\\"}'

WAYS_TO_END: dict[str, tuple[dict[str, Any], Reason | None]] = {
    "success": ({"command": ["sh", "-c", SHOW]}, None),
    "exit 1 with it as the last word": (
        {"command": ["sh", "-c", f"{SHOW}; printf $KEY; exit 1"]},
        Reason.EXIT_NONZERO,
    ),
    "command not found": ({"command": ["no-such-command"]}, Reason.COMMAND_NOT_FOUND),
    "not executable": ({"command": ["/etc"]}, Reason.COMMAND_NOT_FOUND),
    "shell finds no such command": ({"command": ["sh", "-c", "$KEY"]}, Reason.EXIT_NONZERO),
    "no such user": ({"command": ["true"], "user": "nobody-here"}, Reason.INVALID_SPEC),
    "too little memory": ({"command": ["true"], "resources": {"memory": "1Mi"}}, Reason.INVALID_SPEC),
    "no such image": ({"command": ["true"], "image": "Not A Name"}, Reason.INVALID_SPEC),
    "timed out": ({"command": ["sh", "-c", f"{SHOW}; sleep 60"], "timeout": "500ms"}, Reason.TIMED_OUT),
    "a missing one beside it": (
        {"command": ["true"], "env": {"KEY": secret("key"), "X": secret("nothing")}},
        Reason.INVALID_SPEC,
    ),
}


async def test_a_value_is_nowhere_but_in_the_container_however_the_job_ends(lab: Lab) -> None:
    env = {"LAUNCH_SECRET_KEY": VALUE, "LAUNCH_SECRET_PEM": PEM}
    async with listening(lab.url) as ears, agent_process(lab, **env) as agent:
        ended: dict[str, JobId] = {}
        for name, (spec, reason) in WAYS_TO_END.items():
            job = await lab.submit(**{"env": {"KEY": secret("key"), "PEM": secret("pem")}, **spec})
            record = await lab.ended(job)
            assert record.reason is reason, (name, record.message)
            ended[name] = job
        holding = await lab.submit(command=["sleep", "60"], env={"KEY": secret("key")})
        record = await lab.until(holding, State.RUNNING)
        found = engine.inspect(record.container or "")
        assert f"KEY={VALUE}" in found["Config"]["Env"]
        assert VALUE not in str({**found["Config"], "Env": []}) + str(found["HostConfig"]) + found["Name"]
        for name, job in ended.items():
            shown = (await cli(lab, "show", str(job))) + (await cli(lab, "show", str(job), "--json"))
            history = [entry.model_dump_json() for entry in await lab.client.records.history(job)]
            assert VALUE not in shown + "".join(history), name
        agent.signal(signal.SIGTERM)
        await lab.engine.signal(record.container or "", "SIGKILL")
        assert await agent.ended() == 0
        said = agent.said()
    failed = await lab.client.records.get(ended["exit 1 with it as the last word"])
    assert failed is not None
    assert failed.value.message == f"exited with code 1; last output: {HIDDEN}"
    assert "job ended" in said
    assert ears.having("last output")
    lines = [line for line in PEM.splitlines() if len(line) >= 6]
    for text in (VALUE, VALUE.replace("/", "\\/"), *lines):
        assert text not in said
        assert ears.having(text) == []


# -- in the job's own output ---------------------------------------------------------------------------------------


async def test_what_is_printed_is_masked_byte_for_byte(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH_SECRET_KEY", VALUE)
    monkeypatch.setenv("LAUNCH_SECRET_PEM", PEM)
    script = 'echo "a $KEY b"; echo "$PEM"; printf "%s" "$KEY$KEY"; seq 1 2000; printf "no end $KEY"'
    async with lab.agent():
        job = await lab.submit(command=["sh", "-c", script], env={"KEY": secret("key"), "PEM": secret("pem")})
        assert (await lab.ended(job)).state is State.SUCCEEDED
        shown = await cli(lab, "logs", str(job))
    pem = "\n".join("*" * len(line) for line in PEM.splitlines())
    numbers = "".join(f"{number}\n" for number in range(1, 2001))
    assert shown.rstrip("\n") == f"a {HIDDEN} b\n{pem}\n{HIDDEN}{HIDDEN}{numbers}no end {HIDDEN}"


HOLD = """
echo "before $KEY"; printf "half a line "
trap 'echo "after $KEY"; exit 0' USR1
echo ready >&2; while :; do sleep 0.05; done
"""


async def test_a_restarted_agent_goes_on_masking_what_the_container_was_given(lab: Lab) -> None:
    async with agent_process(lab, LAUNCH_SECRET_KEY=VALUE) as agent:
        job = await lab.submit(command=["sh", "-c", HOLD], env={"KEY": secret("key")})
        await lab.until(job, State.RUNNING)
        await lab.said(job, b"ready")
        await agent.kill()
        # Another value by now, and one that could not even be used: it is not looked up for a container that runs.
        agent.env["LAUNCH_SECRET_KEY"] = "x" * 70_000
        await agent.start()
        await lab.release(job)
        record = await lab.ended(job)
        shown = await cli(lab, "logs", str(job))
        assert (record.state, record.attempt) == (State.SUCCEEDED, 1), record.message
        assert await lab.output(job, "stdout") == f"before {HIDDEN}\nhalf a line after {HIDDEN}\n".encode()
        assert VALUE not in shown
        assert f"after {HIDDEN}" in shown
        assert VALUE not in agent.said()


async def test_the_next_attempt_gets_a_rotated_value(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lab.folder / "secrets"
    folder.mkdir()
    (folder / "key").write_text("the old value")
    async with lab.agent(secrets=(f"dir:{folder}",)):
        script = 'echo ready; [ "${#KEY}" = 15 ] || { while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 1; }'
        job = await lab.submit(command=["sh", "-c", script], env={"KEY": secret("key")}, retries=1)
        await lab.said(job, b"ready")
        (folder / "key").write_text("the newest one!")
        await lab.until(job, State.RUNNING)
        await lab.engine.signal((await lab.until(job, State.RUNNING)).container or "", "SIGKILL")
        record = await lab.ended(job)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 2), record.message
