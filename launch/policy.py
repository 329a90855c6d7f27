"""`agent.yaml`: what an operator lets the jobs of an agent ask for, and what their containers are made with.

This is an allow-list: what has no key here can't be had by any job (privileged mode, other namespaces, other security
options). Folders and devices of the worker have names here, and jobs ask for names alone. The defaults are what an
agent without a file does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from launch.core.image_patterns import check_pattern
from launch.fields import Cpus, Duration, Memory, Name, S3Url, Spec

DROPPED_CAPABILITIES = ("AUDIT_WRITE", "MKNOD", "NET_RAW", "SYS_CHROOT")
"""What is taken from the engine's default set. Jobs need none of these: device nodes, forged packets on the bridge,
audit records, chroot. What stays (chown, setuid, setgid, fowner, dac_override, kill, net_bind_service, ...) is what
entrypoints that drop to another user and package managers use, so ordinary images keep working."""

PIDS_LIMIT = 4096
"""Processes and threads; a fork bomb ends here. Data loaders with hundreds of threads fit."""

ENGINE_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""What the engine gives to a container of which nothing else is said."""

GRANTABLE_CAPABILITIES = tuple(sorted({*ENGINE_CAPABILITIES, "IPC_LOCK", "SYS_NICE", "SYS_PTRACE"}))
"""What an operator may add: the engine's own, and what pinned memory, priorities and profilers need within a container.

No others: each of the rest (SYS_ADMIN, NET_ADMIN, SYS_MODULE, DAC_READ_SEARCH, BPF, ...) is a way to the host.
"""


POOLED_NETWORK = "bridge"
"""The network whose namespaces can be kept ready."""

NETWORK_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"


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
    if not re.fullmatch(NETWORK_PATTERN, text, re.ASCII):
        raise ValueError(f"found {text[:80]!r}; allowed: none, or the name of one of the engine's networks")
    return text


def _safe_network(value: object) -> str:
    text = str(value)
    if not re.fullmatch(NETWORK_PATTERN, text, re.ASCII) or text.lower() in ("host", "default"):
        raise ValueError(f"found {text[:80]!r}; allowed: bridge, none, or the name of a network of the engine's own")
    return text


_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,127}", re.ASCII)
_HOST_PATH = re.compile(r"/[^\0\n]{0,1023}")
_THE_HOSTS = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/containerd", "/var/lib/docker", "/var/run")
"""Whoever may write there, and often who may only read, has the machine; the engine's socket lies there too."""


def _source(value: object) -> str:
    text = str(value)
    if _VOLUME.fullmatch(text):
        return text
    parts = text.strip("/").split("/") if text != "/" else []
    if not _HOST_PATH.fullmatch(text) or not all(part not in ("", ".", "..") for part in parts):
        raise ValueError(f"found {text[:80]!r}; allowed: an absolute path on the worker, or the name of a volume")
    path = "".join(f"/{part}" for part in parts)
    if any(f"{path}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{path}/") for theirs in _THE_HOSTS):
        raise ValueError(
            f"found {text[:80]!r}; allowed: a folder that neither is, holds nor is in {', '.join(_THE_HOSTS)}"
        )
    return path


_DEVICE = re.compile(r"/dev(/[A-Za-z0-9_:+@-][A-Za-z0-9_:+@.-]{0,99}){1,8}", re.ASCII)
_WAYS_OUT = re.compile(
    r"/dev/(mem|kmem|port|kmsg|mapper|disk|block|char|raw|bsg|fd[0-9]|sg[0-9]|st[0-9]|nst[0-9]"
    r"|(sd|hd|vd|xvd|nvme|dm-|md|loop|sr|zram|nbd|rbd|drbd|bcache|mmcblk|pmem|mtd|ubi).*)(/.*)?"
)
"""The kernel's memory and log, and disks: by their own names, by the numbers of devices, and past the file system."""


def _device(value: object) -> str:
    text = str(value)
    if not _DEVICE.fullmatch(text) or _WAYS_OUT.fullmatch(text):
        raise ValueError(
            f"found {text[:80]!r}; allowed: a device's path below /dev, no disk and no memory of the kernel"
        )
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
_SOME: Any = {"max_length": 100, "json_schema_extra": {"minItems": 1}}


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    """Unlike a field's own `min_length`, says nothing of a list whose items were refused."""
    if not value:
        raise ValueError("found an empty list; allowed: 1 to 100 items")
    return value


