"""What an operator deploys works as committed: nats.conf, the agent image, and the compose file, which runs a job.

Nothing here needs an image registry: the server's image is made of the embedded extra's binary, and the agent's of this
system's own Python. One compose project with a name of its own, removed with its volumes at the end.
"""

import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, images
from tests.support.nats_server import server_binary

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = str(Path(sys.executable).with_name("launch"))
AGENT_IMAGE = "launch-test/agent:1"
NATS_IMAGE = "launch-test/nats:1"
BUILD_LIMIT_S = 240
UP_LIMIT_S = 60


def run(
    *command: str, limit_s: float = 60, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout and return it ended, whatever its exit code."""
    return subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )


def succeed(*command: str, limit_s: float = 60, environment: dict[str, str] | None = None) -> str:
    """Run a command that has to succeed; return its stdout."""
    done = run(*command, limit_s=limit_s, environment=environment)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def free_port() -> int:
    """Return a TCP port that nothing listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_the_server_accepts_the_configuration() -> None:
    done = run(server_binary(), "-t", "-c", "nats.conf")
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stderr + done.stdout


def test_the_configuration_keeps_to_this_machine_with_jetstream_on(tmp_path: Path) -> None:
    port, monitor = free_port(), free_port()
    server = subprocess.Popen(
        [server_binary(), "-c", str(ROOT / "nats.conf"), "-p", str(port), "-m", str(monitor)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        log = []
        for line in server.stderr:
            log.append(line)
            if "Server is ready" in line:
                break
        assert any(f"Listening for client connections on 127.0.0.1:{port}" in line for line in log), log
        connection = http.client.HTTPConnection("127.0.0.1", monitor, timeout=10)
        connection.request("GET", "/varz")
        variables: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert variables["host"] == "127.0.0.1"
    assert variables["jetstream"]["config"]["store_dir"].startswith("nats-data")
    assert (tmp_path / "nats-data").is_dir()


@pytest.fixture(scope="module")
def agent_image(engine_url: str) -> str:
    """The agent image as `make image` builds it, on a base made here."""
    succeed(".ci/agent-image", "local", AGENT_IMAGE, limit_s=BUILD_LIMIT_S)
    return AGENT_IMAGE


def in_image(image: str, *arguments: str) -> str:
    """Run `launch` in the image with nothing around it; return its stdout."""
    return succeed("docker", "run", "--rm", "--network", "none", image, *arguments)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_agent_image_runs_launch_and_is_not_root(agent_image: str) -> None:
    assert in_image(agent_image, "--version").strip()
    assert "--queue" in in_image(agent_image, "agent", "--help")
    config = engine.get(f"/images/{agent_image}/json")["Config"]
    assert config["User"] not in ("", "root", "0")
    assert config["Entrypoint"] == ["launch"]


class Composed:
    """A running compose project and how to reach it."""

    def __init__(self, project: str, port: int, queue: str, data_dir: Path) -> None:
        """Name the project; nothing is started yet."""
        self.queue = queue
        self._project = project
        self._environment = {
            "NATS_URL": f"nats://127.0.0.1:{port}",
            "LAUNCH_DATA_DIR": str(data_dir),
            "NATS_PORT": str(port),
            "NATS_IMAGE": NATS_IMAGE,
            "LAUNCH_IMAGE": AGENT_IMAGE,
            "LAUNCH_QUEUE": queue,
            "DOCKER_GID": str(Path(engine.docker_host().removeprefix("unix://")).stat().st_gid),
        }

    def compose(self, *arguments: str) -> str:
        """Run a compose command on the project."""
        return succeed(".ci/compose", "-p", self._project, *arguments, limit_s=120, environment=self._environment)

    def launch(self, *arguments: str) -> str:
        """Run `launch` on this machine, as a user of the project's server does."""
        return succeed(LAUNCH, *arguments, environment=self._environment)

    def await_server(self) -> None:
        """Return once the server accepts clients, within a bound."""
        address = ("127.0.0.1", int(self._environment["NATS_PORT"]))
        deadline = time.monotonic() + UP_LIMIT_S
        while time.monotonic() < deadline:
            # The engine's proxy accepts before the server does: only the server's greeting counts.
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as connection:
                connection.settimeout(5)
                if connection.recv(5) == b"INFO ":
                    return
        pytest.fail(f"no server within {UP_LIMIT_S} s:\n{self.compose('logs', '--no-color')}")

    def agents(self) -> list[dict[str, Any]]:
        """Return the agents that are present; none while the server is still starting."""
        done = run(LAUNCH, "agents", "--json", environment=self._environment)
        return list(json.loads(done.stdout)) if done.returncode == 0 else []

    def await_agents(self) -> list[dict[str, Any]]:
        """Return the agents once there are any, within a bound."""
        deadline = time.monotonic() + UP_LIMIT_S
        while time.monotonic() < deadline:
            if agents := self.agents():
                return agents
        pytest.fail(f"no agent within {UP_LIMIT_S} s:\n{self.compose('logs', '--no-color')}")


@pytest.fixture
def composed(agent_image: str, queue_name: str, queue_containers: str, tmp_path: Path) -> Iterator[Composed]:
    """The compose file's three services, brought up as its first lines say; down with their volumes at the end."""
    images.build("nats", NATS_IMAGE)
    project = Composed(f"launch-test-{secrets.token_hex(4)}", free_port(), queue_name, tmp_path)
    try:
        project.compose("up", "--detach", "nats")
        project.await_server()
        queue_file = tmp_path / "queue.yaml"
        queue_file.write_text(f"queue_name: {queue_name}\nprovider:\n  type: static\n")
        project.launch("queue", "apply", str(queue_file))
        project.compose("up", "--detach")
        yield project
    finally:
        with contextlib.suppress(AssertionError):
            project.compose("kill", "--signal", "SIGKILL")
        project.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_composed_services_run_a_job(composed: Composed, busybox_image: str, tmp_path: Path) -> None:
    composed.await_agents()
    job_file = tmp_path / "job.yaml"
    job_file.write_text(f"job_type: greet\nimage: {busybox_image}\ncommand: [echo, hello from compose]\n")

    log = composed.launch("submit", "--queue", composed.queue, "--config", str(job_file), "--follow")

    assert "hello from compose" in log
    record = json.loads(composed.launch("show", f"{composed.queue}/1", "--json"))
    assert (record["state"], record["exit_code"]) == ("succeeded", 0)
    states = composed.compose("ps", "--services", "--filter", "status=running").split()
    assert sorted(states) == ["agent", "nats", "scaler"]
