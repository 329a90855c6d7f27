"""Who an agent is: the same after a restart, another one beside it, and never two at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.adapters import host
from agent.adapters.host import AgentId, host_name, take_agent_id
from launch.adapters.gpu import gpu_uuids
from launch.errors import LaunchError


@contextmanager
def taken(folder: Path, wanted: str | None = None) -> Iterator[AgentId]:
    identity = take_agent_id(folder, wanted)
    try:
        yield identity
    finally:
        identity.close()


def test_an_id_is_kept_over_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    with taken(folder) as first:
        pass
    with taken(folder) as second:
        assert second.id == first.id
    assert re.fullmatch(rf"{re.escape(host_name())}-[0-9a-f]{{6}}", first.id)


def test_agents_side_by_side_are_different_and_keep_their_ids(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ids = [stack.enter_context(taken(tmp_path)).id for _ in range(3)]
        assert len(set(ids)) == 3
    with taken(tmp_path) as first, taken(tmp_path) as second:
        assert [first.id, second.id] == ids[:2]


def test_another_process_can_not_be_the_same_agent(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.adapters.host import take_agent_id; "
        "from launch.errors import LaunchError\n"
        "try: take_agent_id(Path(sys.argv[1]), 'gpu-1')\n"
        "except LaunchError as error: print(error)"
    )
    with taken(tmp_path, "gpu-1"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
        )
    assert done.stdout == "an agent with the id gpu-1 runs already (stop it first, or choose another id)\n"


def test_a_wanted_id_is_locked_while_it_is_used(tmp_path: Path) -> None:
    with taken(tmp_path, "gpu-1") as identity:
        assert identity.id == "gpu-1"
        with pytest.raises(LaunchError, match="gpu-1 runs already"):
            take_agent_id(tmp_path, "gpu-1")
        with taken(tmp_path, "gpu-2"):
            pass
    with taken(tmp_path, "gpu-1") as again:
        again.close()
        again.close()


@pytest.mark.parametrize("wanted", ["", "a b", "a/b", "../a", "-a", "ü", "a.b", "a" * 129])
def test_what_can_not_be_an_id_is_refused(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(LaunchError, match="is not an agent id"):
        take_agent_id(tmp_path, wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [b"", b"\n", b"../../etc\n", b"\xff\xfe", b"half of a na me\n", b"x" * 300])
def test_a_damaged_file_gets_a_new_id(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "agent-1.id").write_bytes(kept)
    with taken(tmp_path) as first:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", first.id)
        assert (tmp_path / "agent-1.id").read_text() == f"{first.id}\n"


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match=r"can't keep the agent's id in .*file"):
        take_agent_id(tmp_path / "file", None)


def test_a_folder_holds_a_bounded_number_of_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MAX_AGENTS_A_FOLDER", 2)
    with taken(tmp_path), taken(tmp_path), pytest.raises(LaunchError, match=r"2 agents use .* already"):
        take_agent_id(tmp_path, None)


@pytest.mark.parametrize(
    ("found", "shown"), [("gpu-1.example.org", "gpu-1"), ("Büro", "B-ro"), ("...", "host"), ("a" * 99, "a" * 64)]
)
def test_the_hosts_name_fits_an_id(monkeypatch: pytest.MonkeyPatch, found: str, shown: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: found)
    assert host_name() == shown


def test_gpus_are_listed_by_uuid_or_there_are_none() -> None:
    assert all(uuid.startswith("GPU-") for uuid in gpu_uuids())
