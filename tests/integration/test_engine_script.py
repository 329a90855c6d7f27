"""`.ci/engine` runs a command with an engine behind it, and stops the engine only if it started it itself.

An engine started here lives in a network namespace of its own: two in one would take each other's bridge away.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "engine"
LIMIT_S = 50
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "--preserve-env")
APART = (*AS_ROOT, "unshare", "--net")
STOPS_WITH_9 = """
import signal, sys
def stop(*_):
    print("asked to stop", flush=True)
    sys.exit(9)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
signal.pause()
"""


def run_engine(
    *command: str, environment: dict[str, str] | None = None, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the script with a command; `before` is what runs the script."""
    return subprocess.run(
        [*before, str(SCRIPT), "run", "--", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        input="from stdin\n",
        env={**os.environ, **(environment or {})},
    )


@pytest.fixture
def second_engine(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which no engine answers and one can be started beside this machine's own."""
    # A socket's path may have 107 characters, which a test's own directory can exceed.
    socket = tmp_path / "docker.sock"
    if len(str(socket)) > 100:
        pytest.fail(f"the temporary directory's name is too long for a socket: {socket}", pytrace=False)
    data, state = tmp_path / "data", tmp_path / "exec"
    yield {
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKERD_ARGS": f"--data-root {data} --exec-root {state}",
    }
    # They are root's, and would stay where pytest is not.
    subprocess.run([*AS_ROOT, "rm", "-rf", str(data), str(state)], check=True, timeout=LIMIT_S)


def test_an_engine_that_answers_is_used_and_left(engine_url: str) -> None:
    done = run_engine("sh", "-c", "read line; echo got $line; exit 7")
    assert (done.returncode, done.stdout) == (7, "got from stdin\n")
    assert f"using the engine at {engine_url}" in done.stderr
    assert "stopping" not in done.stderr


def test_an_engine_started_here_is_stopped_whatever_the_command_does(second_engine: dict[str, str]) -> None:
    done = run_engine(
        "sh", "-c", 'docker info --format "{{.ServerVersion}}" && exit 3', environment=second_engine, before=APART
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip()
    assert "starting dockerd" in done.stderr
    assert "stopping dockerd" in done.stderr
    assert not Path(second_engine["DOCKER_HOST"].removeprefix("unix://")).exists()


def test_a_signal_reaches_the_command_and_the_engine_is_stopped(second_engine: dict[str, str]) -> None:
    script = subprocess.Popen(
        [*APART, str(SCRIPT), "run", "--", "python3", "-c", STOPS_WITH_9],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **second_engine},
    )
    assert script.stdout is not None
    try:
        assert script.stdout.readline() == "ready\n"
    finally:
        # Whatever else went wrong, this ends it: also where the script is root's.
        script.send_signal(signal.SIGTERM)
        rest, _ = script.communicate(timeout=LIMIT_S)
    assert rest == "asked to stop\n"
    assert script.returncode == 9
    assert not Path(second_engine["DOCKER_HOST"].removeprefix("unix://")).exists()


def test_an_engine_that_cannot_start_says_why_in_one_line(second_engine: dict[str, str]) -> None:
    environment = {**second_engine, "DOCKERD_ARGS": "--no-such-flag"}
    done = run_engine("true", environment=environment, before=APART)
    assert done.returncode == 1
    assert "dockerd ended before it answered" in done.stderr
    assert "no-such-flag" in done.stderr
