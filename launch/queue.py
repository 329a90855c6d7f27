"""What a user asks for when making a queue: the `QueueSpec` and its provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from launch.aws import AwsProvider
from launch.fields import Cpus, Duration, Env, Image, Memory, Name, S3Url, Scalar, SecretRef, Spec
from launch.job import JobSpec, Resources

__all__ = ["AwsProvider", "JobDefaults", "LocalProvider", "Provider", "QueueSpec", "StaticProvider"]


class LocalProvider(Spec):
    """Workers are agent processes on the machine that the scaler runs on."""

    type: Literal["local"] = "local"
    cpu: Cpus | None = None
    """CPUs that one agent offers. Unset: the machine's, divided by `max_instances`."""
    memory: Memory | None = None
    """Memory that one agent offers. Unset: the machine's, divided by `max_instances`."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            type: Literal["local"] = "local",  # noqa: A002  (the field's name)
            cpu: Scalar | None = None,
            memory: Scalar | None = None,
        ) -> None: ...


class StaticProvider(Spec):
    """Workers exist already and run `launch agent` themselves; nothing is started or stopped."""

    type: Literal["static"] = "static"


_Tagged = Annotated[LocalProvider | StaticProvider | AwsProvider, Field(discriminator="type")]


def _provider(value: object) -> object:
    """`local` for short is `{type: local}`."""
    return {"type": value} if isinstance(value, str) else value


Provider = Annotated[_Tagged, BeforeValidator(_provider, json_schema_input_type=Literal["local", "static"] | _Tagged)]
"""Where workers come from; one that needs no settings may be written as its type alone."""


class JobDefaults(Spec):
    """What a job of this queue gets where it says nothing itself."""

    env: Env = Field(default_factory=dict)
    """Environment variables; a job's own win."""
    resources: Resources = Resources()
    """Resources; each one that a job names itself wins."""
    timeout: Duration | None = None
    """Time limit of an attempt."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            env: Mapping[str, Scalar | SecretRef | Mapping[str, str]] = {},
            resources: Resources = ...,
            timeout: Scalar | None = None,
        ) -> None: ...


class QueueSpec(Spec):
    """One queue: its name, who works for it, and between which bounds."""

    queue_name: Name
    """The queue's name; jobs are published on `queue.<queue_name>.<job_type>`."""
    provider: Provider = LocalProvider()
    """Where workers come from."""
    min_instances: Annotated[int, Field(ge=0, le=10_000)] = 0
    """This many workers are kept even when there is nothing to do."""
    max_instances: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Never more workers than this."""
    agent_image: Image | None = None
    """The image that a started machine runs the agent from (aws)."""
    idle_timeout: Duration | None = None
    """How long a worker may hold nothing before it is stopped. Unset: as long as its boot is worth, 1m for local."""
    defaults: JobDefaults = JobDefaults()
    """What a job gets where it says nothing itself."""
    job_types: tuple[Name, ...] | None = None
    """The only types that this queue's workers take. Unset: any."""
    max_jobs_per_agent: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many jobs one worker runs at a time. Unset: one a CPU."""
    artifacts: S3Url | None = None
    """Where artifacts and checkpoints are kept. Unset: in NATS, with the rest."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            queue_name: str,
            provider: LocalProvider | StaticProvider | AwsProvider | Literal["local", "static"] = ...,
            min_instances: int = 0,
            max_instances: int = 1,
            agent_image: str | None = None,
            idle_timeout: Scalar | None = None,
            defaults: JobDefaults = ...,
            job_types: list[str] | tuple[str, ...] | None = None,
            max_jobs_per_agent: int | None = None,
            artifacts: str | None = None,
        ) -> None: ...

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"found min_instances {self.min_instances} with max_instances {self.max_instances}; "
                "allowed: min_instances of at most max_instances"
            )
        return self

    def with_defaults(self, job: JobSpec) -> JobSpec:
        """`job` as it will run in this queue: what it leaves open is filled from `defaults`."""
        given = job.resources.model_dump(exclude_unset=True, exclude_none=True)
        base = self.defaults.resources.model_dump(exclude_none=True)
        return job.model_copy(
            update={
                "env": {**self.defaults.env, **job.env},
                "resources": Resources.model_validate({**base, **given}),
                "timeout": job.timeout if job.timeout is not None else self.defaults.timeout,
            }
        )
