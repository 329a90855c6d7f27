"""Jobs that try to get out of their containers, and jobs that an agent's policy refuses, on a real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.core.states import Reason, State
from launch.policy import AgentPolicy
from tests.integration.agent_lab import Lab
from tests.support import engine

pytestmark = [pytest.mark.docker, pytest.mark.nats]

OUTSIDE = 0xA80425FB & ~((1 << 29) | (1 << 27) | (1 << 13) | (1 << 18))
"""The engine's usual capabilities less AUDIT_WRITE, MKNOD, NET_RAW and SYS_CHROOT, as the kernel numbers them."""

DEVICE = next((path for path in ("/dev/fuse", "/dev/net/tun") if Path(path).exists()), "/dev/tty0")
"""One that this machine has, and a container has not."""


def policy_of(**fields: Any) -> AgentPolicy:
    return AgentPolicy.model_validate(fields)


async def said(lab: Lab, script: str, policy: AgentPolicy | None = None, **spec: Any) -> str:
    """What a job that runs this script under the policy writes."""
    async with lab.agent(policy=policy or AgentPolicy()):
        job = await lab.submit(command=["sh", "-c", script], **spec)
        record = await lab.ended(job)
    assert record.state is State.SUCCEEDED, record.message
    return (await lab.output(job)).decode()


def facts(text: str) -> dict[str, str]:
    """Lines of `name: value`."""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


# -- trying to get out ------------------------------------------------------------------------------------------------


async def test_root_in_a_container_has_only_what_is_left_and_can_get_no_more(lab: Lab) -> None:
    status = facts(await said(lab, "cat /proc/self/status"))
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapBnd"], 16) & ~OUTSIDE == 0, "no capability beside those"
    assert int(status["CapEff"], 16) & ~OUTSIDE == 0


async def test_the_host_can_not_be_mounted_seen_or_changed(lab: Lab) -> None:
    tries = {
        "socket": "test -e /var/run/docker.sock || test -e /run/docker.sock",
        "mount": "mkdir -p /out && mount -t proc proc /out",
        "disk": "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk",
        "devices": "ls /dev/mem /dev/kmsg /dev/sda /dev/nvme0n1 /dev/vda /dev/kvm 2>/dev/null | grep .",
        "host name": "hostname evil",
        "chroot": "chroot / true",
        "kernel": "echo 1 > /proc/sys/kernel/panic",
        "sysrq": "echo h > /proc/sysrq-trigger",
        "core": "echo x > /proc/sys/kernel/core_pattern",
        "cgroup": "echo /x > /sys/fs/cgroup/*/release_agent",
        "init root": "ls /proc/1/root/etc/docker /proc/1/root/var/lib/docker",
        "unshare": "unshare -m true",
        "user namespace": "unshare -U true",
        "network namespace": "unshare -n true",
        "namespaces of init": "nsenter -t 1 -m true",
        "remount": "mount -o remount,rw /sys",
        "kernel log": "dmesg",
        "raw socket": "ping -c 1 -W 1 127.0.0.1",
        "interface": "ip link set lo down",
        "priority": "renice -n -5 1",
        "out of memory": "echo -1000 > /proc/self/oom_score_adj",
    }
    lines = [f"if ({script}) >/dev/null 2>&1; then echo '{name}: out'; else echo '{name}: in'; fi"
             for name, script in tries.items()]  # fmt: skip
    found = facts(await said(lab, "\n".join(lines)))
    assert found == dict.fromkeys(tries, "in")


async def test_a_setuid_program_makes_nobody_root(lab: Lab) -> None:
    script = """
        mkdir -p /etc /tmp
        printf 'root::0:0::/:/bin/sh\\nnobody::1000:1000::/:/bin/sh\\n' >/etc/passwd
        cp /bin/sh /tmp/su && chmod 4755 /tmp/su
        su nobody -c '/tmp/su root -c "id -u"' 2>&1 || true
    """
    assert await said(lab, script) == "su: must be suid to work properly\n"


async def test_nothing_of_the_hosts_is_mounted(lab: Lab) -> None:
    async with lab.agent():
        job = await lab.submit(command=["sh", "-c", "echo ready; trap 'exit 0' USR1; while :; do sleep 0.05; done"])
        await lab.said(job, b"ready")
        [listed] = lab.containers()
        container = engine.inspect(listed["Id"])
        host = container["HostConfig"]
        assert {mount["Type"] for mount in container["Mounts"]} == {"volume"}
        assert (host["Privileged"], host["CapAdd"], host["Binds"], host["Devices"] or []) == (False, None, None, [])
        assert (host["PidMode"], host["IpcMode"], host["UTSMode"], host["NetworkMode"]) == ("", "private", "", "bridge")
        await lab.release(job)


async def test_a_fork_bomb_ends_at_its_limit(lab: Lab) -> None:
    script = """
        echo limit: $(cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null)
        echo fork: $(i=0; while [ $i -lt 60 ]; do sleep 5 >/dev/null 2>&1 & i=$((i+1)); done 2>&1 | grep -ci fork)
    """
    assert facts(await said(lab, script))["limit"] == "4096"
    async with lab.agent("b", policy=policy_of(limits={"pids": 32})):
        job = await lab.submit(command=["sh", "-c", script])
        await lab.ended(job)
    assert b"limit: 32" in (await lab.output(job))
    assert b"fork: 0" not in (await lab.output(job))


async def test_without_a_network_there_is_no_metadata_service_to_ask(lab: Lab) -> None:
    ask = "ls /sys/class/net; echo | nc -w 2 169.254.169.254 80 2>&1"
    silent = "nc: can't connect to remote host (169.254.169.254): Network is unreachable"
    assert await said(lab, f"{ask} || true", policy_of(networks=["none"])) == f"lo\n{silent}\n"
    assert await said(lab, f"{ask} || true", network="none") == f"lo\n{silent}\n", "who asks for none gets it"


