"""What an instance runs when it boots: bash that starts Docker and the agent, and ends the instance with the agent.

Pure. Invariants: nothing secret is in it (NATS and its credentials are named by where they lie, and the agent looks
them up); the agent's id is the instance's, so the scaler knows it before the agent is there; what happens is told on
the console, where `explain` finds it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from launch.core.registry import ecr_region, registry_of

MAX_BYTES = 16 * 1024
"""What EC2 takes."""
FOLDER = "/var/lib/nats-launch"
POLICY = "/etc/nats-launch/agent.yaml"
"""Where the agent's container has its policy."""

_BODY = files(__package__).joinpath("boot.sh").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Boot:
    """What differs from one queue, or one instance type, to the next."""

    queue: str
    image: str
    region: str
    server: str
    """NATS's address, or where it lies."""
    credentials: str | None = None
    """Where the contents of a .creds file lie."""
    job_types: tuple[str, ...] = ()
    max_jobs: int | None = None
    secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    reserve_bytes: int = 0
    """Memory that the agent does not offer to jobs."""
    policy: str | None = None
    """The text of the agent's `agent.yaml`."""
    extra: str = ""
    """The owner's own lines."""


def user_data(boot: Boot) -> str:
    """The script. Raises `ValueError` if it is too large for EC2."""
    registry = registry_of(boot.image)
    ecr = ecr_region(registry)
    lines = [
        "#!/bin/bash",
        f"# Runs the agent of queue {boot.queue}; written by nats-launch.",
        f"folder=${{NATS_LAUNCH_FOLDER:-{FOLDER}}}",
        "imds=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}",
        f"image={shlex.quote(boot.image)}",
        f"ecr_host={registry if ecr else ''}",
        f"ecr_region={ecr or ''}",
        f"reserve_bytes={boot.reserve_bytes}",
        f"docker_options=({shlex.join(_docker_options(boot))})",
        f"agent_options=({shlex.join(_agent_options(boot))})",
        *_docker_policy(boot),
        *_prepare(boot),
    ]
    script = "\n".join(lines) + "\n" + _BODY
    size = len(script.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"found user data of {size} bytes with agent_policy, user_data and labels; allowed: {MAX_BYTES}"
        )
    return script


def _docker_options(boot: Boot) -> list[str]:
    options = ["-e", f"AWS_REGION={boot.region}", "-e", f"AWS_DEFAULT_REGION={boot.region}"]
    if boot.gpus:
        options += ["--gpus", "all", "-e", "NVIDIA_DRIVER_CAPABILITIES=utility"]
    return options


def _agent_options(boot: Boot) -> list[str]:
    options = ["agent", "--queue", boot.queue, "--server", boot.server]
    if boot.credentials:
        options += ["--credentials", boot.credentials]
    for name in boot.job_types:
        options += ["--job-type", name]
    if boot.max_jobs is not None:
        options += ["--max-jobs", str(boot.max_jobs)]
    if boot.policy is not None:
        options += ["--policy", POLICY]
    for source in boot.secrets:
        options += ["--secrets", source]
    for key, value in sorted(boot.labels.items()):
        options += ["--label", f"{key}={value}"]
    return options


def _docker_policy(boot: Boot) -> list[str]:
    """A mount that, unlike a volume, is refused if the file is not there: without its policy no agent starts."""
    if boot.policy is None:
        return []
    return [f'docker_options+=(--mount "type=bind,source=$folder/agent.yaml,target={POLICY},readonly")']


def _prepare(boot: Boot) -> list[str]:
    """The owner's lines are a script of their own: what is wrong with them can't take the rest with it."""
    lines = []
    if boot.policy is not None:
        lines += [*_file("agent.yaml", boot.policy), 'chmod 644 "$folder/agent.yaml"']
    if boot.extra.strip():
        lines += [*_file("prepare", boot.extra), 'bash "$folder/prepare" || say "user_data ended with $?"']
    return ["prepare() {", *(lines or [":"]), "}"]


def _file(name: str, text: str) -> list[str]:
    end = f"END_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return [f"cat >\"$folder/{name}\" <<'{end}'", text.rstrip("\n"), end]
