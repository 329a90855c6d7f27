"""Which login a registry is asked with: the queue's, Docker's own on this machine, or a token of ECR, in this order.

Invariant: a password goes from where it lies to the engine's header, and nowhere else: not to the log, the record or
an error's message. What the record may name is where a login came from.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from agent.core.outcome import Unready
from agent.core.registry_login import Credential
from agent.ports import Login, LoginSource, SecretRefused, SecretUnavailable
from agent.secrets import Secrets
from launch.core.states import Reason
from launch.queue import RegistryAuth, RegistryLogin

_log = structlog.get_logger(__name__)


class Registries:
    """Finds logins. Without `docker` and `ecr` it knows those of the queue alone."""

    def __init__(self, secrets: Secrets, docker: LoginSource | None = None, ecr: LoginSource | None = None) -> None:
        self._secrets = secrets
        self._docker = docker
        self._ecr = ecr

    async def login(self, registry: str, given: Mapping[str, RegistryAuth]) -> Login:
        """The login for `registry`, by the queue's `registry_auth`; one without a credential if there is none.

        Raises `Unready` if the queue names one that can't be had.
        """
        try:
            asked = given.get(registry)
            if isinstance(asked, RegistryLogin):
                name = asked.password.secret
                password = await self._secrets.value(name, f"registry_auth of {registry}")
                return Login(Credential(asked.username, password), "the queue's registry_auth")
            if asked is not None and self._ecr is not None and (login := await self._ecr.login(registry)):
                return login
        except SecretRefused as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise Unready(Reason.IMAGE_UNAUTHORIZED, f"no login for {registry}: {error.message}{hint}") from None
        except SecretUnavailable as error:
            raise Unready(Reason.IMAGE_PULL_FAILED, f"no login for {registry}: {error.message}") from None
        found = await self._docker.login(registry) if self._docker is not None else None
        if found is not None and found.credential is not None:
            return found
        return await self._by_role(registry) or found or Login(None, "no login")

    async def close(self) -> None:
        """Let go of every source. Idempotent."""
        for source in (self._docker, self._ecr):
            if source is not None:
                await source.close()

    async def _by_role(self, registry: str) -> Login | None:
        """What nobody asked for but a machine's role may give; it may just as well have none."""
        if self._ecr is None:
            return None
        try:
            return await self._ecr.login(registry)
        except (SecretRefused, SecretUnavailable) as error:
            _log.warning("no token for the registry", registry=registry, error=error.message)
            return Login(None, "no login", error.message)
