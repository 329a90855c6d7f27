"""`agent.yaml`: what an operator lets the jobs of one agent ask for, and what their containers are made with.

Pure. This is an allow-list: what has no key here can't be had by any job (host paths, devices but assigned GPUs,
privileged mode, other namespaces, other security options). The defaults are what an agent without a file does.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from agent.core.container import DROPPED_CAPABILITIES, ContainerPolicy
from agent.core.image_name import check_pattern
from launch.fields import Cpus, Duration, Memory, S3Url, Spec

_SAFE = ContainerPolicy()

ENGINE_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""What the engine gives to a container of which nothing else is said."""

GRANTABLE_CAPABILITIES = tuple(sorted({*ENGINE_CAPABILITIES, "IPC_LOCK", "SYS_NICE", "SYS_PTRACE"}))
"""What an operator may add: the engine's own, and what pinned memory, priorities and profilers need within a container.

No others: each of the rest (SYS_ADMIN, NET_ADMIN, SYS_MODULE, DAC_READ_SEARCH, BPF, ...) is a way to the host.
"""


def _capability(value: object) -> str:
    name = str(value).upper().removeprefix("CAP_")
    if not re.fullmatch(r"[A-Z_]{2,40}", name, re.ASCII):
        raise ValueError(f"found {str(value)[:80]!r}; allowed: a capability, such as NET_RAW, or ALL")
    return name


def _grantable(value: object) -> str:
    name = _capability(value)
    if name not in GRANTABLE_CAPABILITIES:
        raise ValueError(f"found {str(value)[:80]!r}; allowed: {', '.join(GRANTABLE_CAPABILITIES)}")
    return name


def _network(value: object) -> str:
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", text, re.ASCII) or text.lower() in ("host", "default"):
        raise ValueError(f"found {text[:80]!r}; allowed: bridge, none, or the name of a network of the engine's own")
    return text


def _secret_pattern(value: object) -> str:
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_./*?-]{1,255}", text, re.ASCII):
        raise ValueError(f"found {text[:80]!r}; allowed: a secret's name, in which * stands for anything")
    return text


def _flag(value: object) -> bool:
    if value is True or str(value) in ("true", "yes"):
        return True
    if value is False or str(value) in ("false", "no"):
        return False
    raise ValueError(f"found {str(value)[:80]!r}; allowed: true or false")


_STRING = WithJsonSchema({"type": "string"})
_FLAG = WithJsonSchema({"type": "boolean"})

ImagePattern = Annotated[str, BeforeValidator(lambda value: check_pattern(str(value))), _STRING]
Patterns = Annotated[tuple[ImagePattern, ...], Field(max_length=1000)]
Flag = Annotated[bool, BeforeValidator(_flag), _FLAG]
Uid = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ImageRules(Spec):
    """Which images jobs may run from."""

    allow: Patterns = ("**",)
    """Patterns of allowed images, on the full reference (`docker.io/library/python:3.12`): `*` stands for anything
    between two slashes, `**` for anything at all; a pattern without a tag takes each of them."""
    deny: Patterns = ()
    """Patterns of images that are refused even if allowed. A denied image may have other names: rather use `allow`."""
    by_digest: Flag = False
    """Whether an image must be named by its digest (`…@sha256:…`), which nobody can change later."""

    @property
    def open(self) -> bool:
        """Whether every image will do."""
        return "**" in self.allow and not self.deny and not self.by_digest


class UserRules(Spec):
    """Which users the processes of jobs may be."""

    allow_root: Flag = True
    """Whether a job may run as root in its container. If not, its user must be a number that is not 0."""
    uids: Annotated[tuple[Uid, ...], Field(min_length=1, max_length=1000)] | None = None
    """The only user ids that jobs may run as. Unset: any."""


class CapabilityRules(Spec):
    """Which of root's powers containers have; the same for every job."""

    drop: tuple[Annotated[str, BeforeValidator(_capability), _STRING], ...] = DROPPED_CAPABILITIES
    """What is taken from the engine's usual set; `ALL` for all of it."""
    add: tuple[Annotated[str, BeforeValidator(_grantable), _STRING], ...] = ()
    """What is given beside that; only what stays within a container can be named."""


class Limits(Spec):
    """The most that one job may ask for; whoever asks for nothing, where that is without limit, is refused, too."""

    cpu: Cpus | None = None
    """CPUs. Unset: no limit but the machine."""
    memory: Memory | None = None
    """Memory. Unset: no limit but the machine."""
    gpu: Annotated[int, Field(ge=0, le=64)] | None = None
    """GPUs. Unset: no limit but the machine."""
    shm_size: Memory | None = None
    """Size of /dev/shm. Unset: no limit."""
    timeout: Duration | None = None
    """How long an attempt may run. Unset: as long as it wants."""
    pids: Annotated[int, Field(ge=16, le=4_000_000)] = _SAFE.pids_limit
    """Processes and threads that a container may have at once; the same for every job."""


class AgentPolicy(Spec):
    """The whole of `agent.yaml`."""

    images: ImageRules = ImageRules()
    """Rules on a job's image."""
    network: Annotated[str, BeforeValidator(_network), _STRING] = _SAFE.network
    """The network of every container: `bridge`, `none`, or one that the operator made; never the host's own."""
    network_pool: Flag = False
    """Whether containers get network namespaces that are made ahead, and used again while nothing is left in them: a
    short job then takes less than half the time. Only on `bridge`, and without the capabilities that are dropped unless
    said otherwise."""
    users: UserRules = UserRules()
    """Rules on the user of a job's container, whether job or image names it."""
    capabilities: CapabilityRules = CapabilityRules()
    """Capabilities of every container."""
    limits: Limits = Limits()
    """Limits of what one job may ask for."""
    secrets: Annotated[
        tuple[Annotated[str, BeforeValidator(_secret_pattern), _STRING], ...], Field(max_length=1000)
    ] = ("*",)
    """Names of secrets that jobs may refer to; `*` stands for anything, slashes too. An empty list: none."""
    inputs: Annotated[tuple[S3Url, ...], Field(max_length=1000)] | None = None
    """The S3 prefixes from which jobs may take inputs. Unset: what the agent's own credentials can read."""

    @model_validator(mode="after")
    def _poolable(self) -> Self:
        if not self.network_pool:
            return self
        if self.network != _SAFE.network:
            raise ValueError(f"network_pool: found network {self.network}; allowed: {_SAFE.network}")
        kept = [] if "ALL" in self.capabilities.drop else sorted({*DROPPED_CAPABILITIES} - {*self.capabilities.drop})
        if more := [*kept, *self.capabilities.add]:
            raise ValueError(f"network_pool: found capabilities beside the usual, {', '.join(more)}; allowed: none")
        return self

    def container(self) -> ContainerPolicy:
        """What every container is made with."""
        return ContainerPolicy(
            network=self.network,
            cap_drop=self.capabilities.drop,
            cap_add=self.capabilities.add,
            pids_limit=self.limits.pids,
        )
