"""The embedded server, with the real binary: one a data directory, found, shared, and ended by the last that leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch import server
from launch.errors import ServerError


def connects(url: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5) as link:
            return link.recv(4) == b"INFO"
    except OSError:
        return False


def test_it_starts_ready_and_ends(tmp_path: Path) -> None:
    assert server.find_running(tmp_path) is None
    handle = server.start(tmp_path, port=0)
    try:
        assert handle.started_here
        assert connects(handle.info.url)
        assert server.find_running(tmp_path) == handle.info
    finally:
        assert handle.stop()
    assert not connects(handle.info.url)
    assert server.find_running(tmp_path) is None
    assert not (tmp_path / "server.json").exists()


def test_a_second_user_joins_and_the_last_one_ends_it(tmp_path: Path) -> None:
    first = server.start(tmp_path, port=0)
    second = server.start(tmp_path, port=0)
    assert second.info == first.info
    assert not second.started_here
    assert not first.stop(), "the second still uses it"
    assert connects(second.info.url)
    assert second.stop()
    assert first.wait(5)
    assert not connects(second.info.url)


def test_force_ends_it_under_others(tmp_path: Path) -> None:
    first, second = server.start(tmp_path, port=0), server.start(tmp_path, port=0)
    assert second.stop(force=True)
    assert first.wait(5)
    assert first.stop()


def test_it_outlives_its_starter_and_goes_with_the_next_user(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from launch import server; server.start(Path({str(tmp_path)!r}), port=0)"
    subprocess.run([sys.executable, "-c", f"{code}; import os; os._exit(0)"], check=True, timeout=30)
    left = server.find_running(tmp_path)
    assert left is not None
    handle = server.start(tmp_path, port=0)
    assert handle.info == left
    assert not handle.started_here
    assert handle.stop()
    assert not connects(left.url)


def test_many_that_start_at_once_get_one(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from launch import server; h = server.start(Path({str(tmp_path)!r}), port=0)\n"
        "print(h.info.pid, flush=True); input(); h.stop()"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    pids = []
    for starter in starters:
        assert starter.stdout is not None
        pids.append(starter.stdout.readline())
    for starter in starters:
        starter.communicate("\n", timeout=30)
        assert starter.returncode == 0
    assert len(set(pids)) == 1
    assert server.find_running(tmp_path) is None


def test_a_stale_state_file_is_no_server(tmp_path: Path) -> None:
    stale = {"url": "nats://127.0.0.1:1", "pid": os.getpid(), "started_at": 1.0}
    (tmp_path / "server.json").write_text(json.dumps(stale))
    (tmp_path / "server.lock").touch()
    assert server.find_running(tmp_path) is None


def test_a_killed_server_is_started_anew_with_its_store(tmp_path: Path) -> None:
    first = server.start(tmp_path, port=0)
    os.kill(first.info.pid, signal.SIGKILL)
    assert first.wait(5)
    second = server.start(tmp_path, port=0)
    assert second.info.pid != first.info.pid
    assert not first.stop(), "the second uses the store now"
    assert connects(second.info.url)
    assert second.stop()


def test_a_taken_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} .*taken.*LAUNCH_SERVER_PORT=0"):
            server.start(tmp_path, port=port)
    server.start(tmp_path, port=port).stop()


def test_a_store_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("a file where the store should be")
    with pytest.raises(ServerError, match="could not be started") as error:
        server.start(tmp_path, port=0)
    assert "\n" not in str(error.value)
    assert server.find_running(tmp_path) is None


@pytest.mark.parametrize(
    ("flag", "env", "port"), [(None, {}, 4222), (7, {}, 7), (None, {"LAUNCH_SERVER_PORT": "0"}, 0)]
)
def test_the_port_wanted(flag: int | None, env: dict[str, str], port: int) -> None:
    assert server.port_wanted(flag, env) == port


@pytest.mark.parametrize("text", ["x", "-1", "70000", "4222.0"])
def test_no_port(text: str) -> None:
    with pytest.raises(ServerError, match="is not a port"):
        server.port_wanted(None, {"LAUNCH_SERVER_PORT": text})
