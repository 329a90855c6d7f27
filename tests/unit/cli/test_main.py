"""The command line without a broker: help, usage errors, one line for everything that goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from launch.cli.main import COMMANDS, asked_for, command_line


def launch(*args: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS_", "LAUNCH_", "XDG_"))}
    return subprocess.run(
        [sys.executable, "-m", "launch", *args],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        env={**kept, "HOME": str(home), "COLUMNS": "200", **env},
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    done = launch("--help", home=tmp_path)
    assert done.returncode == 0
    commands = [
        "up",
        "submit",
        "jobs",
        "show",
        "logs",
        "metrics",
        "artifacts",
        "wait",
        "cancel",
        "retry",
        "queue",
        "agent",
        "agents",
        "scaler",
        "server",
    ]
    assert all(f"\n  {command} " in done.stdout for command in commands)


@pytest.mark.parametrize(
    ("module", "costly"),
    [
        ("launch.cli.main", ("asyncio", "nats", "pydantic", "rich", "uvloop", "yaml")),
        # What `launch submit` takes.
        ("launch.adapters.nats, launch.client, launch.specfile", ("aiohttp", "multidict", "rich", "structlog", "yaml")),
    ],
)
def test_a_start_is_cheap(module: str, costly: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted({set(costly)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == ""


def test_a_websocket_still_finds_what_it_needs() -> None:
    code = (
        "import launch.adapters.nats, nats.aio.transport as transport\n"
        "assert transport.aiohttp.WSMsgType.BINARY and transport.multidict.CIMultiDict()=={}\n"
        "import aiohttp, multidict\n"
        "assert transport.aiohttp is aiohttp and transport.multidict is multidict"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_version(tmp_path: Path) -> None:
    assert launch("--version", home=tmp_path).stdout.startswith("launch 0.")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("nonsense",),
        ("submit", "--image", "x"),
        ("submit", "-q", "q", "--priority", "urgent"),
        ("--job-type", "t", "--queue", "q"),
        ("--config", "f"),
        ("--queue", "f", "jobs"),
        ("jobs", "--state", "lost"),
        ("jobs", "--watch", "--json"),
        ("wait", "q/1", "--timeout", "soon"),
        ("queue", "delete", "q"),
        ("agent", "-q", "q", "--cpu", "x"),
        ("submit", "-q", "q", "--image", "x", "-e", "NOT_SET_HERE"),
        ("--queue", "No Queue", "--config", "f"),
    ],
)
def test_usage_errors_exit_2(args: tuple[str, ...], tmp_path: Path) -> None:
    done = launch(*args, home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("agent", "-q", "q", "-t", "ok", "-t", "BAD"), "found 'BAD'; allowed: 1 to 63 of a-z, 0-9"),
        (("agent", "-q", "No Queue"), "found 'No Queue'; allowed: 1 to 63"),
        (("submit", "-q", "q", "--image", "x", "-t", "Bad Type"), "found 'Bad Type'; allowed: 1 to 63"),
        (("submit", "-q", "Q", "--image", "x"), "found 'Q'; allowed: 1 to 63"),
        (("jobs", "-q", "Q"), "found 'Q'; allowed: 1 to 63"),
        (("scaler", "-q", "Q"), "found 'Q'; allowed: 1 to 63"),
        (("jobs", "--state", "bogus"), "'--state': found 'bogus'; allowed: queued, preparing, running"),
        (
            ("submit", "-q", "q", "--priority", "bogus"),
            "'--priority': found 'bogus'; allowed: critical, high, medium, low",
        ),
        (("agent", "-q", "q", "--gpus", "GPU-nosuch"), "found GPU-nosuch; this machine has "),
    ],
)
def test_a_usage_error_names_what_is_allowed(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = launch(*args, home=tmp_path, NATS_URL="nats://127.0.0.1:1")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Value error" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("jobs", "--server", ","), "--server names no server (allowed: HOST, HOST:PORT"),
        (("--server", " ", "jobs"), "--server names no server"),
        (("jobs",), "can't reach NATS at nats://127.0.0.1:1"),
        (("show", "nonsense"), "can't reach NATS"),
        (("up", "missing.yaml"), "missing.yaml"),
        (("--queue", "missing.yaml"), "missing.yaml"),
        (("submit", "-q", "q"), "image: found nothing"),
        (("submit", "-q", "q", "-c", "missing.yaml"), "missing.yaml"),
        (("queue", "apply", "missing.yaml"), "missing.yaml"),
    ],
)
def test_every_error_is_one_line(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = launch(*args, home=tmp_path, NATS_URL="nats://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("launch: error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unexpected_error_is_a_line_too_and_a_traceback_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the data directory should be")
    broken = {"LAUNCH_DATA_DIR": str(tmp_path / "data" / "below")}
    done = launch("jobs", home=tmp_path, **broken)
    assert done.returncode == 1
    assert done.stderr.startswith("launch: error: NotADirectoryError")
    assert "LAUNCH_DEBUG=1" in done.stderr
    assert "Traceback" in launch("jobs", home=tmp_path, LAUNCH_DEBUG="1", **broken).stderr


def test_a_source_of_secrets_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    allowed = "allowed: env, dir:/PATH, ssm:/PREFIX/ or secretsmanager:PREFIX/"
    done = launch("agent", "-q", "q", "--secrets", "env", "--secrets", "vault:kv", home=tmp_path)
    assert (done.returncode, f"--secrets: found 'vault:kv'; {allowed}" in done.stderr) == (2, True)
    done = launch("agent", "-q", "q", home=tmp_path, LAUNCH_SECRETS="env dir:relative")
    assert (done.returncode, f"found 'dir:relative'; {allowed} (the path must be absolute)" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("jobs --server s", "jobs"),
        ("--server s jobs", "jobs"),
        ("--server=s --server jobs submit", "submit"),
        ("--server jobs", None),
        ("--queue jobs", None),
        ("--help jobs", None),
        ("--server", None),
        ("jobz", None),
        ("", None),
    ],
)
def test_only_what_is_asked_for_is_made(line: str, asked: str | None) -> None:
    assert asked_for(line.split()) == asked


def test_a_command_alone_is_as_among_all() -> None:
    for name in COMMANDS:
        alone, among = (typer.main.get_group(command_line(only)).commands for only in (name, None))
        assert list(alone) == [name]
        assert [option.name for option in alone[name].params] == [option.name for option in among[name].params]
        assert set(among) == set(COMMANDS)
