"""What a user asks for when submitting a job: the `JobSpec`, in YAML files and as JSON on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from launch.core.capacity import Amount
from launch.fields import (
    ContainerPath,
    Count,
    Cpus,
    Duration,
    Env,
    Image,
    JobIdText,
    Labels,
    Memory,
    Name,
    S3Url,
    Scalar,
    SecretRef,
    Sha256,
    Spec,
    Text,
    Words,
    WordsGiven,
)
from launch.policy import Capability, Network


class Pull(StrEnum):
    """When a job's image is fetched from its registry."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"


def _pull(value: object) -> object:
    if value not in tuple(Pull):
        raise ValueError(f"found {str(value)[:60]!r}; allowed: {', '.join(Pull)}")
    return value


class Resources(Spec):
    """What the job needs. It holds this much of the worker while it runs, and is limited to it."""

    cpu: Cpus | None = None
    """CPUs; fractions are fine. Unset: no share held, no limit."""
    gpu: Annotated[int, Field(ge=0, le=64)] = 0
    """Whole GPUs, never shared between jobs."""
    memory: Memory | None = None
    """Bytes of memory. Unset: none held, no limit."""

    if TYPE_CHECKING:

        def __init__(self, *, cpu: Scalar | None = None, gpu: int = 0, memory: Scalar | None = None) -> None: ...

    def amount(self) -> Amount:
        """The vector that this holds of a worker, one job slot included."""
        return Amount(cpu_milli=round((self.cpu or 0.0) * 1000), memory_bytes=self.memory or 0, gpus=self.gpu, slots=1)


class CodeRef(Spec):
    """A packed folder in the `code` store: made by `launch submit --code DIR`, unpacked before the job starts."""

    sha256: Sha256
    """Of the packed folder (a gzipped tar), and its name in the store."""
    size: Count
    """Bytes, packed."""
    commit: Text | None = None
    """The git commit of the folder, where it lies in a git work tree."""
    dirty: bool | None = None
    """Whether the folder differs from that commit. Unset: not in a git work tree."""


class Input(Spec):
    """Files that are put into the container before it starts: another job's artifacts, or what lies under a prefix."""

    job: JobIdText | None = None
    """The job whose artifacts these are; it must be over."""
    s3: S3Url | None = None
    """The prefix whose objects these are."""
    path: ContainerPath | None = None
    """The folder that they go to. Unset: a folder of their own in `$LAUNCH_INPUTS`."""

    if TYPE_CHECKING:

        def __init__(self, *, job: str | None = None, s3: str | None = None, path: str | None = None) -> None: ...

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.job is None) == (self.s3 is None):
            raise ValueError("found " + ("neither" if self.job is None else "both") + "; allowed: either job or s3")
        return self


class Mount(Spec):
    """A folder of the worker, by the name that its operator has given it; the agent's policy says which there are."""

    name: Name
    """The folder's name in the agent's policy."""
    path: ContainerPath
    """Where it is in the container."""
    writable: bool = False
    """Whether the job writes to it, if the policy allows that."""


_TAKEN = ("/launch", "/dev", "/proc", "/sys")


