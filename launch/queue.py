"""What a user asks for when making a queue: the `QueueSpec` and its provider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from launch.aws import AwsProvider
from launch.core.registry import HOST_PATTERN, ecr_region, host_of
from launch.fields import Cpus, Duration, Env, Image, Memory, Name, S3Url, Scalar, SecretName, SecretRef, Spec
from launch.job import JobSpec, Resources

__all__ = ["AwsProvider", "JobDefaults", "LocalProvider", "Provider", "QueueSpec", "StaticProvider"]


class LocalProvider(Spec):
    """Workers are agent processes on the machine that the scaler runs on."""

    type: Literal["local"] = "local"
    cpu: Cpus | None = None
    """CPUs that one agent offers. Unset: the machine's, divided by `max_instances`."""
    memory: Memory | None = None
    """Memory that one agent offers. Unset: the machine's, divided by `max_instances`."""
    credentials: Annotated[str, Field(pattern=r"^[/~]", max_length=4096)] | None = None
    """The agents' login to NATS: a .creds file, or one with an nkey's seed, on the scaler's machine, such as
    /etc/launch/agent.nk. Unset: the scaler's own, if that may work as an agent."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            type: Literal["local"] = "local",  # noqa: A002  (the field's name)
            cpu: Scalar | None = None,
            memory: Scalar | None = None,
            credentials: str | None = None,
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


class RegistryLogin(Spec):
    """A user of a private registry."""

    username: Annotated[str, Field(min_length=1, max_length=255)]
    """The user's name."""
    password: SecretRef
    """The password (or access token), as `{secret: NAME}`: the agent looks it up."""


_SECRET_NAME: TypeAdapter[str] = TypeAdapter(SecretName)


def _registry_auth(value: object) -> object:
    """What was found is not repeated: people put the password itself here."""
    if value == "ecr" or isinstance(value, RegistryLogin):
        return value
    if isinstance(value, dict) and set(value) == {"username", "password"}:
        user, password = value["username"], value["password"]
        if (
            isinstance(user, str)
            and 0 < len(user) <= 255
            and isinstance(password, dict)
            and set(password) == {"secret"}
        ):
            try:
                name = _SECRET_NAME.validate_python(password["secret"])
            except ValueError:
                pass
            else:
                return RegistryLogin(username=user, password=SecretRef(secret=name))
    raise ValueError("found something else than a login; allowed: ecr, or {username: NAME, password: {secret: NAME}}")


def _registry_host(value: object) -> object:
    host = host_of(value) if isinstance(value, str) else ""
    if "@" in str(value) or not re.fullmatch(HOST_PATTERN, host, re.ASCII):
        raise ValueError(
            "found something else than a registry; allowed: its host, such as ghcr.io or registry.lan:5000"
        )
    return host


RegistryAuth = Literal["ecr"] | RegistryLogin
"""How one registry is logged in to: by a token of ECR, or as a user."""
RegistryAuths = Annotated[
    dict[Annotated[str, BeforeValidator(_registry_host)], Annotated[RegistryAuth, BeforeValidator(_registry_auth)]],
    Field(max_length=64),
]


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
    registry_auth: RegistryAuths = Field(default_factory=dict)
    """Logins to private registries, by host: `ecr`, or a username and a password that the agent looks up."""

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
            registry_auth: Mapping[str, RegistryAuth | Mapping[str, object]] = {},
        ) -> None: ...

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"found min_instances {self.min_instances} with max_instances {self.max_instances}; "
                "allowed: min_instances of at most max_instances"
            )
        for host, auth in self.registry_auth.items():
            if auth == "ecr" and ecr_region(host) is None:
                raise ValueError(f"found ecr for {host}; allowed: ecr for NUMBER.dkr.ecr.REGION.amazonaws.com alone")
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