_FLAG = WithJsonSchema({"type": "boolean"})

Capability = Annotated[str, BeforeValidator(_capability), _STRING]
"""A capability as the kernel names it, without `CAP_`."""
Network = Annotated[str, BeforeValidator(_network), _STRING]
"""The name of a network of the engine's."""
Grantable = Annotated[str, BeforeValidator(_grantable), _STRING]
ImagePattern = Annotated[str, BeforeValidator(lambda value: check_pattern(str(value))), _STRING]
Patterns = Annotated[tuple[ImagePattern, ...], Field(max_length=1000)]
Flag = Annotated[bool, BeforeValidator(_flag), _FLAG]
Devices = Annotated[
    tuple[Annotated[str, BeforeValidator(_device), _STRING], ...], Field(**_SOME), AfterValidator(_not_empty)
]
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

    @property
    def open(self) -> bool:
        """Whether every user will do."""
        return self.allow_root and self.uids is None


class CapabilityRules(Spec):
    """Which of root's powers containers have."""

    drop: tuple[Capability, ...] = DROPPED_CAPABILITIES
    """What is taken from the engine's usual set in every container; `ALL` for all of it."""
    add: tuple[Grantable, ...] = ()
    """What is given to every container beside that; only what stays within a container can be named."""
    allow: tuple[Grantable, ...] = ()
    """What a job may ask for beside that, in `capabilities`."""

    @property
    def had(self) -> frozenset[str]:
        """What every container has."""
        usual = () if "ALL" in self.drop else set(ENGINE_CAPABILITIES) - set(self.drop)
        return frozenset({*usual, *self.add})


class MountRule(Spec):
    """A folder of the worker that jobs may have by its name."""

    source: Annotated[str, BeforeValidator(_source), _STRING]
    """The folder's absolute path on the worker, which must be there, or the name of one of the engine's volumes."""
    writable: Flag = False
    """Whether jobs may ask to write to it."""


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
    stop_grace: Duration = 3600.0
    """How long a job may go on after it was told to stop, whoever told it: by its timeout, by a cancel, by a drain."""
    pids: Annotated[int, Field(ge=16, le=4_000_000)] = PIDS_LIMIT
    """Processes and threads that a container may have at once; the same for every job."""


class AgentPolicy(Spec):
    """The whole of `agent.yaml`."""

    images: ImageRules = ImageRules()
    """Rules on a job's image."""
    networks: Annotated[
        tuple[Annotated[str, BeforeValidator(_safe_network), _STRING], ...], Field(**_SOME), AfterValidator(_not_empty)
    ] = ("bridge",)
    """The networks that jobs may be on, `bridge` or ones that the operator made; never the host's own. The first is for
    jobs that name none; `none` may always be asked for."""
    network_pool: Flag = False
    """Whether jobs on `bridge` get network namespaces that are made ahead, and used again while nothing is left in
    them: a short job then takes less than half the time. Only where no container has more capabilities than by default;
    a job that asks for one, or for a device, has a namespace of its own."""
    mounts: Annotated[dict[Name, MountRule], Field(max_length=100)] = Field(default_factory=dict)
    """Folders and volumes of the worker that jobs may ask for by these names."""
    devices: Annotated[dict[Name, Devices], Field(max_length=100)] = Field(default_factory=dict)
    """Devices of the worker that jobs may ask for by these names; GPUs need none, they are `resources`."""
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
        if POOLED_NETWORK not in self.networks:
            found = ", ".join(self.networks)
            raise ValueError(f"network_pool: found networks {found}; allowed: {POOLED_NETWORK} among them")
        dropped = self.capabilities.drop
        kept = [] if "ALL" in dropped else sorted({*DROPPED_CAPABILITIES} - {*dropped})
        if more := [*kept, *self.capabilities.add]:
            raise ValueError(f"network_pool: found capabilities beside the usual, {', '.join(more)}; allowed: none")
        return self

    def text(self) -> str:
        """A file that means this; what is as by default is left out, so agents of other versions may read it, too."""
        return self.model_dump_json(exclude_defaults=True)