def _apart(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """What is put into a container, kernel and engine included, is not hidden by a folder of the worker."""
    paths = [*_TAKEN, *(mount.path for mount in mounts)]
    for number, path in enumerate(paths):
        for other in paths[max(number + 1, len(_TAKEN)) :]:
            if f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/"):
                raise ValueError(f"found {other[:80]} beside {path[:80]}; allowed: paths of which none lies in another")
    return mounts


class JobSpec(Spec):
    """One job: an image, a command, and what it needs.

    Numbers in `command` and `env` reach the container as the text that was written (`0.001` stays `0.001`).
    """

    job_type: Name | None = None
    """Which kind of job this is; with the queue it makes the subject `queue.<queue>.<job_type>`."""
    name: Annotated[Text, Field(max_length=200)] | None = None
    """A title for people."""
    image: Image
    """The container image, such as `python:3.12`."""
    pull: Annotated[Pull, BeforeValidator(_pull), WithJsonSchema({"enum": list(Pull)})] = Pull.MISSING
    """When the image is fetched: always, if it is missing on the worker (also `:latest`), or never."""
    entrypoint: Words | None = None
    """Replaces the image's entrypoint. Unset: the image's own."""
    command: Words = ()
    """The command and its arguments, as a list. Empty: the image's own."""
    env: Env = Field(default_factory=dict)
    """Environment variables; `{secret: NAME}` instead of a value is looked up by the agent."""
    workdir: Text | None = None
    """Working directory in the container. Unset: the image's own."""
    user: Text | None = None
    """User (and group) in the container, such as `1000:1000`. Unset: the image's own."""
    resources: Resources = Resources()
    """What the job needs."""
    network: Network | None = None
    """The container's network: one that the agent's policy allows, or `none`. Unset: the policy's first."""
    mounts: Annotated[tuple[Mount, ...], Field(max_length=32), AfterValidator(_apart)] = ()
    """Folders of the worker, by the names that the agent's policy gives them."""
    devices: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    """Devices of the worker, by the names that the agent's policy gives them; GPUs are `resources`."""
    capabilities: Annotated[tuple[Capability, ...], Field(max_length=32)] = ()
    """Capabilities beside the usual ones, such as SYS_PTRACE, if the agent's policy allows them."""
    timeout: Duration | None = None
    """How long one attempt may run before it is stopped as `timed_out`. Unset: as long as it wants."""
    expire_after: Duration | None = None
    """How long the job may wait before it is started for the first time; then it ends as `expired`. Unset: for ever."""
    retries: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many more times to try when the job itself fails. Infrastructure faults never spend these."""
    stop_grace: Duration = 10.0
    """How long after SIGTERM the container gets before SIGKILL."""
    shm_size: Memory | None = None
    """Size of /dev/shm. Unset: the engine's default."""
    max_log_bytes: Memory | None = None
    """Output beyond this many bytes an attempt is dropped, with a line that says so. Unset: the agent's limit."""
    tty: bool = False
    """Give the job a terminal: programs then print colours and progress bars, and both outputs are one."""
    code: CodeRef | None = None
    """A packed folder, unpacked in the working directory before the job starts."""
    inputs: Annotated[tuple[Input, ...], Field(max_length=64)] = ()
    """Files that are put into the container before it starts."""
    artifacts: Annotated[tuple[ContainerPath, ...], Field(max_length=64)] = ()
    """Files and folders that are kept after the job's end, beside what it leaves in `$LAUNCH_ARTIFACTS`."""
    checkpoint_every: Duration = 60.0
    """How often `$LAUNCH_CHECKPOINT` is looked at, and saved if it has changed, while the job runs."""
    labels: Labels = Field(default_factory=dict)
    """The user's own marks, shown and searched, never interpreted."""

    @model_validator(mode="after")
    def _nothing_put_into_mounts(self) -> Self:
        """The engine unpacks as root, whoever the job runs as: that is for the container's own folders."""
        put = [("an input", given.path) for given in self.inputs]
        if self.code is not None:
            put.append(("the code", self.workdir))
        for what, path in put:
            for mount in self.mounts:
                if path is not None and f"{path.rstrip('/')}/".startswith(f"{mount.path}/"):
                    raise ValueError(f"found {what} for {path[:80]} in the mount '{mount.name}'; allowed: another path")
        return self

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            job_type: str | None = None,
            name: Scalar | None = None,
            image: str,
            pull: Pull | Literal["always", "missing", "never"] = ...,
            entrypoint: WordsGiven | None = None,
            command: WordsGiven = (),
            env: Mapping[str, Scalar | SecretRef | Mapping[str, str]] = {},
            workdir: str | None = None,
            user: str | int | None = None,
            resources: Resources = ...,
            network: str | None = None,
            mounts: Sequence[Mount] = (),
            devices: Sequence[str] = (),
            capabilities: Sequence[str] = (),
            timeout: Scalar | None = None,
            expire_after: Scalar | None = None,
            retries: int = 0,
            stop_grace: Scalar = 10.0,
            shm_size: Scalar | None = None,
            max_log_bytes: Scalar | None = None,
            tty: bool = False,
            code: CodeRef | None = None,
            inputs: Sequence[Input] = (),
            artifacts: Sequence[str] = (),
            checkpoint_every: Scalar = 60.0,
            labels: Mapping[str, Scalar] = {},
        ) -> None: ...
