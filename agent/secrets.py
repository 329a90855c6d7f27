"""From the secrets that a job names to their values, when its container is about to be made.

A submitter writes `env: {WANDB_API_KEY: {secret: wandb-key}}`; the agent's operator says with `--secrets` where names
are looked up, and the agent does so for each attempt anew: nothing is cached, so a retry gets a rotated value.

What is protected: a value goes from its source to the environment of the container, and nowhere else. It is not in
the queue, the record and its history, labels, metrics, what the agent logs, or messages of errors; in the job's own
output it is masked (`agent.core.mask` says how far that goes). A job can name only what the sources' prefixes leave it:
no other variable of the agent, no other file, no other parameter.

What is not: who may inspect containers on the worker (who can reach the Docker socket, root) sees the environment that
a container was given; the engine keeps it on disk until the container is removed. A job gets what it names, so whoever
may publish to a queue may use, and give away, every secret that the agents of this queue can look up: give queues of
different trust different agents with different prefixes. Files that a job writes (artifacts, checkpoints) and what it
sends over the network are not looked into.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from agent.core.mask import Mask, too_short
from agent.core.secret_source import Kind, Source, parse_source, references
from agent.ports import SecretRefused, SecretStore, SecretUnavailable
from launch.errors import LaunchError
from launch.job import JobSpec

MAX_SECRET_BYTES: Final = 64 * 1024
LARGE: Final = 1024
"""Values with more characters take so long to make a mask of (a key of 1,700 takes 14 ms) that a thread does it."""

_log = structlog.get_logger(__name__)


class Secrets:
    """Looks secrets up in the given stores, in their order; the first that has one counts."""

    def __init__(self, stores: Sequence[SecretStore] = ()) -> None:
        self._stores = tuple(stores)

    async def resolve(self, spec: JobSpec) -> Mapping[str, str]:
        """The job's environment with every secret in its place.

        Raises `SecretRefused` if one does not exist, or can't be used: to try again does not help; and
        `SecretUnavailable` if a source does not answer. Neither has a value in its message.
        """
        found: dict[str, str] = {}
        missing: dict[str, str] = {}
        for variable, name in references(spec).items():
            if name in found or name in missing:
                continue
            value = await self._look_up(name, variable)
            if value is None:
                missing[name] = variable
            else:
                found[name] = value
        if missing:
            raise SecretRefused(self._not_found(missing))
        return {
            variable: value if isinstance(value, str) else found[value.secret] for variable, value in spec.env.items()
        }

    async def value(self, name: str, purpose: str) -> str:
        """One secret that the agent itself needs, for `purpose`. Raises as `resolve` does."""
        value = await self._look_up(name, purpose)
        if value is None:
            raise SecretRefused(self._not_found({name: purpose}))
        return value

    async def close(self) -> None:
        """Let go of every store. Idempotent."""
        for store in self._stores:
            await store.close()

    async def _look_up(self, name: str, variable: str) -> str | None:
        what = f"secret '{name}' for {variable}"
        for store in self._stores:
            try:
                data = await store.get(name)
            except (SecretRefused, SecretUnavailable) as error:
                # Not passed over: the next source may have another value, or an old one.
                raise type(error)(f"{what}: {error.message}", hint=error.hint) from None
            if data is not None:
                return _text(data, f"{what}: {store.source.place(name)}")
        return None

    def _not_found(self, missing: Mapping[str, str]) -> str:
        names = ", ".join(f"'{name}' for {variable}" for name, variable in missing.items())
        asked = ", ".join(store.source.place(name) for name in missing for store in self._stores)
        where = f"asked: {asked}" if asked else "this agent was given no source of secrets"
        return f"{'secret' if len(missing) == 1 else 'secrets'} {names} not found; {where}"


def _text(data: bytes, what: str) -> str:
    """A value that can be put into an environment."""
    if len(data) > MAX_SECRET_BYTES:
        raise SecretRefused(f"{what} is larger than {MAX_SECRET_BYTES // 1024} KiB")
    if b"\0" in data:
        raise SecretRefused(f"{what} has a NUL byte in it, which no environment variable can have")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Not chained: the error holds the bytes.
        raise SecretRefused(f"{what} is no UTF-8 text, which an environment variable must be") from None


async def mask_of(spec: JobSpec, env: Mapping[str, str], job: str) -> Mask:
    """The mask on what this job prints, from the values of its secret variables.

    `env` may have other variables, too. A value that is too short to be masked is told by its variable's name.
    """
    values = {variable: env[variable] for variable in references(spec) if variable in env}
    if short := too_short(values):
        _log.warning("too short to be masked in the job's output", job=job, variables=",".join(short))
    if sum(map(len, values.values())) < LARGE:
        return Mask(values.values())
    return await asyncio.to_thread(Mask, values.values())


async def open_secrets(sources: Iterable[str]) -> Secrets:
    """The sources as an operator wrote them, ready to be asked. Raises `LaunchError` if one can't be meant or used."""
    stores: list[SecretStore] = []
    for text in sources:
        try:
            source = parse_source(text)
        except ValueError as error:
            raise LaunchError(f"a source of secrets: {error}") from None
        stores.append(await asyncio.to_thread(_store, source))
    return Secrets(stores)


def _store(source: Source) -> SecretStore:
    """Blocks: an AWS client reads its models from disk."""
    if source.kind in (Kind.SSM, Kind.SECRETS_MANAGER):
        from agent.adapters.aws_secrets import AwsSecrets

        return AwsSecrets.prepared(source)
    from agent.adapters.local_secrets import DirSecrets, EnvSecrets

    return EnvSecrets(source) if source.kind is Kind.ENV else DirSecrets(source)
