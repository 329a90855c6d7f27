"""What is particular to agents as local processes; the rest is in the contract suite."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path

import psutil
import pytest

from launch.adapters.clock import SystemClock
from launch.core.capacity import Amount
from launch.queue import LocalProvider as LocalSpec
from launch.queue import QueueSpec
from scaler.adapters.local import LocalProvider
from scaler.adapters.local_files import LocalFiles, Note
from scaler.adapters.local_login import LoginOf, agent_login, as_the_scaler
from scaler.core.instance import InstanceState, StopMode
from scaler.ports import ProviderUnavailable, ProviderUnsuitable
from tests.unit.scaler.launching import launch
from tests.unit.scaler.stub_agent import StubAgents

SPEC = QueueSpec(queue_name="work", max_instances=4, provider=LocalSpec(cpu=2.5, memory=3 * 1024**3))


class Bench:
    """Stub agents and a data directory."""

    def __init__(self, directory: Path) -> None:
        self.stubs = StubAgents(directory / "stubs.sock")
        self.data_dir = directory / "data"
        self.files = LocalFiles(self.data_dir, "work")
        self.opened: list[LocalProvider] = []

    async def open(
        self,
        *,
        queue: str = "work",
        patience: int = 0,
        server_url: str = "nats://h:4222",
        command: list[str] | None = None,
        login_of: LoginOf = as_the_scaler,
    ) -> LocalProvider:
        provider = await LocalProvider.open(
            queue,
            data_dir=self.data_dir,
            server_url=server_url,
            clock=SystemClock(),
            command=command or self.stubs.command(patience=patience),
            login_of=login_of,
        )
        self.opened.append(provider)
        return provider


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.stubs.start()
    yield made
    await made.stubs.close()
    for provider in made.opened:
        await provider.close()


def note(agent_id: str, pid: int | None, created: float = 0.0) -> Note:
    return Note(
        agent_id=agent_id, queue="work", token="t", capacity=Amount(slots=1), launched_at=SystemClock().now(), pid=pid,
        created=created,
    )  # fmt: skip


async def test_the_command_line_says_what_the_agent_offers(bench: Bench) -> None:
    provider = await bench.open()
    (instance,) = await launch(provider, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    arguments = bench.stubs.arguments[instance.agent_id]
    assert dict(zip(arguments[::2], arguments[1::2], strict=True)) == {
        "--queue": "work",
        "--agent-id": instance.agent_id,
        "--data-dir": str(bench.data_dir / "agents" / instance.agent_id),
        "--cpu": "2.5",
        "--memory": "3Gi",
        "--gpus": "none",
        "--max-jobs": "2",
        "--server": "nats://h:4222",
    }
    assert "stub is up" in bench.files.log(instance.agent_id).read_text()


async def test_a_password_is_not_put_on_the_command_line(bench: Bench) -> None:
    provider = await bench.open(server_url="nats://me:secret@h:4222")
    (instance,) = await launch(provider, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    assert "--server" not in bench.stubs.arguments[instance.agent_id]
    pid = bench.files.notes()[0].pid
    assert psutil.Process(pid).environ()["NATS_URL"] == "nats://me:secret@h:4222"


@pytest.mark.parametrize(
    ("text", "variable"), [("-----BEGIN NATS USER JWT-----\n", "NATS_CREDS"), ("SUAB\n", "NATS_NKEY")]
)
async def test_an_agent_has_its_own_login_and_not_the_scalers(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, variable: str
) -> None:
    scalers = {"NATS_CREDS": "/s", "NATS_NKEY": "/s", "NATS_USER": "s", "NATS_PASSWORD": "s", "NATS_INBOX_PREFIX": "s"}
    for name, value in scalers.items():
        monkeypatch.setenv(name, value)
    login = tmp_path / "agent.login"
    login.write_text(text)
    spec = QueueSpec(queue_name="work", provider=LocalSpec(credentials=str(login)))
    provider = await bench.open(
        server_url="nats://scaler:secret@h:4222,nats://scaler:secret@i:4222",
        login_of=partial(agent_login, data_dir=bench.data_dir, server_url="", own_fits=False),
    )
    (instance,) = await launch(provider, spec, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    arguments = bench.stubs.arguments[instance.agent_id]
    assert arguments[arguments.index("--server") + 1] == "nats://h:4222,nats://i:4222"
    found = psutil.Process(bench.files.notes()[0].pid).environ()
    assert {name: found[name] for name in scalers if name in found} == {variable: str(login)}
    login.unlink()
    with pytest.raises(ProviderUnsuitable, match=r"agents of queue work are to log in by .*agent\.login"):
        await provider.propose(spec, 1)
    with pytest.raises(ProviderUnsuitable, match=r"none is there for agents .*provider\.credentials"):
        await provider.propose(SPEC, 1)


async def test_an_agent_finds_the_secrets_and_the_policy_that_the_scaler_was_given(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"LAUNCH_SECRET_WANDB_KEY": "value", "LAUNCH_SECRETS": "env", "LAUNCH_AGENT_POLICY": "/etc/x.yaml"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    provider = await bench.open()
    (instance,) = await launch(provider, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    pid = bench.files.notes()[0].pid
    assert given.items() <= psutil.Process(pid).environ().items()


async def test_an_agent_is_in_a_session_of_its_own(bench: Bench) -> None:
    provider = await bench.open()
    await launch(provider, SPEC, 1, "a")
    pid = bench.files.notes()[0].pid
    assert pid is not None
    assert os.getsid(pid) == pid != os.getsid(0)


async def test_the_machine_is_divided_by_the_maximum(bench: Bench) -> None:
    provider = await bench.open()
    whole = await provider.capacity(QueueSpec(queue_name="work", max_instances=1))
    half = await provider.capacity(QueueSpec(queue_name="work", max_instances=2, max_jobs_per_agent=7))
    assert whole.cpu_milli == (os.cpu_count() or 1) * 1000
    assert whole.slots == os.cpu_count()
    assert half.cpu_milli == whole.cpu_milli // 2
    assert half.memory_bytes == whole.memory_bytes // 2
    assert half.slots == 7
    tiny = await provider.capacity(QueueSpec(queue_name="work", max_instances=10_000))
    assert tiny.slots == 1


async def test_one_scaler_a_queue_and_machine(bench: Bench) -> None:
    first = await bench.open()
    with pytest.raises(ProviderUnavailable, match="another scaler on this machine works for queue work"):
        await bench.open()
    await bench.open(queue="other")
    await first.close()
    await bench.open()


async def test_a_data_directory_that_cannot_be_used_is_one_clear_error(bench: Bench) -> None:
    bench.data_dir.write_text("a file")
    with pytest.raises(ProviderUnavailable, match=r"can't use .*data"):
        await bench.open()


async def test_a_process_that_got_the_same_pid_is_not_taken_for_the_agent(bench: Bench) -> None:
    """Neither by its pid alone, nor by its pid and start time."""
    await bench.open(queue="other")  # Makes the directories.
    bench.files.write(note("local-1", os.getpid()))
    bench.files.write(note("local-2", os.getpid(), psutil.Process().create_time()))
    provider = await bench.open()
    assert await provider.list() == []
    assert bench.files.notes() == []


async def test_an_agent_whose_start_time_does_not_fit_is_not_taken_over(bench: Bench) -> None:
    """It was started by hand with an old agent's arguments, and got its pid."""
    first = await bench.open()
    (instance,) = await launch(first, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    await first.close()
    (found,) = bench.files.notes()
    bench.files.write(found.model_copy(update={"created": found.created - 100}))
    assert await (await bench.open()).list() == []


async def test_an_agent_that_is_only_just_starting_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows no arguments until the new program is in place."""
    first = await bench.open()
    (instance,) = await launch(first, SPEC, 1, "a")
    await first.close()
    monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])
    assert [found.id for found in await (await bench.open()).list()] == [instance.id]


async def test_agents_of_other_queues_are_left_to_them(bench: Bench) -> None:
    first, other = await bench.open(), await bench.open(queue="other")
    (mine,) = await launch(first, SPEC, 1, "a")
    (theirs,) = await launch(other, SPEC, 1, "a")
    for instance in (mine, theirs):
        await bench.stubs.until_up(instance.agent_id)
    await first.close()
    await other.close()
    assert [instance.id for instance in await (await bench.open()).list()] == [mine.id]
    assert [instance.id for instance in await (await bench.open(queue="other")).list()] == [theirs.id]


async def test_a_start_that_was_not_noted_to_its_end_is_found(bench: Bench) -> None:
    """The scaler died between the start of the process and the completion of the note."""
    first = await bench.open()
    made = await launch(first, SPEC, 2, "a")
    await bench.stubs.until_up(made[0].agent_id)
    await first.close()
    for found in bench.files.notes():
        bench.files.write(found.model_copy(update={"pid": None, "created": 0.0}))
    await bench.stubs.until_up(made[1].agent_id)
    second = await bench.open()
    assert [instance.id for instance in await second.list()] == [instance.id for instance in made]


async def test_a_note_without_a_process_frees_its_number(bench: Bench) -> None:
    await bench.open(queue="other")  # Makes the directories.
    bench.files.write(note("local-1", None))
    provider = await bench.open()
    first, second = await launch(provider, SPEC, 2, "a")
    assert first.agent_id.endswith("-work-1")
    assert second.agent_id.endswith("-work-2")
    await bench.stubs.until_up(first.agent_id)
    await bench.stubs.end(first.agent_id, 1)
    async with asyncio.timeout(10), aclosing(provider.changes()) as changes:
        async for _ in changes:
            if len(await provider.list()) == 1:
                break
    (third,) = await launch(provider, SPEC, 1, "b")
    assert third.agent_id == first.agent_id


async def test_an_exit_is_explained_by_code_and_last_words(bench: Bench) -> None:
    provider = await bench.open(
        command=[sys.executable, "-I", "-S", "-c", "import sys; print('no engine'); sys.exit(3)"]
    )
    async with asyncio.timeout(10), aclosing(provider.changes()) as changes:
        await anext(changes)
        (instance,) = await launch(provider, SPEC, 1, "a")
        await anext(changes)
    story = await provider.explain(instance.id)
    assert story.startswith(f"{instance.id} exited with code 3, its last words: no engine; its log: ")
    assert bench.files.notes() == []


async def test_a_command_that_cannot_be_started_is_unavailable_and_leaves_nothing(bench: Bench) -> None:
    provider = await bench.open(command=[str(bench.data_dir / "nowhere")])
    with pytest.raises(ProviderUnavailable, match="can't start an agent: No such file"):
        await launch(provider, SPEC, 1, "a")
    assert bench.files.notes() == []


async def test_the_next_scaler_does_not_hurry_an_agent_that_drains(bench: Bench) -> None:
    """Its first SIGTERM came from the one before."""
    first = await bench.open(patience=1)
    (instance,) = await launch(first, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    await first.stop(instance.id, StopMode.DRAIN)
    await first.close()
    second = await bench.open()
    assert (await second.list())[0].state is InstanceState.STOPPING
    assert await second.drain(0.05) == [instance.id]
    await bench.stubs.until_terms(instance.agent_id, 1)
    assert await second.force(10.0) == []


async def test_sigkill_is_for_what_ignores_sigterm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.local.KILL_GRACE_S", 0.05)
    provider = await bench.open(patience=99)
    (instance,) = await launch(provider, SPEC, 1, "a")
    await bench.stubs.until_up(instance.agent_id)
    await provider.stop(instance.id, StopMode.DRAIN)
    assert await provider.force(0.05) == [instance.id]
    assert (await provider.list())[0].state is InstanceState.STOPPING
    await provider.stop(instance.id, StopMode.KILL)
    assert "exited with code -9" in await provider.explain(instance.id)


async def test_agents_outlive_a_scaler_that_is_killed(bench: Bench) -> None:
    """Really killed: another Python process, SIGKILL."""
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from launch.adapters.clock import SystemClock
from launch.queue import QueueSpec
from scaler.adapters.local import LocalProvider
from tests.unit.scaler.launching import launch
async def main():
    provider = await LocalProvider.open("work", data_dir=Path({str(bench.data_dir)!r}), server_url="nats://h:4222",
        clock=SystemClock(), command={bench.stubs.command()!r})
    await launch(provider, QueueSpec(queue_name="work"), 2, "a")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    scaler = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=subprocess.DEVNULL)
    assert await scaler.wait() == -9
    provider = await bench.open()
    found = await provider.list()
    assert len(found) == 2
    for instance in found:
        await bench.stubs.until_up(instance.agent_id)
    assert await provider.drain(10.0) == []


async def test_gpus_are_shared_out_and_none_is_two_agents(bench: Bench) -> None:
    provider = await bench.open()
    provider._gpus = ("GPU-a", "GPU-b", "GPU-c")
    spec = SPEC.model_copy(update={"max_instances": 3})
    assert (await provider.capacity(spec)).gpus == 1
    made = await launch(provider, spec, 3, "a")
    for instance in made:
        await bench.stubs.until_up(instance.agent_id)
    offered = [bench.stubs.arguments[instance.agent_id] for instance in made]
    assert sorted(said[said.index("--gpus") + 1] for said in offered) == ["GPU-a", "GPU-b", "GPU-c"]