async def test_dropped_powers_are_gone_and_granted_ones_there(lab: Lab) -> None:
    rules = policy_of(capabilities={"drop": ["ALL"], "add": ["CHOWN"]})
    assert int(facts(await said(lab, "cat /proc/self/status", rules))["CapBnd"], 16) == 1


# -- asked for by name ------------------------------------------------------------------------------------------------


async def test_a_folder_that_the_operator_names_is_there_to_read_and_only_then_to_write(
    lab: Lab, tmp_path: Path
) -> None:
    for name in ("data", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"of {name}\n")
    rules = policy_of(
        mounts={
            "data": {"source": str(tmp_path / "data")},
            "scratch": {"source": str(tmp_path / "scratch"), "writable": True},
        }
    )
    script = """
        cat /data/file /mine/file /other/file
        for one in /data /mine /other; do
            if echo x >$one/new; then echo "$one: written"; else echo "$one: kept"; fi
        done
        mount -o remount,rw /data || echo "/data: still kept"
    """
    found = await said(
        lab,
        f"({script}) 2>/dev/null",
        rules,
        mounts=[
            {"name": "data", "path": "/data"},
            {"name": "scratch", "path": "/mine", "writable": True},
            {"name": "scratch", "path": "/other"},
        ],
    )
    assert found.splitlines() == [
        *("of data", "of scratch", "of scratch"),
        *("/data: kept", "/mine: written", "/other: kept", "/data: still kept"),
    ]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["file"]
    assert (tmp_path / "scratch" / "new").exists(), "it stays when the container goes"


async def test_a_device_that_the_operator_names_is_there_for_those_who_ask(lab: Lab) -> None:
    rules = policy_of(devices={"mine": [DEVICE]})
    look = f"test -c {DEVICE} && echo there || echo absent; grep NoNewPrivs /proc/self/status"
    assert await said(lab, look, rules) == "absent\nNoNewPrivs:\t1\n"
    assert await said(lab, look, rules, devices=["mine"]) == "there\nNoNewPrivs:\t1\n"


async def test_a_job_may_go_without_a_network_and_ask_for_a_power_that_is_allowed(lab: Lab) -> None:
    rules = policy_of(capabilities={"drop": ["ALL"], "allow": ["SYS_PTRACE"]})
    look = "ls /sys/class/net; grep CapBnd /proc/self/status"
    asked = await said(lab, look, rules, network="none", capabilities=["SYS_PTRACE"])
    assert asked == f"lo\nCapBnd:\t{1 << 19:016x}\n"


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "spec", "words"),
    [
        (
            {"images": {"allow": ["ghcr.io/acme/*"]}},
            {},
            "images.allow: found docker.io/launch-test/busybox:1; allowed: ghcr",
        ),
        ({"limits": {"gpu": 0}}, {"resources": {"gpu": 1}}, "limits.gpu: found resources.gpu 1"),
        ({"users": {"allow_root": False}}, {"user": "0"}, "users.allow_root: found user '0'"),
        ({}, {"network": "host"}, "networks: found network 'host'; allowed: bridge, none"),
        ({}, {"mounts": [{"name": "root", "path": "/x"}]}, "mounts: found mount 'root'; allowed: none"),
        ({}, {"devices": ["mem"]}, "devices: found device 'mem'; allowed: none"),
        ({}, {"capabilities": ["SYS_ADMIN"]}, "capabilities.allow: found SYS_ADMIN; allowed: none"),
        ({"secrets": []}, {"env": {"X": {"secret": "key"}}}, "secrets: found secret 'key' for X; allowed: none"),
        ({"inputs": []}, {"inputs": [{"s3": "s3://data/x"}]}, "inputs: found s3://data/x; allowed: none"),
    ],
)
async def test_a_job_that_is_not_allowed_ends_at_once_and_says_by_which_rule(
    lab: Lab, policy: dict[str, Any], spec: dict[str, Any], words: str
) -> None:
    async with lab.agent(policy=policy_of(**policy)):
        record = await lab.ended(await lab.submit(command=["true"], retries=5, **spec))
        assert lab.containers() == []
    assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.POLICY_DENIED, 0)
    assert record.message is not None
    assert words in record.message
    assert await lab.left() == 0


async def test_an_image_that_runs_as_root_is_refused_once_that_is_known(lab: Lab) -> None:
    rules = policy_of(users={"allow_root": False})
    async with lab.agent(policy=rules):
        record = await lab.ended(await lab.submit(command=["true"], retries=5))
        assert (record.state, record.reason, record.attempt) == (State.FAILED, Reason.POLICY_DENIED, 1)
        assert "the image's user unset, which is root" in (record.message or "")
        job = await lab.submit(command=["id", "-u"], user="1000:1000")
        assert (await lab.ended(job)).state is State.SUCCEEDED
    assert await lab.output(job) == b"1000\n"


@pytest.mark.parametrize(
    "key",
    [
        "privileged",
        "volumes",
        "binds",
        "cap_add",
        "host_config",
        "network_mode",
        "pid_mode",
        "ipc_mode",
        "runtime",
        "security_opt",
    ],
)
async def test_a_job_has_no_words_for_a_way_out(lab: Lab, key: str) -> None:
    body = json.dumps({"image": lab.image, "command": ["true"], key: ["/:/host"]}).encode()
    async with lab.agent():
        record = await lab.ended(await lab.publish(body))
    assert (record.state, record.reason) == (State.FAILED, Reason.INVALID_SPEC)
    assert f"{key}: found an unknown key" in (record.message or "")
