"""The boot script: what is in it, and what it does where Docker, AWS and the power switch are stand-ins.

The test fleet runs it with real agents (`tests/integration/test_fleet.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from scaler.adapters.aws.userdata import MAX_BYTES, Boot, user_data

BASH = "/bin/bash"
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
BOOT = Boot(
    queue="gpu", image="example/agent:1", region="us-east-1", server="ssm:/nats/url", credentials="ssm:/nats/creds"
)
POLICY = '{"secrets":["it\'s/$HOME/`here`"]}'
FULL = replace(
    BOOT, image=f"{ECR}/agent:1", gpus=4, job_types=("a", "b"), max_jobs=3, secrets=("ssm:/jobs/",),
    reserve_bytes=2**29, labels={"why": "it's $HOME `here`"}, extra="echo hello\nfalse\n", policy=POLICY,
)  # fmt: skip


@pytest.mark.parametrize("boot", [BOOT, FULL])
def test_the_script_is_sound(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "boot"
    path.write_text(user_data(boot))
    subprocess.run([BASH, "-n", path], check=True, timeout=10)
    if shellcheck := shutil.which("shellcheck"):
        found = subprocess.run(
            [shellcheck, "--severity=warning", path], capture_output=True, text=True, timeout=30, check=False
        )
        assert found.stdout == ""


def test_too_much_is_refused() -> None:
    assert len(user_data(replace(BOOT, extra="#" * 8000)).encode()) < MAX_BYTES
    with pytest.raises(ValueError, match="with agent_policy, user_data and labels; allowed: 16384"):
        user_data(replace(BOOT, extra="#" * 8000, policy="#" * 4000))


class Box:
    """A machine whose commands note how they were called, and do what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.calls.touch()
        for name in ("bash", "mkdir", "cat", "sed", "awk", "stat", "id", "rm", "chmod", "printf", "echo"):
            (self.bin / name).symlink_to(str(shutil.which(name)))
        self.put("sleep")
        self.put("sync")
        self.put("shutdown")
        self.put("curl", 'case "$*" in *instance-id) echo i-0abc;; *) echo token;; esac')
        self.put("docker", '[ "$1" != wait ] || echo 0')

    def put(self, name: str, body: str = ":") -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def run(self, boot: Boot) -> str:
        script = self.folder / "user-data"
        script.write_text(user_data(boot))
        env = {"PATH": str(self.bin), "HOME": str(self.folder), "NATS_LAUNCH_FOLDER": str(self.folder / "state"),
               "NATS_LAUNCH_FOREGROUND": "1"}  # fmt: skip
        done = subprocess.run(
            [BASH, script], env=env, capture_output=True, text=True, timeout=40, check=False, cwd=self.folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def called(self, start: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_the_agent_is_run_under_the_instances_id_and_the_machine_ends_with_it(box: Box) -> None:
    console = box.run(BOOT)
    (run,) = box.called("docker run")
    assert "--network host" in run
    assert "/var/run/docker.sock:/var/run/docker.sock" in run
    assert "agent --queue gpu --server ssm:/nats/url --credentials ssm:/nats/creds" in run
    assert "--agent-id i-0abc --instance i-0abc" in run
    assert "AWS_REGION=us-east-1" in run
    assert "--gpus" not in run
    assert int(run.rsplit("--memory ", 1)[1]) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert box.called("shutdown") == ["shutdown -h now"]
    assert "nats-launch: pulling example/agent:1" in console
    assert "nats-launch: powering off: the agent has left" in console


def test_what_was_asked_for_reaches_the_agent_word_for_word(box: Box) -> None:
    box.put("docker-credential-ecr-login")
    console = box.run(FULL)
    (run,) = box.called("docker run")
    for words in (
        "--gpus all",
        "--job-type a --job-type b",
        "--max-jobs 3",
        "--secrets ssm:/jobs/",
        "--label why=it's $HOME `here`",
    ):
        assert words in run
    assert "hello" in console
    assert "user_data ended with 1" in console
    assert ECR in (box.folder / "state/docker/config.json").read_text()


def test_the_agents_policy_is_mounted_as_it_was_written_and_only_then(box: Box) -> None:
    box.run(FULL)
    (run,) = box.called("docker run")
    file = box.folder / "state/agent.yaml"
    assert f"--mount type=bind,source={file},target=/etc/nats-launch/agent.yaml,readonly" in run
    assert "--policy /etc/nats-launch/agent.yaml" in run
    assert file.read_text() == POLICY + "\n"
    assert file.stat().st_mode & 0o777 == 0o644, "the agent is another user than root"
    assert "policy" not in user_data(BOOT)


def test_without_the_helper_the_aws_cli_logs_in(box: Box) -> None:
    box.put("aws", "echo password")
    noted = f'read -r word; echo "login with $word" >>"{box.calls}"'
    box.put("docker", f'case "$1" in wait) echo 0;; login) {noted};; esac')
    box.run(FULL)
    assert box.called("aws") == ["aws ecr get-login-password --region eu-west-1"]
    assert box.called("login with") == ["login with password"]


def test_a_crashed_agent_is_started_again_and_its_last_words_are_told(box: Box) -> None:
    waited = box.folder / "waits"
    wait = f'echo . >>"{waited}"; [ "$(wc -l <"{waited}")" -ge 3 ] && echo 0 || echo 137'
    box.put("docker", f'case "$1" in wait) {wait};; logs) echo "no such queue";; esac')
    (box.bin / "wc").symlink_to(str(shutil.which("wc")))
    console = box.run(BOOT)
    assert len(box.called("docker run")) == 3
    assert console.count("nats-launch: agent: no such queue") == 2
    assert "the agent ended with 137" in console
    assert len(box.called("shutdown")) == 1


def test_an_image_that_can_not_be_had_ends_the_machine_at_last(box: Box) -> None:
    box.put("docker", 'case "$1" in pull) echo "manifest unknown" >&2; exit 1;; image) exit 1;; esac')
    console = box.run(BOOT)
    assert box.called("docker run") == []
    assert "nats-launch: docker: manifest unknown\nnats-launch: can't pull example/agent:1" in console
    assert "gave up after 60 failures in a row" in console
    assert len(box.called("shutdown")) == 1
    assert max(int(line.split()[1]) for line in box.called("sleep")) == 60


def test_docker_is_installed_where_there_is_none(box: Box) -> None:
    (box.bin / "docker").rename(box.folder / "docker")
    box.put("dnf", f'mv "{box.folder}/docker" "{box.bin}/docker"')
    (box.bin / "mv").symlink_to(str(shutil.which("mv")))
    box.run(BOOT)
    assert box.called("dnf") == ["dnf -q -y install docker"]
    assert len(box.called("docker run")) == 1
