"""From a job to a create body: what is asked for is in it, and what must not be can't be brought in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.container import (
    FOLDERS,
    ContainerPolicy,
    container_config,
    runs_as_root,
    working_directory,
)
from agent.ports import ImageInfo
from launch.job import JobSpec, Resources
from launch.policy import DROPPED_CAPABILITIES, AgentPolicy
from launch.subjects import LABEL_ACK, LABEL_AGENT, LABEL_ATTEMPT, LABEL_QUEUE, LABEL_SEQ, JobId

JOB = JobId("gpu-training-queue", 42)
CODE = {"sha256": "a" * 64, "size": 10}


def config_of(policy: ContainerPolicy | None = None, gpus: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    spec = JobSpec.model_validate({"job_type": "train", "image": "python:3.12", **fields})
    return container_config(
        spec, JOB, 3, "agent-1", "$JS.ACK.x", policy or ContainerPolicy(), gpus, env=plain(spec), workdir=spec.workdir
    )


def plain(spec: JobSpec) -> dict[str, str]:
    return {name: value for name, value in spec.env.items() if isinstance(value, str)}


def env_of(config: dict[str, Any]) -> dict[str, str]:
    pairs = [line.partition("=")[::2] for line in config["Env"]]
    assert len({name for name, _ in pairs}) == len(pairs), "a name that occurs twice has no defined value"
    return dict(pairs)


def test_labels_let_a_restarted_agent_find_and_finish_the_job() -> None:
    assert config_of(labels={"launch.queue": "mine", "team": "vision"})["Labels"] == {
        LABEL_QUEUE: "gpu-training-queue",
        LABEL_SEQ: "42",
        LABEL_ATTEMPT: "3",
        LABEL_AGENT: "agent-1",
        LABEL_ACK: "$JS.ACK.x",
    }


def test_limits_are_those_that_were_asked_for() -> None:
    host = config_of(resources={"cpu": 1.5, "memory": "8Gi"}, shm_size="1Gi")["HostConfig"]
    assert host["NanoCpus"] == 1_500_000_000
    assert host["Memory"] == host["MemorySwap"] == 8 * 1024**3
    assert host["ShmSize"] == 1024**3
    assert host["PidsLimit"] == 4096


def test_what_was_not_asked_for_is_not_limited() -> None:
    host = config_of()["HostConfig"]
    assert not {"NanoCpus", "Memory", "MemorySwap", "ShmSize", "DeviceRequests"} & host.keys()


def test_a_sliver_of_a_cpu_is_what_the_engine_takes_at_least() -> None:
    assert config_of(resources={"cpu": 0.001})["HostConfig"]["NanoCpus"] == 10_000_000


def test_the_container_is_kept_after_exit_and_never_restarted() -> None:
    host = config_of()["HostConfig"]
    assert host["AutoRemove"] is False
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["Init"] is True
    assert host["LogConfig"]["Type"] == "json-file"


def test_the_default_is_the_safe_one() -> None:
    host = config_of()["HostConfig"]
    assert host["NetworkMode"] == "bridge"
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["CapDrop"] == list(DROPPED_CAPABILITIES)
    assert host["Privileged"] is False
    assert {mount["Type"] for mount in host["Mounts"]} == {"volume"}
    assert not any("Source" in mount for mount in host["Mounts"]), "no path of the host, and no name that others know"
    assert not {"Binds", "CapAdd", "Devices", "PidMode", "UsernsMode"} & host.keys()


def test_the_policy_decides() -> None:
    policy = ContainerPolicy(
        networks=("none",), cap_drop=("ALL",), no_new_privileges=False, pids_limit=7, log_file_bytes=9
    )
    host = config_of(policy)["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["SecurityOpt"], host["PidsLimit"]) == ("none", ["ALL"], [], 7)
    assert host["LogConfig"]["Config"] == {"max-size": "9", "max-file": "2"}


def test_the_command_is_the_images_own_unless_given() -> None:
    assert not {"Entrypoint", "Cmd", "WorkingDir", "User"} & config_of().keys()
    given_all = config_of(entrypoint=["python"], command=["train.py", 0.001], workdir="/app", user="1000:1000")
    assert given_all["Entrypoint"] == ["python"]
    assert given_all["Cmd"] == ["train.py", "0.001"]
    assert (given_all["WorkingDir"], given_all["User"]) == ("/app", "1000:1000")
    assert config_of(entrypoint=[])["Entrypoint"] == [""], "an empty list would leave the image's in place"


def test_gpus_are_handed_out_by_name_and_no_others_are_visible() -> None:
    config = config_of(gpus=("GPU-a", "GPU-b"), resources={"gpu": 2}, env={"NVIDIA_VISIBLE_DEVICES": "all"})
    assert config["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu"]]}
    ]
    assert env_of(config)["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert env_of(config_of(env={"NVIDIA_VISIBLE_DEVICES": "all"}))["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_every_container_has_the_folders_that_its_environment_names() -> None:
    config = config_of()
    folders = [mount["Target"] for mount in config["HostConfig"]["Mounts"]]
    assert folders == list(FOLDERS)
    env = env_of(config)
    assert [env["LAUNCH_ARTIFACTS"], env["LAUNCH_CHECKPOINT"], env["LAUNCH_INPUTS"]] == folders[:3]
    assert env["LAUNCH_METRICS"].startswith(folders[3] + "/")


def test_a_secret_is_never_in_the_environment_by_its_name() -> None:
    spec = JobSpec.model_validate({"job_type": "train", "image": "x", "env": {"KEY": {"secret": "wandb-key"}}})
    config = container_config(spec, JOB, 1, "agent-1", "r", ContainerPolicy(), (), env={"KEY": "value"})
    assert env_of(config)["KEY"] == "value"
    assert "wandb-key" not in str(config)


def test_a_job_gets_a_terminal_if_it_asks_for_one() -> None:
    assert config_of()["Tty"] is False
    assert config_of(tty=True)["Tty"] is True


@pytest.mark.parametrize(
    ("fields", "image", "expected"),
    [
        ({}, "/app", None),
        ({"workdir": "/mine"}, "/app", "/mine"),
        ({"code": CODE}, "/app", "/app"),
        ({"code": CODE, "workdir": "/mine"}, "/app", "/mine"),
        ({"code": CODE}, "", "/launch/code"),
        ({"code": CODE}, "/", "/launch/code"),
    ],
)
def test_code_goes_where_the_job_starts(fields: dict[str, Any], image: str, expected: str | None) -> None:
    spec = JobSpec.model_validate({"image": "x", **fields})
    assert working_directory(spec, ImageInfo("sha256:1", None, workdir=image)) == expected


@pytest.mark.parametrize(
    ("user", "image", "root"),
    [
        (None, "", True),
        (None, "root", True),
        (None, "0:0", True),
        (None, "app", False),
        ("1000:1000", "", False),
        ("root:users", "app", True),
        ("0", "app", True),
        ("nobody", "", False),
    ],
)
def test_roots_folders_are_for_root_by_name_or_number(user: str | None, image: str, root: bool) -> None:
    spec = JobSpec.model_validate({"image": "x", "user": user})
    assert runs_as_root(spec, ImageInfo("sha256:1", None, user=image)) is root


def test_the_engine_is_told_how_much_grace_the_job_wants() -> None:
    assert config_of(stop_grace="1500ms")["StopTimeout"] == 2


names = st.sampled_from(["LAUNCH_JOB", "LAUNCH_ATTEMPT", "LAUNCH_MINE", "PATH"])
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(env=st.dictionaries(names, values))
def test_a_job_can_set_anything_but_what_we_set(env: dict[str, str]) -> None:
    spec = JobSpec(job_type="train", image="x", env=env, resources=Resources())
    found = env_of(container_config(spec, JOB, 3, "agent-1", "r", ContainerPolicy(), (), env=plain(spec)))
    ours = {
        "LAUNCH_JOB": "gpu-training-queue/42",
        "LAUNCH_QUEUE": "gpu-training-queue",
        "LAUNCH_JOB_TYPE": "train",
        "LAUNCH_ATTEMPT": "3",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "LAUNCH_ARTIFACTS": "/launch/artifacts",
        "LAUNCH_CHECKPOINT": "/launch/checkpoint",
        "LAUNCH_INPUTS": "/launch/inputs",
        "LAUNCH_METRICS": "/launch/metrics/metrics.jsonl",
    }
    assert found == {**env, **ours}


RULES = ContainerPolicy.of(
    AgentPolicy.model_validate(
        {
            "networks": ["bridge", "training"],
            "mounts": {"data": {"source": "/srv/data"}, "scratch": {"source": "scratch", "writable": True}},
            "devices": {"rdma": ["/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm"]},
            "capabilities": {"add": ["CHOWN"], "allow": ["SYS_PTRACE"]},
        }
    )
)


def test_what_a_job_asks_for_by_name_is_what_the_policy_says_it_is() -> None:
    host = config_of(
        RULES,
        network="training",
        mounts=[{"name": "data", "path": "/data"}, {"name": "scratch", "path": "/scratch", "writable": True}],
        devices=["rdma"],
        capabilities=["SYS_PTRACE"],
    )["HostConfig"]
    assert host["NetworkMode"] == "training"
    assert host["Mounts"][len(FOLDERS) :] == [
        {
            "Type": "bind",
            "Source": "/srv/data",
            "Target": "/data",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
        },
        {
            "Type": "volume",
            "Source": "scratch",
            "Target": "/scratch",
            "ReadOnly": False,
            "VolumeOptions": {"NoCopy": True},
        },
    ]
    assert [(one["PathOnHost"], one["CgroupPermissions"]) for one in host["Devices"]] == [
        ("/dev/infiniband/uverbs0", "rw"),
        ("/dev/infiniband/rdma_cm", "rw"),
    ]
    assert host["CapAdd"] == ["CHOWN", "SYS_PTRACE"]


def test_who_asks_for_nothing_gets_nothing_of_it() -> None:
    host = config_of(RULES)["HostConfig"]
    assert (host["NetworkMode"], len(host["Mounts"]), host["CapAdd"]) == ("bridge", len(FOLDERS), ["CHOWN"])
    assert "Devices" not in host


def test_even_past_the_policy_nothing_else_gets_through() -> None:
    """`denials` has said no before; here it would be a bug that asks."""
    for asked in (
        {"network": "host"},
        {"mounts": [{"name": "x", "path": "/x"}]},
        {"devices": ["x"]},
    ):
        with pytest.raises((KeyError, ValueError)):
            config_of(RULES, **asked)
    host = config_of(RULES, capabilities=["SYS_ADMIN"], mounts=[{"name": "data", "path": "/x", "writable": True}])
    assert host["HostConfig"]["CapAdd"] == ["CHOWN"]
    assert host["HostConfig"]["Mounts"][-1]["ReadOnly"] is True


THROUGH = {
    "Init", "AutoRemove", "RestartPolicy", "NetworkMode", "IpcMode", "Privileged", "CapDrop", "CapAdd", "SecurityOpt",
    "PidsLimit", "OomScoreAdj", "Mounts", "LogConfig", "NanoCpus", "Memory", "MemorySwap", "ShmSize", "DeviceRequests",
    "Devices",
}  # fmt: skip


def test_every_option_of_the_host_that_is_ever_set_is_known() -> None:
    """A new one is a decision: it stands here, and in docs/security.md."""
    everything = config_of(
        RULES, ("GPU-a",), resources={"cpu": 1, "gpu": 1, "memory": "1Gi"}, shm_size="1Gi", network="none",
        mounts=[{"name": "data", "path": "/data"}], devices=["rdma"], capabilities=["SYS_PTRACE"], tty=True,
        user="1000", workdir="/w", entrypoint=["a"], command=["b"], env={"A": "b"}, labels={"privileged": "true"},
    )  # fmt: skip
    assert set(everything["HostConfig"]) == THROUGH
