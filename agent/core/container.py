"""From a job to the engine's create body: labels, limits, environment, and what the container may not do.

Pure. The submitter is not trusted: nothing in a spec reaches `HostConfig` but amounts of resources and what the policy
has under the names that the job asks for (the policy was asked before; a name that it lacks is an error here), and what
this project sets itself (labels, `LAUNCH_*`, GPU visibility) can't be overridden by the job's environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from agent.ports import ImageInfo
from launch.job import JobSpec, Mount
from launch.policy import DROPPED_CAPABILITIES, PIDS_LIMIT, AgentPolicy, MountRule
from launch.subjects import (
    ARTIFACTS_DIR,
    CHECKPOINT_DIR,
    CODE_DIR,
    INPUTS_DIR,
    LABEL_ACK,
    LABEL_AGENT,
    LABEL_AHEAD,
    LABEL_ATTEMPT,
    LABEL_QUEUE,
    LABEL_SEQ,
    LABEL_SUBMITTED,
    METRICS_FILE,
    JobId,
)

ATTEMPT_LABELS = (LABEL_QUEUE, LABEL_SEQ, LABEL_ATTEMPT, LABEL_AGENT, LABEL_SUBMITTED)
"""The labels that name one attempt of one submission."""

FOLDERS = (ARTIFACTS_DIR, CHECKPOINT_DIR, INPUTS_DIR, METRICS_FILE.rpartition("/")[0])
"""What every container has, whatever its image: anonymous volumes, since these need neither a host path nor a shell,
cost half a millisecond each, can't be replaced by links, and can be read after the exit (a tmpfs can't)."""

MIN_NANO_CPUS = 10_000_000
"""The engine refuses a limit below 0.01 CPU."""


@dataclass(frozen=True, slots=True)
class ContainerPolicy:
    """What the containers of this agent get. The defaults are the safe ones, and let a job choose nothing."""

    networks: tuple[str, ...] = ("bridge",)
    """The engine's networks that a job may be on; the first is for those that name none."""
    mounts: Mapping[str, MountRule] = field(default_factory=dict)
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cap_drop: tuple[str, ...] = DROPPED_CAPABILITIES
    cap_add: tuple[str, ...] = ()
    """What an operator grants beside what is left; `launch.policy` says which can be."""
    cap_allow: tuple[str, ...] = ()
    """What a job may ask for beside that."""
    no_new_privileges: bool = True
    pids_limit: int = PIDS_LIMIT
    oom_score_adj: int = 500
    """When the machine as a whole runs out of memory, the kernel takes jobs before the agent and the engine."""
    log_file_bytes: int = 1024**3
    """The engine keeps at most two files of this size of a container's output, so a chatty job can't fill the disk.

    The files are the buffer between job and broker, and output is exact up to the first turn of files: there the
    engine repeats some lines to who follows, and drops a file that was not read yet. So this is much more than
    `max_log_bytes`, which ends the reading before, but for lines of a few bytes (each costs 70 more in the file).
    """

    @classmethod
    def of(cls, policy: AgentPolicy) -> Self:
        """What an operator's rules come to."""
        return cls(
            networks=policy.networks,
            mounts=policy.mounts,
            devices=policy.devices,
            cap_drop=policy.capabilities.drop,
            cap_add=policy.capabilities.add,
            cap_allow=policy.capabilities.allow,
            pids_limit=policy.limits.pids,
        )


def container_config(
    spec: JobSpec,
    job: JobId,
    attempt: int,
    agent_id: str,
    reply: str,
    policy: ContainerPolicy,
    gpus: Sequence[str],
    *,
    env: Mapping[str, str],
    workdir: str | None = None,
) -> dict[str, Any]:
    """The body of the engine's create call for one attempt.

    `spec` is the effective one (queue defaults included); `env` its environment with every secret resolved; `reply` the
    token that acks the delivery, kept as a label so that a restarted agent can finish the job; `gpus` the UUIDs that
    are assigned to it; `workdir` the working directory, None for the image's own.
    """
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": _environment(spec, job, attempt, gpus, env),
        "Labels": {
            LABEL_QUEUE: job.queue,
            LABEL_SEQ: str(job.seq),
            LABEL_ATTEMPT: str(attempt),
            LABEL_AGENT: agent_id,
            LABEL_ACK: reply,
        },
        "Tty": spec.tty,
        "OpenStdin": False,
        # What the engine itself grants when it is shut down in an orderly way.
        "StopTimeout": math.ceil(spec.stop_grace),
        "HostConfig": _host_config(spec, policy, gpus),
    }
    if spec.entrypoint is not None:
        # An empty list would leave the image's entrypoint in place; one empty word removes it.
        config["Entrypoint"] = list(spec.entrypoint) or [""]
    if spec.command:
        config["Cmd"] = list(spec.command)
    if workdir is not None:
        config["WorkingDir"] = workdir
    if spec.user is not None:
        config["User"] = spec.user
    return config


def same_attempt(present: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether two containers' labels name the same attempt of the same submission; the ack token may be newer.

    Of what is made ahead of its claim, whether it is the same making: the body of an earlier one may be another.
    """
    keys = (*ATTEMPT_LABELS, LABEL_AHEAD) if LABEL_AHEAD in wanted else ATTEMPT_LABELS
    return all(present.get(key) == wanted.get(key) for key in keys)


def same_container(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a container made ahead from one body is what the other asks for; the ack token may be newer."""
    return _told(made) == _told(wanted)


def _told(body: Mapping[str, Any]) -> dict[str, Any]:
    labels = {key: value for key, value in body["Labels"].items() if key not in (LABEL_ACK, LABEL_AHEAD)}
    return {**body, "Labels": labels}


def working_directory(spec: JobSpec, image: ImageInfo) -> str | None:
    """Where the job starts, and its code goes; None for what the image says (with code it always has a name)."""
    if spec.workdir is not None or spec.code is None:
        return spec.workdir
    return image.workdir if image.workdir not in ("", "/") else CODE_DIR


def runs_as_root(spec: JobSpec, image: ImageInfo) -> bool:
    """Whether the job's user may write to folders that belong to root."""
    user = spec.user if spec.user is not None else image.user
    return user.partition(":")[0] in ("", "0", "root")


def _environment(spec: JobSpec, job: JobId, attempt: int, gpus: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The job's variables, then ours, which win over the job's of the same name.

    `NVIDIA_VISIBLE_DEVICES` is ours because, where the NVIDIA runtime is the default one, a job (or its image) that
    sets it to `all` would see GPUs that belong to other jobs.
    """
    ours = {
        "LAUNCH_JOB": str(job),
        "LAUNCH_QUEUE": job.queue,
        "LAUNCH_JOB_TYPE": spec.job_type or "",
        "LAUNCH_ATTEMPT": str(attempt),
        "LAUNCH_ARTIFACTS": ARTIFACTS_DIR,
        "LAUNCH_CHECKPOINT": CHECKPOINT_DIR,
        "LAUNCH_INPUTS": INPUTS_DIR,
        "LAUNCH_METRICS": METRICS_FILE,
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpus) if gpus else "void",
    }
    return [f"{name}={value}" for name, value in {**env, **ours}.items()]


def _host_config(spec: JobSpec, policy: ContainerPolicy, gpus: Sequence[str]) -> dict[str, Any]:
    """Limits and isolation."""
    host: dict[str, Any] = {
        # An init reaps orphans and passes signals on: many programs ignore SIGTERM when they are process 1.
        "Init": True,
        # An auto-removed container takes its exit code with it.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": _network(spec, policy),
        "IpcMode": "private",
        "Privileged": False,
        "CapDrop": list(policy.cap_drop),
        "SecurityOpt": ["no-new-privileges"] if policy.no_new_privileges else [],
        "PidsLimit": policy.pids_limit,
        "OomScoreAdj": policy.oom_score_adj,
        "Mounts": [
            *({"Type": "volume", "Target": path, "VolumeOptions": {"NoCopy": True}} for path in FOLDERS),
            *(_mount(mount, policy.mounts[mount.name]) for mount in spec.mounts),
        ],
        # Never blocks the container, keeps both sources apart, and can be read again from any time on.
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(policy.log_file_bytes), "max-file": "2"},
        },
    }
    asked = [name for name in spec.capabilities if name in policy.cap_allow]
    if powers := list(dict.fromkeys([*policy.cap_add, *asked])):
        host["CapAdd"] = powers
    if spec.devices:
        paths = dict.fromkeys(path for name in spec.devices for path in policy.devices[name])
        # To read and write; no "m", which would let the job make nodes of it.
        host["Devices"] = [{"PathOnHost": one, "PathInContainer": one, "CgroupPermissions": "rw"} for one in paths]
    resources = spec.resources
    if resources.cpu is not None:
        host["NanoCpus"] = max(MIN_NANO_CPUS, round(resources.cpu * 1_000_000_000))
    if resources.memory is not None:
        host["Memory"] = resources.memory
        # Equal to Memory means no swap: a job over its limit ends as out of memory instead of crawling.
        host["MemorySwap"] = resources.memory
    if spec.shm_size is not None:
        host["ShmSize"] = spec.shm_size
    if gpus:
        host["DeviceRequests"] = [{"Driver": "", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]
    return host


def _network(spec: JobSpec, policy: ContainerPolicy) -> str:
    if spec.network is None:
        return policy.networks[0]
    return "none" if spec.network == "none" else policy.networks[policy.networks.index(spec.network)]


def _mount(asked: Mount, rule: MountRule) -> dict[str, Any]:
    """A folder or volume of the operator's at the place that the job wants it.

    Neither what is mounted below the folder nor what the host will mount there comes along: an engine before 25 leaves
    such mounts writable where the folder itself is not.
    """
    mount = {"Source": rule.source, "Target": asked.path, "ReadOnly": not (asked.writable and rule.writable)}
    if rule.source.startswith("/"):
        return {"Type": "bind", **mount, "BindOptions": {"Propagation": "rprivate", "NonRecursive": True}}
    return {"Type": "volume", **mount, "VolumeOptions": {"NoCopy": True}}
